"""What a dataset is to the rest of the framework: named splits of classes, each an array of images."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from PIL import Image

from few_shot_nas.data.input_spec import InputSpec
from few_shot_nas.data.pack import Split, SplitPlan, build_pack, check_disjoint, fingerprint
from few_shot_nas.errors import InputError
from few_shot_nas.ranges import ImageSize, check_arguments

__all__ = ["Rotation", "Source", "Split", "SplitPlan"]

logger = logging.getLogger(__name__)

Rotation = Literal["classes", "augment", "none"]
SPLITS = ("train", "val", "test")


class Source(ABC):
    """A dataset whose classes are divided into splits.

    A subclass takes flat typed keyword arguments and says what files it reads (:meth:`input_files`), what else decides
    its images (:meth:`settings`), which splits there are (:meth:`split_names`) and how they are made (:meth:`plan`).
    Nothing is read in the constructor. Instances can be pickled.

    Attributes:
        name: the source's name in messages, in the cache and on the command line.
        in_channels: C of the images.
        image_size: H and W of the images.
        mean: per channel, subtracted from the image scaled to [0, 1].
        std: per channel, divides what is left.
        invert: the pictures are dark on light, and dark and light are swapped when they are read.
        published: split -> (classes, images) of the published dataset, for a warning where the data differs.

    Args:
        data_dir: folder with the raw data; ``~`` is expanded.
        cache_dir: folder for the packed images; ``~`` is expanded.
        image_size: height and width in pixels.
    """

    name: ClassVar[str]
    in_channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    invert: ClassVar[bool] = False
    published: ClassVar[Mapping[str, tuple[int, int]]] = {}

    def __init__(self, data_dir: str, cache_dir: str, image_size: ImageSize) -> None:
        check_arguments(Source.__init__, {"image_size": image_size}, owner=self.name)
        self.data_dir = Path(data_dir).expanduser()
        self.cache_dir = Path(cache_dir).expanduser()
        self.image_size = image_size
        self._splits: dict[str, Split] | None = None

    @abstractmethod
    def split_names(self) -> tuple[str, ...]:
        """Return the splits this source has, of train, val and test."""

    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """Return what decides the packed images beside the input files and the image size, as JSON values."""

    @abstractmethod
    def input_files(self) -> Iterable[Path]:
        """Return the files the images come from, in a fixed order.

        Raises:
            InputError: if the data is missing, saying which files, where it looked and where to get them.
        """

    @abstractmethod
    def plan(self) -> Mapping[str, SplitPlan]:
        """Return what is to be packed, by split."""

    def describe(self) -> str:
        """Return in a few words where the images come from, for the log."""
        return str(self.data_dir)

    def resample(self) -> Image.Resampling:
        """Return the filter for resizing."""
        return Image.Resampling.LANCZOS

    def input_spec(self) -> InputSpec:
        """Return how new pictures are to be read by a network that was trained on this source; reads no data.

        They are always turned as their EXIF tag says: cameras write one, and the files of most datasets have none.
        """
        return InputSpec(
            self.image_size, tuple(self.mean), tuple(self.std), resample=self.resample().name, invert=self.invert
        )

    def rotation(self, split_name: str) -> Rotation:
        """Return how quarter turns are used in a split: as classes of their own, as augmentation, or not at all."""
        return "none"

    def has_split(self, name: str) -> bool:
        """Return whether there is a split of that name."""
        return name in self.split_names()

    def prepare(self) -> None:
        """Pack the images into the cache where that has not been done; the rest of the class then needs no raw data.

        Safe to call again and from several processes at once.

        Raises:
            InputError: if data is missing or damaged, a class is in two splits, or the cache cannot be written.
        """
        splits = self._load()
        parts = [f"{name} {len(s.class_names)} classes, {len(s.images)} images" for name, s in splits.items()]
        logger.info("%s from %s: %s", self.name, self.describe(), "; ".join(parts))
        for name, split in splits.items():
            found = len(split.class_names), len(split.images)
            if found != self.published.get(name, found):
                logger.warning(
                    "%s: %s has %d classes and %d images, the published split %d and %d; results cannot be compared",
                    *(self.name, name, *found, *self.published[name]),
                )

    def split(self, name: str) -> Split:
        """Return a split, memory-mapped; packs the images first where :meth:`prepare` has not been called.

        Raises:
            InputError: if the source has no such split, and as :meth:`prepare`.
        """
        splits = self._load()
        if name not in splits:
            raise InputError(f"{self.name}: there is no split {name}; there are {', '.join(splits)}")
        return splits[name]

    def _load(self) -> dict[str, Split]:
        if self._splits is None:
            settings = {"source": self.name, "image_size": self.image_size, **self.settings()}
            key = fingerprint(settings, self.input_files())
            splits = build_pack(self.name, self.cache_dir / f"{self.name}-{key}", self.plan)
            check_disjoint(self.name, {name: split.class_names for name, split in splits.items()})
            self._splits = splits
        return self._splits

    def __getstate__(self) -> dict[str, Any]:
        # A memory map would be pickled as the whole array; the copy opens the cache again.
        return {**self.__dict__, "_splits": None}
