"""Bodies whose layers are run one after the other, so that architectures with the same first layers can share them."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from few_shot_nas.nn.norm import BatchNorm2d
from few_shot_nas.spaces.genotype import Genotype
from few_shot_nas.spaces.space import Body


class OpLayer(nn.Module):
    """One of several ops, then BN (shared by the ops), ReLU and a 2x2 max-pool.

    Args:
        ops: the ops by name, all with outputs of the same shape.
        channels: channels of these outputs.
    """

    def __init__(self, ops: Mapping[str, nn.Module], channels: int) -> None:
        super().__init__()
        self.ops = nn.ModuleDict(ops)
        self.norm = BatchNorm2d(channels)

    def forward(self, x: Tensor, op: str) -> Tensor:
        """``[B, C, H, W]`` to ``[B, channels, H // 2, W // 2]`` through ``op``."""
        return self._after(self.ops[op](x))

    def outputs(self, x: Tensor) -> list[Tensor]:
        """Return what each op makes of ``x``, before the BN."""
        return [op(x) for op in self.ops.values()]

    def mixed(self, outputs: Sequence[Tensor], weights: Tensor) -> Tensor:
        """Finish a pass with the sum of the ops' outputs by ``weights``, one for each op."""
        weighted = (weight * output for weight, output in zip(weights, outputs, strict=True))
        return self._after(reduce(torch.add, weighted))

    def _after(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(self.norm(x)), 2)


class LayeredBody(Body):
    """A stem, then one searched layer per decision of the space, flattened."""

    @abstractmethod
    def begin(self, x: Tensor) -> Tensor:
        """Return what the first searched layer gets of images ``x [B, C, H, W]``."""

    @abstractmethod
    def searched(self) -> nn.ModuleList:
        """Return the searched layers, an :class:`OpLayer` each."""

    def layer(self, index: int, x: Tensor, op: str) -> Tensor:
        """Run one searched layer through ``op``; it halves the image."""
        return self.searched()[index](x, op)

    def forward(self, x: Tensor, genotype: Genotype) -> Tensor:
        """Run only the genotype's path: ``[B, C, H, W]`` to features ``[B, feature_dim]``."""
        x = self.begin(x)
        for index, edge in enumerate(genotype.edges[0][1]):
            x = self.layer(index, x, edge.op)
        return x.flatten(1)

    def opened(self, x: Tensor) -> list[Tensor]:
        """Return what the ops of the first layer make of images ``x [B, C, H, W]``, whatever their weights."""
        return cast(OpLayer, self.searched()[0]).outputs(self.begin(x))

    def mixture(self, opened: Sequence[Tensor], weights: Tensor) -> Tensor:
        """Run every op of every layer, the outputs summed by weights before the layer's BN: the mixed op of DARTS.

        Source: Liu et al., ICLR 2019, arXiv:1806.09055, equation 2, with the softmax left to the caller. Weights that
        are 1 for one op of each layer and 0 for the others give the features of that architecture.

        Args:
            opened: what :meth:`opened` made of the images.
            weights: ``[layers, ops]``, the ops in the order of the space's choices.

        Returns:
            Features ``[B, feature_dim]``.
        """
        first, *others = cast(list[OpLayer], list(self.searched()))
        x = first.mixed(opened, weights[0])
        for layer, row in zip(others, weights[1:], strict=True):
            x = layer.mixed(layer.outputs(x), row)
        return x.flatten(1)
