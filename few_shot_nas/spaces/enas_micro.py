"""The micro space of ENAS: two cells of blocks, each block the sum of two ops on earlier states."""

from collections.abc import Iterator, Sequence
from functools import reduce
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from few_shot_nas.errors import InputError
from few_shot_nas.nn.layout import channels_last
from few_shot_nas.nn.norm import BatchNorm2d
from few_shot_nas.spaces.cell import added, pooling_stem, reductions
from few_shot_nas.spaces.genotype import Edge, Genotype
from few_shot_nas.spaces.ops import DERIVED, OPS, FactorizedReduce, LayerStyle, Zero, relu_conv_norm
from few_shot_nas.spaces.source import Source
from few_shot_nas.spaces.space import (
    Body,
    Decision,
    EdgeNumbers,
    EdgeWeights,
    Menu,
    Place,
    SearchSpace,
    heaviest,
    op_index,
)

# In the order of the arc strings.
MICRO_OPS = ("sep_conv_3x3", "sep_conv_5x5", "avg_pool_3x3", "max_pool_3x3", "skip_connect")
BRANCHES = ("left", "right")
NONE = ("none",)


def loose_ends(edges: Sequence[Edge], nodes: int) -> tuple[int, ...]:
    """Return the states of a cell, its inputs included, that no block reads."""
    read = {edge.src for edge in edges}
    return tuple(state for state in range(nodes + 2) if state not in read)


class MicroCell(nn.Module):
    """Blocks over two inputs; the output mixes the states that no block reads.

    States 0 and 1 are the inputs at ``channels``; block b gives state b + 2, the sum of its two branches. The output is
    ReLU, 1x1 convolution, BN of the concatenated loose ends; each state has its own slice of the convolution, so that
    architectures share it.

    A reduction cell reads the output before it twice, each time through a factorised reduction of its own, as in ENAS.

    Args:
        before: channels of the older input.
        last: channels of the newer input.
        channels: channels of every state.
        reduction: whether this cell halves the size.
        menu: the ops under ``left`` and ``right``, and the states mixed under ``out``.
        style: how layers are made.
    """

    def __init__(
        self, before: int, last: int, channels: int, reduction: bool, menu: Menu, style: LayerStyle = DERIVED
    ) -> None:
        super().__init__()
        self.reduction = reduction
        self.zero = Zero(1)
        if reduction:
            self.pre0: nn.Module = FactorizedReduce(last, channels, style)
            self.pre1: nn.Module = FactorizedReduce(last, channels, style)
        else:
            self.pre0 = relu_conv_norm(before, channels, style)
            self.pre1 = relu_conv_norm(last, channels, style)
        for branch in BRANCHES:
            ops = {
                f"{src}_{dst}": nn.ModuleDict({op: OPS[op](channels, channels, 1, style) for op in ops})
                for (src, dst), ops in menu[branch].items()
            }
            self.add_module(branch, nn.ModuleDict(ops))
        self.out = nn.ModuleDict({str(src): nn.Conv2d(channels, channels, 1, bias=False) for src, _ in menu["out"]})
        self.norm = BatchNorm2d(channels, affine=style.affine)

    def forward(self, before: Tensor, last: Tensor, edges: Sequence[Edge]) -> tuple[Tensor, Tensor]:
        """Run the cell; return what the next cell's older input is, and the output."""
        older = last if self.reduction else before
        states = [self.pre0(older), self.pre1(last)]
        for left, right in zip(edges[::2], edges[1::2], strict=True):
            states.append(self._branch("left", left, states) + self._branch("right", right, states))
        mixed = [self.out[str(state)](F.relu(states[state])) for state in loose_ends(edges, len(edges) // 2)]
        return (states[1] if self.reduction else last), self.norm(sum(mixed[1:], mixed[0]))

    def mixed(self, before: Tensor, last: Tensor, weights: EdgeWeights) -> tuple[Tensor, Tensor]:
        """Run the cell as a mixture of branches ``left`` and ``right``; returns as :meth:`forward` does.

        The share of a state in the output is the product, over the edges that leave it, of their weights of ``none``:
        the probability that no block reads it. An edge with ops but without ``none`` reads for certain.
        """
        states = [Source(self.pre0(last if self.reduction else before)), Source(self.pre1(last))]
        blocks = max(dst for _, dst in weights["left"]) - 1
        for block in range(2, blocks + 2):
            terms = [
                term
                for branch in BRANCHES
                for (src, dst), row in weights[branch].items()
                if dst == block
                for term in states[src].terms(self.get_submodule(f"{branch}.{src}_{dst}"), row)
            ]
            states.append(Source(added(terms) if terms else self.zero(states[0].x)))
        mixed = []
        for state, out in ((int(name), layer) for name, layer in self.out.items()):
            rows = [row for branch in BRANCHES for (src, _), row in weights[branch].items() if src == state and row]
            if all("none" in row for row in rows):
                shares = [row["none"] for row in rows if len(row) > 1]
                mixed.append(reduce(torch.mul, shares, out(F.relu(states[state].x))))
        return (states[1].x if self.reduction else last), self.norm(added(mixed))

    def _branch(self, branch: str, edge: Edge, states: Sequence[Tensor]) -> Tensor:
        return self.get_submodule(f"{branch}.{edge.src}_{edge.dst}.{edge.op}")(states[edge.src])


class MicroBody(Body):
    """Stem, cells, ReLU, global average pool.

    Args:
        in_channels: channels of the images.
        image_size: height and width of the images.
        channels: channels of the first cell, doubled by each reduction cell.
        cells: number of cells.
        menu: for each cell type, the parts ``TYPE/left``, ``TYPE/right`` and ``TYPE/out``.
        style: how the layers of the cells are made; the BN of the stem is affine.

    Raises:
        InputError: if the images are too small.
    """

    def __init__(
        self, in_channels: int, image_size: int, channels: int, cells: int, menu: Menu, style: LayerStyle = DERIVED
    ) -> None:
        super().__init__()
        if image_size < 8:
            raise InputError(f"space enas_micro: image_size={image_size} given, at least 8 is needed")
        self.menu = menu
        self.stem = pooling_stem(in_channels, channels, image_size)
        before = last = channels
        self.cell_types = tuple("reduce" if index in reductions(cells) else "normal" for index in range(cells))
        self.cells = nn.ModuleList()
        for cell_type in self.cell_types:
            reduction = cell_type == "reduce"
            channels *= 2 if reduction else 1
            parts = {part: menu[f"{cell_type}/{part}"] for part in (*BRANCHES, "out")}
            self.cells.append(MicroCell(before, last, channels, reduction, parts, style))
            before, last = channels if reduction else last, channels
        self.feature_dim = last

    def forward(self, x: Tensor, genotype: Genotype) -> Tensor:
        """Run only the genotype's path: ``[B, C, H, W]`` to features ``[B, feature_dim]``."""
        edges = dict(genotype.edges)
        before = last = self.stem(channels_last(x))
        for cell, cell_type in zip(self.cells, self.cell_types, strict=True):
            before, last = cell(before, last, edges[cell_type])
        return F.relu(last).mean(dim=(2, 3))

    def mixed(self, x: Tensor, weights: EdgeWeights) -> Tensor:
        """Run a mixture; see :meth:`MicroCell.mixed`: ``[B, C, H, W]`` to features ``[B, feature_dim]``."""
        before = last = self.stem(channels_last(x))
        for cell, cell_type in zip(self.cells, self.cell_types, strict=True):
            rows = {branch: weights[f"{cell_type}/{branch}"] for branch in BRANCHES}
            before, last = cast(MicroCell, cell).mixed(before, last, rows)
        return F.relu(last).mean(dim=(2, 3))

    def owned_ops(self) -> Iterator[tuple[str, str, Edge]]:
        """Yield, for each op module held, its name prefix (with the dot), part of a cell and edge."""
        for index, cell_type in enumerate(self.cell_types):
            for branch in BRANCHES:
                part = f"{cell_type}/{branch}"
                for (src, dst), ops in self.menu[part].items():
                    for op in ops:
                        yield f"cells.{index}.{branch}.{src}_{dst}.{op}.", part, Edge(op, src, dst)
            for (src, dst), (op,) in self.menu[f"{cell_type}/out"].items():
                yield f"cells.{index}.out.{src}.", f"{cell_type}/out", Edge(op, src, dst)


class EnasMicro(SearchSpace):
    """A normal and a reduction cell of ``nodes`` blocks B (Pham et al. 2018, section 2.4).

    Block i (from 2) takes four decisions: two of the i earlier states, then an op of five for each; its output is the
    sum. Both states may be the same, and each branch has its own weights. Size ``prod_{i=2..B+1} (5 i)**2`` per cell,
    5.1e12 for B = 5 and 2.6e25 for the pair; order matters, so a sum counts twice.

    Deviations: cells are placed as :func:`few_shot_nas.spaces.cell.reductions` says; both inputs are always brought to
    ``channels`` by ReLU, 1x1 convolution, BN (ENAS does so where channels differ); the stem pools images larger than 21
    pixels and gives ``channels`` channels (ENAS: three times as many); no dropout, drop-path or auxiliary head.

    Args:
        channels: channels of the first cell.
        cells: number of cells; see :func:`few_shot_nas.spaces.cell.reductions` for which of them reduce.
        nodes: blocks per cell.
    """

    name: ClassVar[str] = "enas_micro"

    def __init__(self, channels: int = 16, cells: int = 2, nodes: int = 5) -> None:
        super().__init__(channels, cells, nodes)
        self.cell_types = ("normal", "reduce") if len(reductions(cells)) < cells else ("reduce",)
        self._decisions = tuple(self._block_decisions())

    def _block_decisions(self) -> Iterator[Decision]:
        for cell_type in self.cell_types:
            for state in range(2, self.nodes + 2):
                yield Decision(f"{cell_type}/{state}/first_index", "index", tuple(range(state)))
                yield Decision(f"{cell_type}/{state}/second_index", "index", tuple(range(state)))
                yield Decision(f"{cell_type}/{state}/first_op", "op", MICRO_OPS)
                yield Decision(f"{cell_type}/{state}/second_op", "op", MICRO_OPS)

    def _edges(self, decisions: Sequence[int]) -> tuple[tuple[str, tuple[Edge, ...]], ...]:
        left = iter(decisions)
        cells = []
        for cell_type in self.cell_types:
            edges: list[Edge] = []
            for state in range(2, self.nodes + 2):
                first, second, first_op, second_op = (next(left) for _ in range(4))
                edges += [Edge(MICRO_OPS[first_op], first, state), Edge(MICRO_OPS[second_op], second, state)]
            cells.append((cell_type, tuple(edges)))
        return tuple(cells)

    def _decisions_of(self, genotype: Genotype) -> tuple[int, ...]:
        given = tuple(cell_type for cell_type, _ in genotype.edges)
        if given != self.cell_types:
            raise InputError(
                f"genotype: cell types {', '.join(given)} given, space {self.name} has {', '.join(self.cell_types)}"
            )
        decisions: list[int] = []
        for cell_type, edges in genotype.edges:
            if [edge.dst for edge in edges] != [state for state in range(2, self.nodes + 2) for _ in BRANCHES]:
                raise InputError(
                    f"genotype: {len(edges)} edges in {cell_type} given, two are needed into each of the states "
                    f"2..{self.nodes + 1}, in this order"
                )
            for first, second in zip(edges[::2], edges[1::2], strict=True):
                for edge in (first, second):
                    if not 0 <= edge.src < edge.dst:
                        raise InputError(f"genotype: edge {edge.src}->{edge.dst} of {cell_type} given, src is not less")
                decisions += [first.src, second.src]
                decisions += [op_index(MICRO_OPS, edge, cell_type, self.name) for edge in (first, second)]
        return tuple(decisions)

    def menu(self) -> Menu:
        """Return every edge from an earlier state to a block for both branches, with ``none`` and then all ops.

        Each branch of a block reads one state by one op. A mixture has an edge for every state that the branch could
        read. Its weights are those of the ops on that state, and of ``none``, which says that the branch reads another.
        """
        edges = {(src, dst): NONE + MICRO_OPS for dst in range(2, self.nodes + 2) for src in range(dst)}
        return {f"{cell_type}/{branch}": edges for cell_type in self.cell_types for branch in BRANCHES}

    def with_fixed_parts(self, menu: Menu) -> Menu:
        """Add, under ``TYPE/out``, the states that may be loose ends, because no edge reads them for certain."""
        out: dict[str, dict[Place, tuple[str, ...]]] = {}
        for cell_type in self.cell_types:
            held = [item for branch in BRANCHES for item in menu[f"{cell_type}/{branch}"].items()]
            read = {src for (src, _), ops in held if ops and "none" not in ops}
            ends = [state for state in range(self.nodes + 2) if state not in read]
            out[f"{cell_type}/out"] = {(state, self.nodes + 2): ("loose_end",) for state in ends}
        return {**menu, **out}

    def menu_of(self, genotype: Genotype) -> Menu:
        """Return the edges by branch, and the loose ends."""
        return self.with_fixed_parts(self.chosen(genotype))

    def chosen(self, genotype: Genotype) -> Menu:
        """Return the genotype's ops by the cell types of :meth:`menu`."""
        return {
            f"{cell_type}/{branch}": {edge[1:]: (edge.op,) for edge in edges[place::2]}
            for cell_type, edges in genotype.edges
            for place, branch in enumerate(BRANCHES)
        }

    def _strongest(self, weights: EdgeNumbers) -> tuple[tuple[str, tuple[Edge, ...]], ...]:
        """Return, for each branch of each block, its heaviest edge with its heaviest op, ``none`` left out."""
        cells = []
        for cell_type in self.cell_types:
            edges = []
            for state in range(2, self.nodes + 2):
                for branch in BRANCHES:
                    rows = weights[f"{cell_type}/{branch}"]
                    ops = {place: heaviest(row, without=NONE) for place, row in rows.items() if place[1] == state}
                    weight = {place: rows[place][op] for place, op in ops.items()}
                    place = max(weight, key=weight.__getitem__)
                    edges.append(Edge(ops[place], *place))
            cells.append((cell_type, tuple(edges)))
        return tuple(cells)

    def body(self, in_channels: int, image_size: int, menu: Menu, style: LayerStyle = DERIVED) -> Body:
        """Build the network; see :class:`MicroBody`."""
        return MicroBody(in_channels, image_size, self.channels, self.cells, menu, style)
