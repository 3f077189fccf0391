"""A dataset so small and regular that every image says which class and which image it is."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from few_shot_nas.data.source import Source, SplitPlan

SIZE = 5


def _picture(class_index: int, image_index: int) -> np.ndarray:
    """Class in the top left corner, image beside it: turned a quarter, the class is in another corner."""
    picture = np.zeros((SIZE, SIZE, 1), dtype=np.uint8)
    picture[0, 0], picture[0, 1] = class_index + 1, image_index + 1
    return picture


class Toy(Source):
    """Classes and images of each split by number; ``rotations`` says how each split is turned."""

    name = "Toy"
    in_channels = 1
    mean = (0.0,)
    std = (1.0,)

    def __init__(
        self,
        cache_dir: str,
        classes: dict[str, int] | None = None,
        images: int = 20,
        rotations: dict[str, Any] | None = None,
        names: Callable[[str, int], str] = "{}-{}".format,
        on_plan: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__("nowhere", cache_dir, SIZE)
        self.classes = classes or {"train": 12, "val": 8, "test": 7}
        self.images = images
        self.rotations = rotations or {}
        self.names = names
        self.on_plan = on_plan

    def split_names(self) -> tuple[str, ...]:
        return tuple(self.classes)

    def settings(self) -> dict[str, Any]:
        return {"classes": self.classes, "images": self.images}

    def input_files(self) -> list[Path]:
        return []

    def rotation(self, split_name: str) -> Any:
        return self.rotations.get(split_name, "none")

    def plan(self) -> dict[str, SplitPlan]:
        self.on_plan()
        return {name: self._plan(name, count) for name, count in self.classes.items()}

    def _plan(self, name: str, count: int) -> SplitPlan:
        def pictures() -> Iterator[np.ndarray]:
            for c in range(count):
                for i in range(self.images):
                    yield _picture(c, i)

        names = tuple(self.names(name, c) for c in range(count))
        return SplitPlan(names, (self.images,) * count, (SIZE, SIZE, 1), pictures())


@pytest.fixture
def make_toy(tmp_path: Path) -> Callable[..., Toy]:
    """Return Toy with a cache of its own."""

    def make(**settings: Any) -> Toy:
        settings.setdefault("cache_dir", str(tmp_path / "cache"))
        return Toy(**settings)

    return make
