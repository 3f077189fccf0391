"""Cells of the DARTS family, and the network made by stacking them."""

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from typing import cast

import torch
from torch import Tensor, nn

from few_shot_nas.errors import InputError
from few_shot_nas.nn.drop_path import DropPath
from few_shot_nas.nn.layout import channels_last
from few_shot_nas.nn.norm import BatchNorm2d
from few_shot_nas.spaces.genotype import Edge, Genotype
from few_shot_nas.spaces.ops import DERIVED, OPS, FactorizedReduce, LayerStyle, Zero, relu_conv_norm
from few_shot_nas.spaces.source import Source
from few_shot_nas.spaces.space import Body, EdgeWeights, Menu, Place

FIRST_CELL_SIZE = 21


def reductions(cells: int) -> frozenset[int]:
    """Return the indices of the cells that halve the size.

    ``cells // 3`` and ``2 * cells // 3`` as in DARTS. Of two cells DARTS would make both reduction cells; here the
    first is a normal cell, as in T-NAS.
    """
    return frozenset({1}) if cells == 2 else frozenset({cells // 3, 2 * cells // 3})


def added(terms: Sequence[Tensor]) -> Tensor:
    """Return the sum of at least one term, from the first to the last, so that zeros do not change a bit of it."""
    return reduce(torch.add, terms)


class Cell(nn.Module):
    """A directed acyclic graph of ops over two inputs; its output concatenates the intermediate nodes.

    States 0 and 1 are the outputs of the two cells before, brought to ``channels``; states 2, 3, .. are the nodes, each
    the sum of its edges. In a reduction cell the edges from states 0 and 1 have stride 2. The outputs of all ops but
    identities can be dropped while one architecture is trained (:class:`few_shot_nas.nn.drop_path.DropPath`). Mixtures
    drop no output.

    Args:
        before: channels of the output two cells before.
        last: channels of the output of the cell before.
        channels: channels of every state.
        nodes: number of intermediate nodes.
        reduction: whether this cell halves the size.
        after_reduction: whether the cell before halved the size, so that the older input must be halved too.
        menu: the ops that each edge holds.
        style: how layers are made.
    """

    def __init__(
        self,
        before: int,
        last: int,
        channels: int,
        nodes: int,
        reduction: bool,
        after_reduction: bool,
        menu: Mapping[Place, tuple[str, ...]],
        style: LayerStyle = DERIVED,
    ) -> None:
        super().__init__()
        self.nodes = nodes
        self.zero = Zero(2 if reduction else 1)
        self.pre0 = (
            FactorizedReduce(before, channels, style) if after_reduction else relu_conv_norm(before, channels, style)
        )
        self.pre1 = relu_conv_norm(last, channels, style)
        self.drop_path = DropPath()
        self.edges = nn.ModuleDict()
        for (src, dst), ops in menu.items():
            stride = 2 if reduction and src < 2 else 1
            self.edges[f"{src}_{dst}"] = nn.ModuleDict({op: OPS[op](channels, channels, stride, style) for op in ops})

    def forward(self, before: Tensor, last: Tensor, edges: tuple[Edge, ...]) -> Tensor:
        """Run the ops of ``edges``, which are ordered by ``dst``."""
        states: list[Tensor | None] = [self.pre0(before), self.pre1(last)] + [None] * self.nodes
        for op, src, dst in edges:
            layer = self.edges[f"{src}_{dst}"][op]  # type: ignore[index]  # ModuleDict of ModuleDicts
            out = layer(states[src])
            # Identities are never dropped, so that every node keeps what an identity brings it.
            out = out if isinstance(layer, nn.Identity) else self.drop_path(out)
            held = states[dst]
            states[dst] = out if held is None else held + out
        return torch.cat([state for state in states[2:] if state is not None], dim=1)

    def mixed(self, before: Tensor, last: Tensor, weights: Mapping[Place, Mapping[str, Tensor]]) -> Tensor:
        """Run every op of ``weights`` by its weight; a node that none of them reaches is zero."""
        states = [Source(self.pre0(before)), Source(self.pre1(last))]
        for node in range(2, self.nodes + 2):
            terms = [
                term
                for (src, dst), row in weights.items()
                if dst == node
                for term in states[src].terms(self.edges[f"{src}_{dst}"], row)
            ]
            states.append(Source(added(terms) if terms else self.zero(states[0].x)))
        return torch.cat([state.x for state in states[2:]], dim=1)


def full_size_stem(in_channels: int, out_channels: int) -> nn.Sequential:
    """Conv3x3 and BN at the size of the images: the stem of DARTS on CIFAR, MetaNAS and MetaNTK-NAS."""
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False), BatchNorm2d(out_channels))


class PoolingStem(nn.Sequential):
    """Layers in their order; a BN takes the 2x2 max-pool after it, which leaves it a quarter of the pixels."""

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` to the last layer's."""
        layers = list(self)
        for before, layer, after in zip([None, *layers], layers, [*layers[1:], None], strict=False):
            if isinstance(layer, BatchNorm2d):
                x = layer(x, pool=isinstance(after, nn.MaxPool2d))
            elif not (isinstance(before, BatchNorm2d) and isinstance(layer, nn.MaxPool2d)):
                x = layer(x)
        return x


def pooling_stem(in_channels: int, out_channels: int, image_size: int) -> PoolingStem:
    """Convolutions and pools until the images are at most 21x21.

    Stages of Conv3x3, BN, max-pool, with a ReLU between stages, as T-NAS does it for 84 pixels; every stage but the
    last has half the channels. There is no last ReLU, because cells begin with one.
    """
    layers: list[nn.Module] = []
    channels, size = in_channels, image_size
    while not layers or size > FIRST_CELL_SIZE:
        last = size // 2 <= FIRST_CELL_SIZE
        width = out_channels if last else max(1, out_channels // 2)
        layers += [nn.ReLU()] if layers else []
        layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), BatchNorm2d(width)]
        if size > FIRST_CELL_SIZE:
            layers.append(nn.MaxPool2d(2))
            size //= 2
        channels = width
    return PoolingStem(*layers)


class CellBody(Body):
    """Stem, cells, global average pool.

    The shape is that of T-NAS' networks. The BN of the stem is affine always, that of the cells as ``style`` says.

    Args:
        in_channels: channels of the images.
        image_size: height and width of the images.
        channels: channels of the first cell's states.
        cells: number of cells.
        nodes: intermediate nodes per cell.
        menu: the ops that the edges hold, by cell type ``normal`` or ``reduce``.
        stem_multiplier: the stem gives this many times ``channels``: 3 in DARTS and T-NAS, 1 in MetaNTK-NAS (three
            times makes the stem the costliest part of a small network).
        style: how the layers of the cells are made.
        pools: whether the stem pools the images until they are at most 21 pixels wide.
        growth: by how much a reduction cell multiplies the channels.

    Raises:
        InputError: if the images are too small.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: int,
        channels: int,
        cells: int,
        nodes: int,
        menu: Menu,
        stem_multiplier: int = 1,
        style: LayerStyle = DERIVED,
        pools: bool = True,
        growth: int = 2,
    ) -> None:
        super().__init__()
        if image_size < 8:
            raise InputError(f"a network of cells: image_size={image_size} given, at least 8 is needed")
        self.menu = menu
        before = last = stem_multiplier * channels
        self.stem = pooling_stem(in_channels, last, image_size) if pools else full_size_stem(in_channels, last)
        reducing = reductions(cells)
        self.cell_types = tuple("reduce" if index in reducing else "normal" for index in range(cells))
        self.cells = nn.ModuleList()
        after_reduction = False
        for cell_type in self.cell_types:
            reduction = cell_type == "reduce"
            channels *= growth if reduction else 1
            self.cells.append(Cell(before, last, channels, nodes, reduction, after_reduction, menu[cell_type], style))
            before, last, after_reduction = last, nodes * channels, reduction
        self.feature_dim = last

    def forward(self, x: Tensor, genotype: Genotype) -> Tensor:
        """Run only the genotype's path: ``[B, C, H, W]`` to features ``[B, feature_dim]``."""
        edges = dict(genotype.edges)
        before = last = self.stem(channels_last(x))
        for cell, cell_type in zip(self.cells, self.cell_types, strict=True):
            before, last = last, cell(before, last, edges[cell_type])
        return last.mean(dim=(2, 3))

    def mixed_maps(self, x: Tensor, weights: EdgeWeights) -> Tensor:
        """Run a mixture, all cells of a type by the same weights: ``[B, C, H, W]`` to ``[B, feature_dim, h, w]``."""
        before = last = self.stem(channels_last(x))
        for cell, cell_type in zip(self.cells, self.cell_types, strict=True):
            before, last = last, cast(Cell, cell).mixed(before, last, weights[cell_type])
        return last

    def mixed(self, x: Tensor, weights: EdgeWeights) -> Tensor:
        """Run a mixture, all cells of a type by the same weights: ``[B, C, H, W]`` to ``[B, feature_dim]``."""
        return self.mixed_maps(x, weights).mean(dim=(2, 3))

    def owned_ops(self) -> Iterator[tuple[str, str, Edge]]:
        """Yield, for each op module held, its name prefix (with the dot), cell type and edge."""
        for index, cell_type in enumerate(self.cell_types):
            for (src, dst), ops in self.menu[cell_type].items():
                for op in ops:
                    yield f"cells.{index}.edges.{src}_{dst}.{op}.", cell_type, Edge(op, src, dst)
