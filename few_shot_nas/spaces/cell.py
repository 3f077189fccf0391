"""Cells of the DARTS family, and the network made by stacking them."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from few_shot_nas.errors import InputError
from few_shot_nas.nn.layout import channels_last
from few_shot_nas.nn.norm import BatchNorm2d
from few_shot_nas.spaces.genotype import Edge, Genotype
from few_shot_nas.spaces.ops import OPS, FactorizedReduce, relu_conv_norm
from few_shot_nas.spaces.space import Body, Menu

FIRST_CELL_SIZE = 21


def reductions(cells: int) -> frozenset[int]:
    """Return the indices of the cells that halve the size.

    ``cells // 3`` and ``2 * cells // 3`` as in DARTS, except that two cells are one normal and one reduction cell, as
    in T-NAS, where that rule would make both reductions.
    """
    return frozenset({1}) if cells == 2 else frozenset({cells // 3, 2 * cells // 3})


class Cell(nn.Module):
    """A directed acyclic graph of ops over two inputs; its output concatenates the intermediate nodes.

    States 0 and 1 are the outputs of the two cells before, brought to ``channels``; states 2, 3, .. are the nodes, each
    the sum of its edges. In a reduction cell the edges from states 0 and 1 have stride 2.

    Args:
        before: channels of the output two cells before.
        last: channels of the output of the cell before.
        channels: channels of every state.
        nodes: number of intermediate nodes.
        reduction: whether this cell halves the size.
        after_reduction: whether the cell before did, so that the older input must be halved too.
        menu: the ops that each edge holds.
    """

    def __init__(
        self,
        before: int,
        last: int,
        channels: int,
        nodes: int,
        reduction: bool,
        after_reduction: bool,
        menu: Mapping[tuple[int, int], tuple[str, ...]],
    ) -> None:
        super().__init__()
        self.nodes = nodes
        self.pre0 = (
            FactorizedReduce(before, channels, affine=True)
            if after_reduction
            else relu_conv_norm(before, channels, affine=True)
        )
        self.pre1 = relu_conv_norm(last, channels, affine=True)
        self.edges = nn.ModuleDict()
        for (src, dst), ops in menu.items():
            stride = 2 if reduction and src < 2 else 1
            self.edges[f"{src}_{dst}"] = nn.ModuleDict({op: OPS[op](channels, channels, stride, True) for op in ops})

    def forward(self, before: Tensor, last: Tensor, edges: tuple[Edge, ...]) -> Tensor:
        """Run the ops of ``edges``, which are ordered by ``dst``."""
        states: list[Tensor | None] = [self.pre0(before), self.pre1(last)] + [None] * self.nodes
        for op, src, dst in edges:
            out = self.edges[f"{src}_{dst}"][op](states[src])  # type: ignore[index]  # ModuleDict of ModuleDicts
            held = states[dst]
            states[dst] = out if held is None else held + out
        return torch.cat([state for state in states[2:] if state is not None], dim=1)


def pooling_stem(in_channels: int, out_channels: int, image_size: int) -> nn.Sequential:
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
    return nn.Sequential(*layers)


class CellBody(Body):
    """Stem, cells, global average pool.

    The shape is that of T-NAS' derived networks: every BN is affine.

    Args:
        in_channels: channels of the images.
        image_size: height and width of the images.
        channels: channels of the first cell's states, doubled by each reduction cell.
        cells: number of cells.
        nodes: intermediate nodes per cell.
        menu: the ops that the edges hold, by cell type ``normal`` or ``reduce``.
        stem_multiplier: the stem gives this many times ``channels``: 3 in DARTS and T-NAS, 1 in MetaNTK-NAS (three
            times makes the stem the costliest part of a small network).

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
    ) -> None:
        super().__init__()
        if image_size < 8:
            raise InputError(f"a network of cells: image_size={image_size} given, at least 8 is needed")
        self.menu = menu
        before = last = stem_multiplier * channels
        self.stem = pooling_stem(in_channels, last, image_size)
        reducing = reductions(cells)
        self.cell_types = tuple("reduce" if index in reducing else "normal" for index in range(cells))
        self.cells = nn.ModuleList()
        after_reduction = False
        for cell_type in self.cell_types:
            reduction = cell_type == "reduce"
            channels *= 2 if reduction else 1
            self.cells.append(Cell(before, last, channels, nodes, reduction, after_reduction, menu[cell_type]))
            before, last, after_reduction = last, nodes * channels, reduction
        self.feature_dim = last

    def forward(self, x: Tensor, genotype: Genotype) -> Tensor:
        """Run only the genotype's path: ``[B, C, H, W]`` to features ``[B, feature_dim]``."""
        edges = dict(genotype.edges)
        before = last = self.stem(channels_last(x))
        for cell, cell_type in zip(self.cells, self.cell_types, strict=True):
            before, last = last, cell(before, last, edges[cell_type])
        return last.mean(dim=(2, 3))

    def owned_ops(self) -> Iterator[tuple[str, str, Edge]]:
        """Yield, for each op module held, its name prefix (with the dot), cell type and edge."""
        for index, cell_type in enumerate(self.cell_types):
            for (src, dst), ops in self.menu[cell_type].items():
                for op in ops:
                    yield f"cells.{index}.edges.{src}_{dst}.{op}.", cell_type, Edge(op, src, dst)
