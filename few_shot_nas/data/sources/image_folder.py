"""The user's own images: one folder per class."""

import logging
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from few_shot_nas.data.image_files import (
    SUFFIXES,
    Depth,
    ImageFile,
    folder_members,
    folders_in,
    read_all,
    refuse_shared,
)
from few_shot_nas.data.source import SPLITS, Source, SplitPlan
from few_shot_nas.errors import InputError
from few_shot_nas.ranges import Fraction, ImageSize, Range, Seed, Size, check_arguments
from few_shot_nas.seeding import derived_seed

logger = logging.getLogger(__name__)

_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_MODES = {1: "L", 3: "RGB"}
Classes = dict[str, list[ImageFile]]


class ImageFolder(Source):
    """Your own images, one folder per class; the classes sorted into splits by you or by a seed.

    The folder ``data_dir`` is laid out in one of two ways:

    - ``data_dir/{train,val,test}/<class>/*``: the class split is yours; test may be absent, val may be called valid or
      validation. No class may be in two of them. For a test of a finished run ``test`` alone is enough;
    - ``data_dir/<class>/*``: the classes are shuffled by ``class_split_seed`` and divided by the two fractions. The
      split depends on the names of all classes, so it changes when classes come or go.

    A class needs k_shot + n_query images, and every split n_way classes. Images may lie deeper in a class's folder and
    be of any size, as png, jpg, bmp, gif, tif, webp or ppm. They are turned as their EXIF tag says, put on white where
    they are transparent, and resized as a whole, whatever their proportions, by Lanczos. Fed as ``(x - 0.5) / 0.25`` of
    the image scaled to [0, 1].

    Images of more than 8 bits are scaled to 8 by one range for all of them: whole numbers keep the upper 8 of as many
    bits as the largest sample needs, so 12-bit data in files of 16 bits fill the range; floating point goes by the next
    power of two (1 for samples up to 1), or by 255 where the largest sample lies from 128 to there; with negative
    samples it is smallest to largest. A range that a file declares and keeps (TIFF's SMaxSampleValue or MaxSampleValue,
    9 to 15 bits per sample, PGM's maximum) counts as found. The log says which range it is.

    Files and folders whose names begin with ``.``, ``__`` or ``@`` are no data, wherever they lie.

    Args:
        data_dir: folder with the data.
        cache_dir: folder for the packed images.
        image_size: height and width in pixels.
        image_channels: 3 for colour, 1 for grey.
        val_fraction: share of the classes that go to val, at least one class; for the second way.
        test_fraction: share of the classes that go to test, at least one unless it is 0; for the second way.
        class_split_seed: seed of the shuffle; for the second way.
        min_images_per_class: leave classes with fewer images out; the log says how many.

    Raises:
        InputError: if a number is out of range.
    """

    name = "ImageFolder"

    def __init__(
        self,
        data_dir: str = "data",
        cache_dir: str = "~/.cache/few_shot_nas",
        image_size: ImageSize = 84,
        image_channels: Annotated[int, Range(1, 3)] = 3,
        val_fraction: Fraction = 0.2,
        test_fraction: Fraction = 0.2,
        class_split_seed: Seed = 0,
        min_images_per_class: Size = 1,
    ) -> None:
        super().__init__(data_dir, cache_dir, image_size)
        if image_channels not in _MODES:
            raise InputError(f"{self.name}: image_channels={image_channels} must be 1 (grey) or 3 (colour)")
        if not (0 < val_fraction < 1 and 0 <= test_fraction < 1 and val_fraction + test_fraction < 1):
            raise InputError(
                f"{self.name}: val_fraction={val_fraction} must be above 0, test_fraction={test_fraction} at least 0, "
                "and their sum below 1"
            )
        given = {"class_split_seed": class_split_seed, "min_images_per_class": min_images_per_class}
        check_arguments(ImageFolder.__init__, given, owner=self.name)
        self.in_channels = image_channels
        self.mean, self.std = (0.5,) * image_channels, (0.25,) * image_channels
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.class_split_seed = class_split_seed
        self.min_images_per_class = min_images_per_class
        self._found: dict[str, Classes] | None = None

    def split_names(self) -> tuple[str, ...]:
        """Return train, val and, where it is there or drawn, test."""
        return tuple(self._divided())

    def settings(self) -> dict[str, Any]:
        """Return the channels and which classes are in which split."""
        return {
            "image_channels": self.in_channels,
            "depth": "found",  # 16-bit images that earlier versions packed have another range
            "splits": {split: list(classes) for split, classes in self._divided().items()},
        }

    def input_files(self) -> list[Path]:
        """Return every image.

        Raises:
            InputError: if there are none, or too few classes.
        """
        return [file.path for classes in self._divided().values() for files in classes.values() for file in files]

    def describe(self) -> str:
        """Return where the images are and who divided the classes."""
        drawn = "" if self._split_folders() else f", classes divided by class_split_seed={self.class_split_seed}"
        return f"{self.data_dir}{drawn}"

    def plan(self) -> dict[str, SplitPlan]:
        """Return the classes of each split with the images to read."""
        shape = (self.image_size, self.image_size, self.in_channels)
        plans = {}
        depth = Depth(file for classes in self._divided().values() for files in classes.values() for file in files)
        for split, classes in self._divided().items():
            files = [file for images in classes.values() for file in images]
            mode, size = _MODES[self.in_channels], self.image_size
            pixels = read_all(files, mode, size, self.resample(), upright=True, depth=depth)
            plans[split] = SplitPlan(tuple(classes), tuple(map(len, classes.values())), shape, pixels)
        return plans

    def _divided(self) -> dict[str, Classes]:
        if self._found is None:
            folders = self._split_folders()
            places = folders.values() if folders else [self.data_dir] if self.data_dir.is_dir() else []
            refuse_shared(place for parent in places for place in folders_in(parent))
            given = {split: self._classes(place) for split, place in folders.items()}
            self._found = given if folders else self._drawn()
        return self._found

    def _split_folders(self) -> dict[str, Path]:
        """Return the folders of the splits, in small or capital letters; none where the classes lie side by side."""
        places = folders_in(self.data_dir) if self.data_dir.is_dir() else []
        by_name = {place.name.lower(): place for place in reversed(places)} | {place.name: place for place in places}
        folders = {}
        for split in SPLITS:
            for place in (by_name[name] for name in _FOLDERS[split] if name in by_name):
                # A class may be called train (CIFAR-100 has one); its folder holds images, not classes.
                if split not in folders and folders_in(place):
                    folders[split] = place
        if not folders or ("train" in folders and "val" in folders) or set(folders) == {"test"}:
            return folders
        raise InputError(
            f"{self.name}: data_dir={self.data_dir} has {', '.join(folders)} with folders in it, but train and val are "
            "both needed; add the other one, or put all classes side by side into data_dir to have them divided by seed"
        )

    def _drawn(self) -> dict[str, Classes]:
        classes = self._classes(self.data_dir) if self.data_dir.is_dir() else {}
        if not classes:
            raise InputError(
                f"{self.name}: no images in data_dir={self.data_dir}; needed is data_dir/train/<class>/*.jpg with val "
                f"and, if you like, test beside train, or data_dir/<class>/*.jpg ({', '.join(SUFFIXES)})"
            )
        val = max(1, round(self.val_fraction * len(classes)))
        test = max(1, round(self.test_fraction * len(classes))) if self.test_fraction else 0
        if val + test >= len(classes):
            raise InputError(
                f"{self.name}: {len(classes)} classes in data_dir={self.data_dir}, of which val_fraction="
                f"{self.val_fraction} takes {val} and test_fraction={self.test_fraction} takes {test}: none is left "
                "for train; add classes or lower a fraction"
            )
        order = np.random.Generator(np.random.Philox(derived_seed(self.class_split_seed, "class split")))
        names = order.permutation(sorted(classes)).tolist()
        held_out = {"train": names[val + test :], "val": names[:val], "test": names[val : val + test]}
        return {split: {name: classes[name] for name in sorted(part)} for split, part in held_out.items() if part}

    def _classes(self, folder: Path) -> Classes:
        """Return class -> images, sorted; folders with too few images are passed over."""
        classes = {place.name: folder_members(place) for place in folders_in(folder)}
        poor = [name for name, files in classes.items() if 0 < len(files) < self.min_images_per_class]
        if poor:
            logger.warning(
                "%s: %d of %d classes in %s have fewer than min_images_per_class=%d images and are left out: %s%s",
                *(self.name, len(poor), len(classes), folder, self.min_images_per_class, ", ".join(poor[:5])),
                ", ..." if len(poor) > 5 else "",
            )
        return {name: files for name, files in classes.items() if len(files) >= self.min_images_per_class}
