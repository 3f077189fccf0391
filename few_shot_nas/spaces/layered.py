"""Bodies whose layers are run one after the other, so that architectures with the same first layers can share them."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from few_shot_nas.errors import InputError
from few_shot_nas.nn.norm import BatchNorm2d
from few_shot_nas.spaces.cell import added
from few_shot_nas.spaces.genotype import Genotype
from few_shot_nas.spaces.ops import DERIVED, LayerStyle
from few_shot_nas.spaces.space import Body, EdgeWeights


class OpLayer(nn.Module):
    """One of several ops, then BN (shared by the ops), ReLU and a 2x2 max-pool.

    Args:
        ops: the ops by name, all with outputs of the same shape.
        channels: channels of these outputs.
        style: how the BN is made.

    Raises:
        InputError: if there is no op.
    """

    def __init__(self, ops: Mapping[str, nn.Module], channels: int, style: LayerStyle = DERIVED) -> None:
        super().__init__()
        if not ops:
            raise InputError("a layer of a chain has no op in the menu, each layer needs one")
        self.ops = nn.ModuleDict(ops)
        self.norm = BatchNorm2d(channels, affine=style.affine)

    def forward(self, x: Tensor, op: str) -> Tensor:
        """``[B, C, H, W]`` to ``[B, channels, H // 2, W // 2]`` through ``op``."""
        return self._after(self.ops[op](x))

    def outputs(self, x: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        """Return what each of the ops named makes of ``x``, before the BN."""
        return {name: self.ops[name](x) for name in names}

    def mixed(self, outputs: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Tensor:
        """Finish a pass with the sum of the ops' outputs by their weights.

        Raises:
            ValueError: if there are none: unlike an edge of a cell, a layer cannot be left out.
        """
        if not weights:
            raise ValueError("a layer of a chain whose ops are all left out has no output")
        return self._after(added([weight * outputs[name] for name, weight in weights.items()]))

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

    def mixed(self, x: Tensor, weights: EdgeWeights) -> Tensor:
        """Run a mixture: the outputs of a layer's ops are summed by weights before the layer's BN."""
        return self.mixed_from(self.opened(x, next(iter(weights["chain"].values()))), weights)

    def opened(self, x: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        """Return what the ops of the first layer make of images ``x [B, C, H, W]``, whatever their weights."""
        return cast(OpLayer, self.searched()[0]).outputs(self.begin(x), names)

    def mixed_from(self, opened: Mapping[str, Tensor], weights: EdgeWeights) -> Tensor:
        """Run a mixture from the outputs of its first layer on, which many mixtures of the same images can share.

        Args:
            opened: what :meth:`opened` made of the images.
            weights: the mixture.

        Returns:
            Features ``[B, feature_dim]``.
        """
        first, *others = cast(list[OpLayer], list(self.searched()))
        row, *rows = weights["chain"].values()
        x = first.mixed(opened, row)
        for layer, row in zip(others, rows, strict=True):
            x = layer.mixed(layer.outputs(x, row), row)
        return x.flatten(1)
