"""CIFAR-FS (Bertinetto et al. 2019): CIFAR-100 with its classes divided at random."""

from pathlib import Path

from few_shot_nas.data.image_files import ImageFile, folder_members, is_hidden
from few_shot_nas.data.layouts import ArrayPickles, ClassFolders, Content, Layout, LayoutSource, from_files
from few_shot_nas.data.lists import read_text
from few_shot_nas.data.sources.cifar100 import MEAN, STD, WHERE, Cifar100Python
from few_shot_nas.errors import InputError
from few_shot_nas.ranges import ImageSize

# The published lists; the other 64 classes are train.
_HELD_OUT = {
    "val": (
        "beaver beetle butterfly camel cattle crab crocodile flatfish lamp maple_tree motorcycle otter sea shark "
        "television tractor"
    ),
    "test": (
        "baby bed bicycle chimpanzee fox leopard man pickup_truck plain poppy rocket rose snail sweet_pepper table "
        "telephone wardrobe whale woman worm"
    ),
}
_SPLIT = {name: split for split, names in _HELD_OUT.items() for name in names.split()}


def split_of(fine: str, coarse: str) -> str:
    """Return the split of a CIFAR-100 class."""
    return _SPLIT.get(fine, "train")


class BertinettoLists(Layout):
    """``data/<class>/*.png`` with the names of each split's classes in ``splits/bertinetto/{split}.txt``."""

    name = "bertinetto lists + images"
    expects = "cifar100/data/<class>/*.png with cifar100/splits/bertinetto/{train,val}.txt"

    def has(self, root: Path, split: str) -> bool:
        """Return whether the list is there, and the folder of images."""
        return self._list(root, split).is_file() and (root / "data").is_dir()

    def files(self, root: Path, split: str) -> list[Path]:
        """Return the list and every image."""
        images = [file.path for files in self._classes(root, split).values() for file in files]
        return [self._list(root, split), *images]

    def read(self, root: Path, split: str) -> Content:
        """Return the classes in the order of the list."""
        return from_files(self._classes(root, split))

    def _classes(self, root: Path, split: str) -> dict[str, list[ImageFile]]:
        classes = {}
        for name in self._names(root, split):
            place = root / "data" / name
            classes[name] = folder_members(place) if place.is_dir() else []
            if not classes[name]:
                raise InputError(f"{self._list(root, split)}: lists {name}, and {place} has no images")
        return classes

    def _list(self, root: Path, split: str) -> Path:
        return root / "splits" / "bertinetto" / f"{split}.txt"

    def _names(self, root: Path, split: str) -> list[str]:
        return [name for name in read_text(self._list(root, split)).split() if not is_hidden(name)]


_LAYOUTS: tuple[Layout, ...] = (
    BertinettoLists(),
    ClassFolders(),
    ArrayPickles(
        "RFS pickles",
        "CIFAR_FS_{train,val}.pickle",
        {split: (f"CIFAR_FS_{split}.pickle",) for split in ("train", "val", "test")},
    ),
    Cifar100Python(split_of),
)


class CIFARFS(LayoutSource):
    """Small colour photographs, 64/16/20 classes of 600 images, 32x32.

    The first of these layouts that has train and val is used, in ``data_dir`` or its folders ``cifar100``,
    ``cifar-fs``, ``CIFAR-FS`` or ``CIFAR_FS``:

    - ``data/<class>/*.png`` with ``splits/bertinetto/{train,val,test}.txt``, as ``cifar100.zip`` unpacks;
    - folders ``{train,val,test}/<class>/*.png``;
    - ``CIFAR_FS_{train,val,test}.pickle``: keys ``data`` and ``labels``, numbers of CIFAR-100;
    - ``cifar-100-python/{train,test,meta}``, as torchvision downloads it; the class lists are built in.

    Other sizes are made by Lanczos. Normalised by the channel statistics of CIFAR-100's training images.

    Args:
        data_dir: folder with the data.
        cache_dir: folder for the packed images; at 32 pixels they take 0.2 GB.
        image_size: height and width in pixels.
    """

    name = "CIFARFS"
    mean, std = MEAN, STD
    published = {"train": (64, 38_400), "val": (16, 9_600), "test": (20, 12_000)}
    roots = (".", "cifar100", "cifar-fs", "CIFAR-FS", "CIFAR_FS")
    advice = f"{WHERE}; cifar100.zip is at github.com/bertinetto/r2d2"

    def __init__(
        self, data_dir: str = "data", cache_dir: str = "~/.cache/few_shot_nas", image_size: ImageSize = 32
    ) -> None:
        super().__init__(data_dir, cache_dir, image_size)

    def layouts(self) -> tuple[Layout, ...]:
        """Return those listed above."""
        return _LAYOUTS
