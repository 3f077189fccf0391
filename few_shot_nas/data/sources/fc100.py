"""FC100 (Oreshkin et al. 2018, TADAM): CIFAR-100 divided by superclasses, so that the splits have little in common."""

from few_shot_nas.data.layouts import ArrayPickles, ClassFolders, Layout, LayoutSource
from few_shot_nas.data.sources.cifar100 import MEAN, STD, WHERE, Cifar100Python
from few_shot_nas.ranges import ImageSize

# Superclasses, CIFAR-100's numbers 8, 11, 13, 16 and 0, 7, 12, 14; the other 12 are train.
_SPLIT = {
    "large_carnivores": "val",
    "large_omnivores_and_herbivores": "val",
    "non-insect_invertebrates": "val",
    "small_mammals": "val",
    "aquatic_mammals": "test",
    "insects": "test",
    "medium_mammals": "test",
    "people": "test",
}


def split_of(fine: str, coarse: str) -> str:
    """Return the split of a CIFAR-100 class."""
    return _SPLIT.get(coarse, "train")


_LAYOUTS: tuple[Layout, ...] = (
    ClassFolders(),
    ArrayPickles(
        "FC100 pickles",
        "FC100_{train,val}.pickle",
        {split: (f"FC100_{split}.pickle",) for split in ("train", "val", "test")},
    ),
    Cifar100Python(split_of),
)


class FC100(LayoutSource):
    """Small colour photographs, 60/20/20 classes of 600 images, 32x32; the classes of 12, 4 and 4 superclasses.

    The first of these layouts that has train and val is used, in ``data_dir`` or its folders ``FC100``, ``fc100`` or
    ``cifar100``:

    - folders ``{train,val,test}/<class>/*.png``;
    - ``FC100_{train,val,test}.pickle``: keys ``data`` and ``labels``;
    - ``cifar-100-python/{train,test,meta}``, as torchvision downloads it; the superclass lists are built in.

    Other sizes are made by Lanczos. Normalised by the channel statistics of CIFAR-100's training images.

    Args:
        data_dir: folder with the data.
        cache_dir: folder for the packed images; at 32 pixels they take 0.2 GB.
        image_size: height and width in pixels.
    """

    name = "FC100"
    mean, std = MEAN, STD
    published = {"train": (60, 36_000), "val": (20, 12_000), "test": (20, 12_000)}
    roots = (".", "FC100", "fc100", "cifar100")
    advice = f"{WHERE}; the pickles are those of github.com/kjunelee/MetaOptNet"

    def __init__(
        self, data_dir: str = "data", cache_dir: str = "~/.cache/few_shot_nas", image_size: ImageSize = 32
    ) -> None:
        super().__init__(data_dir, cache_dir, image_size)

    def layouts(self) -> tuple[Layout, ...]:
        """Return those listed above."""
        return _LAYOUTS
