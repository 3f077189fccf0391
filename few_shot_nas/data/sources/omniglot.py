"""Omniglot (Lake, Salakhutdinov and Tenenbaum 2015): 1623 handwritten characters of 50 alphabets, 20 images each."""

import random
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from few_shot_nas.data.image_files import Depth, ImageFile, archive_members, folder_members, folders_in, read_all
from few_shot_nas.data.lists import read_text
from few_shot_nas.data.source import SPLITS, Rotation, Source, SplitPlan
from few_shot_nas.errors import InputError
from few_shot_nas.ranges import ImageSize

Scheme = Literal["finn", "mamlpp", "reptile", "lake", "vinyals"]
Rotations = Literal["classes", "train_classes", "augment", "augment_all", "none"]
Characters = dict[str, list[ImageFile]]

_SETS = ("images_background", "images_evaluation")
_ROOTS = (".", "omniglot-py", "omniglot_dataset", "omniglot")
_MERGED = ("data", "images", ".")
_CLASS_FOLDER = re.compile(r"character\d+")
_FLAT_FOLDER = re.compile(r"(.+)_(character\d+)")
_SHUFFLED: dict[str, tuple[int, int, int]] = {
    "finn": (1100, 100, 423),
    "mamlpp": (1150, 50, 423),
    "reptile": (1180, 20, 423),
}
_ROTATION: dict[str, tuple[Rotation, Rotation]] = {  # in train, and in val and test
    "classes": ("classes", "classes"),
    "train_classes": ("classes", "none"),
    "augment": ("augment", "none"),
    "augment_all": ("augment", "augment"),
    "none": ("none", "none"),
}
_WHERE = "github.com/brendenlake/omniglot (python/images_background.zip, images_evaluation.zip), or download=True"


class _Layout(NamedTuple):
    """Where the characters lie: one place for a merged tree, else the background and the evaluation set."""

    kind: str
    places: tuple[Path, ...]


class Omniglot(Source):
    """Omniglot as white ink on black, fed as 0..1 without further normalisation, as all published results do.

    Accepted layouts, in ``data_dir`` or its folders ``omniglot-py`` (torchvision's), ``omniglot_dataset`` or
    ``omniglot``: the two official zips as they are; the folders they unpack to; one folder ``data`` or ``images``, or
    the place itself, with all alphabets merged. Classes are folders ``<Alphabet>/characterNN`` or, flattened,
    ``<Alphabet>_characterNN``.
    The 1-bit images are turned to grey before they are resized (Lanczos), so that strokes stay smooth.

    Class splits (a class is a character; sizes are train/val/test):

    - ``finn``, the default because most published 5-way and 20-way tables use its sizes: 1100/100/423. The names
      ``<Alphabet>/characterNN``, sorted, are shuffled by ``random.Random(1)``. The original depends on the order in
      which a disk lists its files, so its exact lists cannot be had.
    - ``mamlpp``: the sizes of MAML++, 1150/50/423, from the same shuffle.
    - ``reptile``: the original has 1200/423 and no validation classes. Choosing a model on test classes would be a
      leak, so here 20 of the 1200, enough for a 20-way task, are the val split: 1180/20/423, from the same shuffle.
      These three have the same 423 test characters.
    - ``lake``: test is the evaluation set, 659 characters of 20 alphabets none of which is in train or val. Of the
      background set's 30 alphabets, sorted, every sixth is val (5 alphabets) and the others are train. A merged tree
      cannot give this split, as it does not tell the sets apart.
    - ``vinyals``: the lists of Vinyals et al. as published with Prototypical Networks, 1028/172/423 characters. They
      are not shipped: put ``train.txt``, ``val.txt`` and ``test.txt`` (lines ``Angelic/character01/rot000``) into
      ``<data_dir>/splits/vinyals``. Only the characters are read from them; ``rotations`` says how they are turned.

    Args:
        data_dir: folder with the data.
        cache_dir: folder for the packed images.
        image_size: height and width in pixels.
        split_scheme: one of the class splits above.
        rotations: ``classes`` makes every character four classes, one per quarter turn, in every split (Vinyals);
            ``train_classes`` in train only (Reptile); ``augment`` turns each class of a training task by a random
            multiple of 90 degrees (MAML++); ``augment_all`` those of every split (Finn); ``none`` does neither.
        download: fetch the zips into ``data_dir`` through torchvision if they are not there.
    """

    name = "Omniglot"
    in_channels = 1
    mean = (0.0,)
    std = (1.0,)
    invert = True

    def __init__(
        self,
        data_dir: str = "data",
        cache_dir: str = "~/.cache/few_shot_nas",
        image_size: ImageSize = 28,
        split_scheme: Scheme = "finn",
        rotations: Rotations = "augment_all",
        download: bool = False,
    ) -> None:
        super().__init__(data_dir, cache_dir, image_size)
        if split_scheme not in (*_SHUFFLED, "lake", "vinyals"):
            raise InputError(
                f"{self.name}: split_scheme={split_scheme} is not one of {', '.join(_SHUFFLED)}, lake, vinyals"
            )
        if rotations not in _ROTATION:
            raise InputError(f"{self.name}: rotations={rotations} is not one of {', '.join(_ROTATION)}")
        self.split_scheme = split_scheme
        self.rotations = rotations
        self.download = download
        self._found: _Layout | None = None

    def split_names(self) -> tuple[str, ...]:
        """Return train, val and test."""
        return SPLITS

    def settings(self) -> dict[str, Any]:
        """Return the class split; rotations are made while sampling."""
        return {"split_scheme": self.split_scheme}

    def rotation(self, split_name: str) -> Rotation:
        """Return how quarter turns are used in that split."""
        train, other = _ROTATION[self.rotations]
        return train if split_name == "train" else other

    def describe(self) -> str:
        """Return the layout that was found."""
        layout = self._layout()
        return f"{layout.kind} ({', '.join(map(str, layout.places))}), split {self.split_scheme}"

    def input_files(self) -> list[Path]:
        """Return the zips, or every image of the tree, and the list files where the class split is read from them.

        Raises:
            InputError: if they are missing.
        """
        files: list[Path] = []
        for place in self._layout().places:
            files += [place] if place.suffix == ".zip" else [file.path for file in folder_members(place)]
        return files + (list(self._list_files().values()) if self.split_scheme == "vinyals" else [])

    def plan(self) -> dict[str, SplitPlan]:
        """Return the characters of each split with the images to read.

        Raises:
            InputError: if the data does not hold the characters that the class split needs.
        """
        sets = [_characters(place) for place in self._layout().places]
        splits = self._lake(sets) if self.split_scheme == "lake" else self._by_name(sets)
        shape = (self.image_size, self.image_size, 1)
        depth = Depth(file for characters in splits.values() for images in characters.values() for file in images)
        plans = {}
        for split, characters in splits.items():
            files = [file for images in characters.values() for file in images]
            pixels = read_all(files, "L", self.image_size, self.resample(), invert=self.invert, depth=depth)
            plans[split] = SplitPlan(tuple(characters), tuple(map(len, characters.values())), shape, pixels)
        return plans

    def _lake(self, sets: list[Characters]) -> dict[str, Characters]:
        if len(sets) != 2:
            raise InputError(
                f"{self.name}: split_scheme=lake needs images_background and images_evaluation apart, and "
                f"{self._layout().places[0]} holds them merged; use split_scheme=finn or the two official zips"
            )
        background, evaluation = sets
        alphabets = sorted({name.split("/")[0] for name in background})
        if len(alphabets) < 6:
            raise InputError(
                f"{self.name}: split_scheme=lake needs at least 6 background alphabets, {self._layout().places[0]} "
                f"has {len(alphabets)}; get the complete set from {_WHERE}"
            )
        held_out = set(alphabets[5::6])
        return {
            "train": {name: files for name, files in background.items() if name.split("/")[0] not in held_out},
            "val": {name: files for name, files in background.items() if name.split("/")[0] in held_out},
            "test": evaluation,
        }

    def _by_name(self, sets: list[Characters]) -> dict[str, Characters]:
        characters: Characters = {}
        for part in sets:
            for name, files in part.items():
                characters[name] = characters.get(name, []) + files
        lists = self._read_lists() if self.split_scheme == "vinyals" else self._shuffled_lists(characters)
        for split, names in lists.items():
            for name in names:
                if name not in characters:
                    raise InputError(f"{self.name}: {name} is on the {split} list but not in {self.describe()}")
        return {split: {name: characters[name] for name in names} for split, names in lists.items()}

    def _shuffled_lists(self, characters: Iterable[str]) -> dict[str, list[str]]:
        train, val, test = _SHUFFLED[self.split_scheme]
        names = sorted(characters)
        if len(names) != train + val + test:
            raise InputError(
                f"{self.name}: split_scheme={self.split_scheme} needs all {train + val + test} characters, "
                f"{self.describe()} has {len(names)}; get the complete set from {_WHERE}"
            )
        random.Random(1).shuffle(names)
        return {"train": names[:train], "val": names[train : train + val], "test": names[train + val :]}

    def _list_files(self) -> dict[str, Path]:
        folders = [self.data_dir / root / "splits" / "vinyals" for root in _ROOTS]
        for folder in folders:
            files = {split: folder / f"{split}.txt" for split in SPLITS}
            if all(file.is_file() for file in files.values()):
                return files
        raise InputError(
            f"{self.name}: split_scheme=vinyals needs the lists train.txt, val.txt and test.txt in {folders[0]}; get "
            "them from github.com/jakesnell/prototypical-networks (data/omniglot/splits/vinyals) or use finn"
        )

    def _read_lists(self) -> dict[str, list[str]]:
        lists = {}
        for split, file in self._list_files().items():
            lines = read_text(file).split()
            # Four lines per character, one per quarter turn; a dict keeps the first of each, in order.
            lists[split] = list(dict.fromkeys("/".join(line.split("/")[:2]) for line in lines))
        return lists

    def _layout(self) -> _Layout:
        if self._found is None:
            self._found = _find_layout(self.data_dir)
            if self._found is None and self.download:
                self._fetch()
                self._found = _find_layout(self.data_dir)
            if self._found is None:
                raise InputError(
                    f"{self.name}: images_background.zip and images_evaluation.zip, or the folders they unpack to "
                    f"(<set>/<Alphabet>/characterNN/*.png), are not in data_dir={self.data_dir} nor in its folders "
                    f"{', '.join(_ROOTS[1:])}; get them from {_WHERE}"
                )
        return self._found

    def _fetch(self) -> None:
        from torchvision.datasets import Omniglot as TorchvisionOmniglot  # seconds to import, and only needed here

        fetch: Callable[..., object] = TorchvisionOmniglot
        try:
            for background in (True, False):
                fetch(str(self.data_dir), background=background, download=True)
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"{self.name}: download into {self.data_dir} failed ({error}); put images_background.zip and "
                "images_evaluation.zip there by hand, from github.com/brendenlake/omniglot (python/)"
            ) from error


def _find_layout(data_dir: Path) -> _Layout | None:
    roots = [data_dir / root for root in _ROOTS]
    for root in roots:
        zips = tuple(root / f"{part}.zip" for part in _SETS)
        if all(place.is_file() for place in zips):
            return _Layout("zips", zips)
        folders = tuple(root / part for part in _SETS)
        if all(place.is_dir() for place in folders):
            return _Layout("folders", folders)
    for root in roots:
        for merged in _MERGED:
            if _holds_characters(root / merged):
                return _Layout("merged folder", (root / merged,))
    return None


def _holds_characters(place: Path) -> bool:
    if not place.is_dir():
        return False
    for alphabet in folders_in(place):
        if _FLAT_FOLDER.fullmatch(alphabet.name):
            return True
        if any(_CLASS_FOLDER.fullmatch(entry.name) for entry in folders_in(alphabet)):
            return True
    return False


def _characters(place: Path) -> Characters:
    """Return ``<Alphabet>/characterNN`` -> its images, both sorted."""
    files = archive_members(place) if place.suffix == ".zip" else folder_members(place)
    found: dict[str, list[ImageFile]] = {}
    for file in files:
        parent, folder, _ = ("", "", *file.parts)[-3:]
        flat = _FLAT_FOLDER.fullmatch(folder)
        if _CLASS_FOLDER.fullmatch(folder) and parent:
            found.setdefault(f"{parent}/{folder}", []).append(file)
        elif flat:
            found.setdefault(f"{flat[1]}/{flat[2]}", []).append(file)
    if not found:
        raise InputError(f"Omniglot: {place} has no images in <Alphabet>/characterNN; get it again from {_WHERE}")
    by_name: Mapping[str, list[ImageFile]] = found
    return {name: by_name[name] for name in sorted(by_name)}
