"""The meta-steps that are timed: shapes, networks and episodes."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from few_shot_nas.episode import Episode
from few_shot_nas.models.conv4 import Blocks, Conv4
from few_shot_nas.nn.convolution import Conv2d
from few_shot_nas.nn.layout import channels_last
from few_shot_nas.nn.linear import Linear
from few_shot_nas.nn.norm import BatchNorm2d


@dataclass(frozen=True)
class Work:
    """One meta-step.

    Attributes:
        channels: of the images.
        size: height and width of the images.
        width: channels of the network.
        network: Conv4 with pools or strides, or three unpadded blocks with pools (functorch's example).
        n_way: classes N.
        k_shot: support images per class.
        n_query: query images per class.
        tasks: tasks per meta-step.
        inner_steps: updates per task.
        first_order: treat the inner gradients as constants.
        head_only: adapt the head alone (ANIL).
        inner_lr: step size.
    """

    channels: int
    size: int
    width: int
    network: Literal["pool", "stride", "unpadded"]
    n_way: int = 5
    k_shot: int = 1
    n_query: int = 15
    tasks: int = 4
    inner_steps: int = 5
    first_order: bool = False
    head_only: bool = False
    inner_lr: float = 0.05

    def net(self) -> nn.Module:
        """Return the network, the same at every call."""
        torch.manual_seed(0)
        if self.network == "unpadded":
            return Unpadded(self.n_way, self.channels, self.size, self.width)
        return Conv4(self.n_way, self.channels, self.size, self.width, downsample=self.network)

    def batch(self, device: torch.device) -> Episode:
        """Return a meta-batch of noise with a mean of its own for every class."""
        stream = torch.Generator().manual_seed(1)

        def images(per_class: int) -> tuple[Tensor, Tensor]:
            labels = torch.arange(self.n_way).repeat(self.tasks, per_class)
            shape = (self.tasks, per_class * self.n_way, self.channels, self.size, self.size)
            return torch.randn(shape, generator=stream) + 0.3 * labels[..., None, None, None], labels

        support, query = images(self.k_shot), images(self.n_query)
        return Episode(*(value.to(device) for value in (*support, *query)))


class Unpadded(nn.Module):
    """Three blocks of unpadded 3x3 convolution, BN, ReLU and 2x2 max-pool, then a linear head.

    The network of functorch's MAML example on Omniglot (28x28 pixels, width 64).
    """

    def __init__(self, n_way: int, channels: int, size: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for block in range(3):
            layers += [Conv2d(width if block else channels, width, 3), BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
            size = (size - 2) // 2
        self.body, self.feature_dim = Blocks(*layers), width * size * size
        self.head = Linear(self.feature_dim, n_way)

    def features(self, x: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` to ``[B, feature_dim]``."""
        return self.body(channels_last(x)).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` to logits ``[B, N]``."""
        return self.head(self.features(x))


OMNIGLOT = Work(1, 28, 64, "stride", n_query=1, tasks=32, inner_steps=1, inner_lr=0.4)
MINI = Work(3, 84, 32, "pool")

#: The rows of the table; docs/performance.md says what they are.
ROWS = {
    "omniglot 5w1s second order": OMNIGLOT,
    "mini 5w1s second order": MINI,
    "mini 5w1s first order": replace(MINI, first_order=True),
    "mini 5w5s ANIL": replace(MINI, k_shot=5, head_only=True),
    "functorch_maml_omniglot": Work(1, 28, 64, "unpadded", k_shot=5, tasks=32, inner_lr=0.1),
}

#: Name -> rows in which one thing changes, from the second row.
SWEEPS = {
    "inner_steps": {f"inner_steps {steps}": replace(MINI, inner_steps=steps) for steps in (1, 2, 5, 10)},
    "tasks": {f"tasks {tasks}": replace(MINI, tasks=tasks) for tasks in (1, 2, 4, 8)},
    "n_way": {f"n_way {ways}": replace(MINI, n_way=ways) for ways in (5, 10, 20)},
    "size": {f"size {size}": replace(MINI, size=size) for size in (28, 42, 84)},
}

#: For trying the scripts.
TINY = {
    "tiny second order": Work(1, 16, 4, "pool", n_query=2, tasks=2, inner_steps=2),
    "tiny ANIL": Work(1, 16, 4, "stride", n_query=2, tasks=2, inner_steps=2, head_only=True),
}
