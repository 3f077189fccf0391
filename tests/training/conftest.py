"""Small stand-ins for the package's classes, so that the parser is tested apart from what it parses for."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest

from few_shot_nas.data.source import Source, Split, SplitPlan
from training import assemble, class_tables, run_experiment
from training.class_tables import Tables


@dataclass(frozen=True)
class Inner:
    """Inner loop.

    Attributes:
        inner_lr: step size
            of the inner loop.
        inner_steps: updates per task.
        first_order: drop second derivatives.
    """

    inner_lr: float = 0.4
    inner_steps: int = 1
    first_order: bool = False


class Base:
    """Base.

    Args:
        log_grad_norm: order of the norm to log.
    """

    def __init__(self, log_grad_norm: float | None = None, max_meta_steps: int = 1000, seed: int = 0) -> None:
        self.log_grad_norm, self.max_meta_steps, self.seed = log_grad_norm, max_meta_steps, seed


class Learner(Base):
    """Learner.

    Args:
        net: the network.
        inner: the inner loop.
        order: which derivatives.
    """

    default_model: ClassVar[str] = "Net"
    searches: ClassVar[bool] = False
    data_kind: ClassVar[Literal["episodes", "flat"]] = "episodes"
    data_defaults: ClassVar[Mapping[str, int]] = {}

    def __init__(
        self,
        net: object,
        *,
        inner: Inner = Inner(inner_lr=0.1),  # noqa: B008
        order: Literal["first", "second"] = "second",
        **base: object,
    ) -> None:
        super().__init__(**base)  # type: ignore[arg-type]
        self.net, self.inner, self.order = net, inner, order


class Net:
    """Net.

    Args:
        n_way: outputs.
        hidden: width of the layers.
    """

    def __init__(self, n_way: int, in_channels: int, image_size: int, hidden: int = 32) -> None:
        self.arguments = (n_way, in_channels, image_size, hidden)


class Fixed:
    """Needs a file.

    Args:
        genotype: path of a genotype.
    """

    def __init__(self, n_way: int, in_channels: int, image_size: int, genotype: str) -> None:
        self.genotype = genotype


class Images:
    """Images.

    Args:
        data_dir: folder with the raw data.
    """

    def __init__(self, data_dir: str = "data", image_size: int = 28, sizes: tuple[int, ...] = (1, 2)) -> None:
        self.data_dir = data_dir


class Episodes:
    """Episodes."""

    def __init__(
        self,
        source: Images,
        *,
        n_way: int = 5,
        k_shot: int = 1,
        n_query: int = 15,
        meta_batch_size: int = 4,
        num_workers: int = 0,
        val_every: int = 500,
        max_meta_steps: int = 1000,
        test_episodes: int = 600,
        seed: int = 0,
    ) -> None:
        self.source = source


@pytest.fixture
def tables() -> Tables:
    """Classes to choose from: Learner and MAML, Net and Fixed, Images and Glyphs."""
    return Tables(
        {"MAML": Learner, "Learner": Learner},
        {"Net": Net, "Fixed": Fixed},
        {"Glyphs": Images, "Images": Images},
        {"episodes": Episodes},
    )


class Dots(Source):
    """Noise, brighter in one place per class.

    Args:
        data_dir: not used.
        cache_dir: not used.
        image_size: height and width in pixels.
    """

    name = "Dots"
    in_channels, mean, std = 1, (0.5,), (0.25,)

    def __init__(self, data_dir: str = "data", cache_dir: str = "cache", image_size: int = 16) -> None:
        super().__init__(data_dir, cache_dir, image_size)

    def split_names(self) -> tuple[str, ...]:
        return ("train", "val", "test")

    def settings(self) -> Mapping[str, Any]:
        return {}

    def input_files(self) -> Iterable[Path]:
        return ()

    def plan(self) -> Mapping[str, SplitPlan]:
        return {}

    def prepare(self) -> None:
        pass

    def split(self, name: str) -> Split:
        place = self.split_names().index(name)
        generator = np.random.default_rng(place)
        images = generator.integers(0, 100, (6 * 8, self.image_size, self.image_size, 1), dtype=np.uint8)
        for row in range(len(images)):
            images[row, 2 * (row // 8) :][:3] += 120
        return Split(images, np.arange(0, 49, 8), tuple(f"{name}-{c}" for c in range(6)))


@pytest.fixture
def dots() -> type[Source]:
    """The smallest source there is."""
    return Dots


@pytest.fixture
def workplace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dots: type[Source]) -> None:
    """An empty working directory, and dots under the name of the default data."""
    from training import assemble  # takes seconds, and the parser's tests do without

    real = class_tables.load_tables()
    tables = Tables(real.algorithms, real.models, {**real.sources, "Glyphs": dots}, real.datamodules)
    monkeypatch.setattr(class_tables, "load_tables", lambda: tables)
    # TensorBoard's import takes seconds and is tested once.
    monkeypatch.setattr(assemble, "tensorboard_is_installed", lambda: False)
    monkeypatch.chdir(tmp_path)


TINY_SEARCH = (
    "--algorithm=RandomSearch --space=chain --cells=2 --channels=2 --n_way=3 --k_shot=2 --n_query=2 "
    "--meta_batch_size=2 --max_meta_steps=2 --val_every=2 --val_episodes=2 --test_episodes=2 --random_archs=2 "
    "--derive_candidates=1 --derive_episodes=1 --rewards_per_task=1 --run_dir=s"
).split()


@pytest.fixture
def tiny_search(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dots: type[Source]) -> list[str]:
    """An empty working directory with a finished search of 25 architectures in ``s``; gives the search's flags."""
    real = class_tables.load_tables()
    tables = Tables(real.algorithms, real.models, {**real.sources, "Glyphs": dots}, real.datamodules)
    monkeypatch.setattr(class_tables, "load_tables", lambda: tables)
    monkeypatch.setattr(assemble, "tensorboard_is_installed", lambda: False)
    monkeypatch.chdir(tmp_path)
    assert run_experiment.main(TINY_SEARCH) == 0
    return TINY_SEARCH
