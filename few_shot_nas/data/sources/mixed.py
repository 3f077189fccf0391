"""Several datasets as one distribution of tasks, each task from one of them."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from few_shot_nas.data.source import Source, SplitPlan
from few_shot_nas.errors import InputError
from few_shot_nas.ranges import ImageSize
from few_shot_nas.registry import lookup


class Mixed(Source):
    """A heterogeneous distribution: the classes of a task all come from one of several sources, drawn uniformly.

    The parts keep their class splits; a split is there if every part has it. They are built with their defaults,
    beside the folders and the image size, so all pictures have one size; grey ones get three equal channels. Fed as
    0..1 without further normalisation and without quarter turns, which would suit some of the parts only. Classes are
    named ``<part>/<class>``. Whether a class of one part is also in another cannot be seen; choose parts that differ.

    ``split(name).groups`` says which part, in their order, a class belongs to;
    :func:`~few_shot_nas.data.sampler.group_of` says it of a task, to report accuracies by part.

    Args:
        data_dir: folder with the data of all parts.
        cache_dir: folder for the packed images; the parts are not packed on their own.
        image_size: height and width in pixels.
        parts: names of the sources, separated by commas.

    Raises:
        InputError: if a part is unknown, named twice, or Mixed itself, or if there are fewer than two.
    """

    name = "Mixed"
    in_channels = 3
    mean = (0.0, 0.0, 0.0)
    std = (1.0, 1.0, 1.0)

    def __init__(
        self,
        data_dir: str = "data",
        cache_dir: str = "~/.cache/few_shot_nas",
        image_size: ImageSize = 28,
        parts: str = "Omniglot,MiniImagenet,Glyphs",
    ) -> None:
        super().__init__(data_dir, cache_dir, image_size)
        self.parts = tuple(part.strip() for part in parts.split(",") if part.strip())
        if len(self.parts) < 2 or len(set(self.parts)) < len(self.parts) or self.name in self.parts:
            raise InputError(
                f"{self.name}: parts={parts} must be two or more different sources, separated by commas, without Mixed"
            )
        self._sources: dict[str, Source] | None = None
        for part in self.parts:
            lookup(_table(), part, f"{self.name}: parts")

    def split_names(self) -> tuple[str, ...]:
        """Return the splits that every part has."""
        first, *others = self._parts().values()
        return tuple(name for name in first.split_names() if all(part.has_split(name) for part in others))

    def settings(self) -> dict[str, Any]:
        """Return the parts and their settings, in order."""
        return {"parts": [[name, part.settings()] for name, part in self._parts().items()]}

    def input_files(self) -> list[Path]:
        """Return the files of all parts.

        Raises:
            InputError: if the data of one is missing.
        """
        return [file for part in self._parts().values() for file in part.input_files()]

    def describe(self) -> str:
        """Return where each part comes from."""
        return " + ".join(f"{name} ({part.describe()})" for name, part in self._parts().items())

    def plan(self) -> dict[str, SplitPlan]:
        """Return the classes of all parts, part by part."""
        parts = {name: part.plan() for name, part in self._parts().items()}
        return {name: self._joined({part: plans[name] for part, plans in parts.items()}) for name in self.split_names()}

    def _joined(self, plans: dict[str, SplitPlan]) -> SplitPlan:
        starts = np.cumsum([0] + [sum(plan.counts) for plan in plans.values()])
        positions = [
            start + (np.arange(sum(plan.counts)) if plan.positions is None else plan.positions)
            for start, plan in zip(starts, plans.values(), strict=False)
        ]
        return SplitPlan(
            class_names=tuple(f"{part}/{name}" for part, plan in plans.items() for name in plan.class_names),
            counts=tuple(count for plan in plans.values() for count in plan.counts),
            shape=(self.image_size, self.image_size, 3),
            images=chain.from_iterable(_coloured(plan) for plan in plans.values()),
            groups=tuple(group for group, plan in enumerate(plans.values()) for _ in plan.class_names),
            positions=np.concatenate(positions),
        )

    def _parts(self) -> dict[str, Source]:
        if self._sources is None:
            folders = {"data_dir": str(self.data_dir), "cache_dir": str(self.cache_dir)}
            self._sources = {name: _table()[name](**folders, image_size=self.image_size) for name in self.parts}
        return self._sources


def _table() -> dict[str, type[Source]]:
    from few_shot_nas.data.sources import SOURCES  # the table that this class is part of

    return SOURCES


def _coloured(plan: SplitPlan) -> Iterator[np.ndarray]:
    for image in plan.images:
        yield np.broadcast_to(image, (*image.shape[:2], 3))
