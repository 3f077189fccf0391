"""Small stand-ins for the package's classes, so that the parser is tested apart from what it parses for."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import pytest

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
        Episodes,
    )
