"""The cell space of NAS-Bench-201: a complete graph of four nodes, five ops per edge, 15,625 architectures."""

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, cast

from torch import Tensor, nn
from torch.nn import functional as F

from few_shot_nas.errors import InputError
from few_shot_nas.nn.layout import channels_last
from few_shot_nas.nn.norm import BatchNorm2d
from few_shot_nas.spaces.cell import added, pooling_stem
from few_shot_nas.spaces.genotype import Edge, Genotype
from few_shot_nas.spaces.ops import DERIVED, OPS, LayerStyle, OpBuilder
from few_shot_nas.spaces.source import Source
from few_shot_nas.spaces.space import (
    Body,
    Decision,
    EdgeWeights,
    Menu,
    Place,
    SearchSpace,
    op_index,
)

NB201_OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")


def relu_conv_block(
    channels_in: int, channels_out: int, kernel: int, stride: int, affine: bool = True
) -> nn.Sequential:
    """ReLU, full convolution, BN."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False),
        BatchNorm2d(channels_out, affine=affine),
    )


def _nor_conv(kernel: int) -> OpBuilder:
    def build(channels_in: int, channels_out: int, stride: int, style: LayerStyle) -> nn.Module:
        return relu_conv_block(channels_in, channels_out, kernel, stride, style.affine)

    return build


BUILDERS: Mapping[str, OpBuilder] = {**OPS, "nor_conv_1x1": _nor_conv(1), "nor_conv_3x3": _nor_conv(3)}


def live_edges(edges: Sequence[Edge], nodes: int) -> tuple[Edge, ...]:
    """Return the edges on some way from state 0 to the last state that does not pass through ``none``."""
    open_edges = [edge for edge in edges if edge.op != "none"]
    reached, needed = {0}, {nodes}
    for edge in sorted(open_edges, key=lambda edge: edge.src):
        if edge.src in reached:
            reached.add(edge.dst)
    for edge in sorted(open_edges, key=lambda edge: -edge.dst):
        if edge.dst in needed:
            needed.add(edge.src)
    return tuple(edge for edge in open_edges if edge.src in reached and edge.dst in needed)


class ResidualReduction(nn.Module):
    """Halve the size and change the channels: a basic residual block (two 3x3 convolutions; average pool and 1x1)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv_a = relu_conv_block(channels_in, channels_out, 3, 2)
        self.conv_b = relu_conv_block(channels_out, channels_out, 3, 1)
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2, 2, ceil_mode=True), nn.Conv2d(channels_in, channels_out, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to ``[B, channels_out, ceil(H/2), ceil(W/2)]``."""
        return self.shortcut(x) + self.conv_b(self.conv_a(x))


class Nb201Body(Body):
    """Stem, cells with residual reductions before the ones at one and two thirds, BN, ReLU, global average pool.

    Args:
        in_channels: channels of the images.
        image_size: height and width of the images.
        channels: channels of the first cell, doubled by each reduction.
        cells: number of cells, all alike.
        nodes: nodes of a cell beside its input.
        menu: the ops that the edges hold under ``cell``, and under ``trunk`` what lies before the last cell.
        style: how the ops of the cells are made; the BN of all other layers is affine.

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
        style: LayerStyle = DERIVED,
    ) -> None:
        super().__init__()
        if image_size < 8:
            raise InputError(f"space nb201: image_size={image_size} given, at least 8 is needed")
        self.menu = menu
        self.nodes = nodes
        trunk = {ops[0] for ops in menu["trunk"].values()}
        self.stem = pooling_stem(in_channels, channels, image_size) if "stem" in trunk else nn.Identity()
        self.reductions = nn.ModuleDict()
        self.cells = nn.ModuleList()
        for index in range(cells):
            if index in reductions(cells):
                if f"reduction_{index}" in trunk:
                    self.reductions[str(index)] = ResidualReduction(channels, 2 * channels)
                channels *= 2
            self.cells.append(self._cell(channels, style))
        self.norm = BatchNorm2d(channels)
        self.feature_dim = channels

    def _cell(self, channels: int, style: LayerStyle) -> nn.ModuleDict:
        return nn.ModuleDict(
            {
                f"{src}_{dst}": nn.ModuleDict({op: BUILDERS[op](channels, channels, 1, style) for op in ops})
                for (src, dst), ops in self.menu["cell"].items()
            }
        )

    def forward(self, x: Tensor, genotype: Genotype) -> Tensor:
        """Run only the genotype's path: ``[B, C, H, W]`` to features ``[B, feature_dim]``."""
        live = live_edges(genotype.edges[0][1], self.nodes)
        if live:
            x = self.stem(channels_last(x))
            for index, cell in enumerate(self.cells):
                if str(index) in self.reductions:
                    x = self.reductions[str(index)](x)
                x = self._run(cell, x, live)
        else:
            x = x.new_zeros(x.shape[0], self.feature_dim, 2, 2)
        return F.relu(self.norm(x)).mean(dim=(2, 3))

    def _run(self, cell: nn.Module, x: Tensor, live: Sequence[Edge]) -> Tensor:
        states: dict[int, Tensor] = {0: x}
        for op, src, dst in live:
            out = cell[f"{src}_{dst}"][op](states[src])  # type: ignore[index]  # ModuleDict of ModuleDicts
            states[dst] = states[dst] + out if dst in states else out
        return states[self.nodes]

    def mixed(self, x: Tensor, weights: EdgeWeights) -> Tensor:
        """Run a mixture: ``[B, C, H, W]`` to features ``[B, feature_dim]``.

        A node that no op of ``weights`` reaches passes nothing on, as in a single path. A node whose ops all have
        weight 0 is reached: convolutions on its zeros add the shift of their BN, as in the original.
        """
        state: Tensor | None = self.stem(channels_last(x))
        for index, cell in enumerate(self.cells):
            if state is not None and str(index) in self.reductions:
                state = self.reductions[str(index)](state)
            if state is not None:
                state = self._mix(cast(nn.ModuleDict, cell), state, weights["cell"])
        if state is None:
            state = x.new_zeros(x.shape[0], self.feature_dim, 2, 2)
        return F.relu(self.norm(state)).mean(dim=(2, 3))

    def _mix(self, cell: nn.ModuleDict, x: Tensor, weights: Mapping[Place, Mapping[str, Tensor]]) -> Tensor | None:
        states = {0: Source(x)}
        for node in range(1, self.nodes + 1):
            terms = [
                term
                for (src, dst), row in weights.items()
                if dst == node and src in states
                for term in states[src].terms(cell[f"{src}_{dst}"], row)
            ]
            if terms:
                states[node] = Source(added(terms))
        return states[self.nodes].x if self.nodes in states else None

    def owned_ops(self) -> Iterator[tuple[str, str, Edge]]:
        """Yield, for each op module held, its name prefix (with the dot), cell type and edge."""
        for place, (part,) in self.menu["trunk"].items():
            prefix = "stem." if part == "stem" else f"reductions.{part.removeprefix('reduction_')}."
            yield prefix, "trunk", Edge(part, *place)
        for index in range(len(self.cells)):
            for (src, dst), ops in self.menu["cell"].items():
                for op in ops:
                    yield f"cells.{index}.{src}_{dst}.{op}.", "cell", Edge(op, src, dst)


def reductions(cells: int) -> frozenset[int]:
    """Return the cells that a residual reduction precedes; 5 and 10 of the 15 of NAS-Bench-201."""
    return frozenset({cells // 3, 2 * cells // 3}) - {0}


class Nb201(SearchSpace):
    """One cell, stacked: every later node sums one op on each earlier one, ``none`` included (Dong and Yang 2020).

    With three nodes beside the input 6 edges of 5 ops, 15,625 architectures. NAS-Bench-201 stacks 15 cells of 16
    channels; the default of 3 keeps its shape at the size of few-shot networks.

    Deviations: the stem pools images larger than 21 pixels; edges that no image reaches through, because ``none`` cuts
    them off from the input or the output, are left out of the network (in the original a convolution on zeros still
    adds its BN's shift). An architecture without any way from input to output ignores its images.

    Args:
        channels: channels of the first cell.
        cells: number of cells; residual blocks before the cells at one and two thirds halve the size.
        nodes: nodes of a cell beside its input.
    """

    name: ClassVar[str] = "nb201"

    def __init__(self, channels: int = 16, cells: int = 3, nodes: int = 3) -> None:
        super().__init__(channels, cells, nodes)
        self.places = tuple((src, dst) for dst in range(1, nodes + 1) for src in range(dst))
        self._decisions = tuple(Decision(f"cell/{src}_{dst}/op", "op", NB201_OPS) for src, dst in self.places)

    def _edges(self, decisions: Sequence[int]) -> tuple[tuple[str, tuple[Edge, ...]], ...]:
        return (
            ("cell", tuple(Edge(NB201_OPS[choice], *at) for choice, at in zip(decisions, self.places, strict=True))),
        )

    def _decisions_of(self, genotype: Genotype) -> tuple[int, ...]:
        given = [(cell_type, [edge[1:] for edge in edges]) for cell_type, edges in genotype.edges]
        if given != [("cell", list(self.places))]:
            raise InputError(
                f"genotype: edges {given} given, space {self.name} with nodes={self.nodes} has the edges "
                f"{list(self.places)} of cell type cell"
            )
        return tuple(op_index(NB201_OPS, edge, "cell", self.name) for edge in genotype.edges[0][1])

    def menu(self) -> Menu:
        """Return every edge with its five ops. The weight of ``none`` adds nothing to a mixture, but can be derived."""
        return {"cell": {place: NB201_OPS for place in self.places}}

    def with_fixed_parts(self, menu: Menu) -> Menu:
        """Add the stem and the reductions under ``trunk``; without any edge there are none."""
        later = {(index, index): (f"reduction_{index}",) for index in sorted(reductions(self.cells))}
        return {"cell": menu["cell"], "trunk": {(0, 0): ("stem",), **later} if menu["cell"] else {}}

    def menu_of(self, genotype: Genotype) -> Menu:
        """Return the edges that carry images from input to output; without any, no stem and no reduction either."""
        live = live_edges(genotype.edges[0][1], self.nodes)
        return self.with_fixed_parts({"cell": {edge[1:]: (edge.op,) for edge in live}})

    def body(self, in_channels: int, image_size: int, menu: Menu, style: LayerStyle = DERIVED) -> Body:
        """Build the network; see :class:`Nb201Body`."""
        return Nb201Body(in_channels, image_size, self.channels, self.cells, self.nodes, menu, style)
