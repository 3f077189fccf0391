"""What the cell spaces of the DARTS family have in common: two inputs per node, an op on each."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import ClassVar

from few_shot_nas.errors import InputError
from few_shot_nas.spaces.cell import CellBody, reductions
from few_shot_nas.spaces.genotype import Edge, Genotype
from few_shot_nas.spaces.ops import DERIVED, LayerStyle
from few_shot_nas.spaces.space import Body, Decision, EdgeNumbers, Menu, SearchSpace, heaviest, op_index

NONE = ("none",)


@cache
def input_pairs(node: int) -> tuple[tuple[int, int], ...]:
    """Return the pairs of states that node ``node`` can read: C(node + 2, 2) of them.

    Ordered by the later state first, so the pairs of a node begin with those of the node before, and a policy can
    share what it learns about a pair between nodes.
    """
    return tuple((first, second) for second in range(node + 2) for first in range(second))


class CellSpace(SearchSpace):
    """A normal and a reduction cell; node i of a cell takes three decisions: a pair of earlier states and two ops.

    A cell type that ``cells`` does not use (``normal`` in a single cell) has no decisions.

    Args:
        channels: channels of the first cell.
        cells: number of cells; see :func:`few_shot_nas.spaces.cell.reductions` for which of them reduce.
        nodes: intermediate nodes per cell.
    """

    ops: ClassVar[tuple[str, ...]]
    #: The stem gives this many times ``channels``.
    stem_multiplier: ClassVar[int] = 1
    #: Whether the stem pools the images until they are at most 21 pixels wide.
    pools: ClassVar[bool] = True
    #: By how much a reduction cell multiplies the channels.
    growth: ClassVar[int] = 2
    #: Names of ops in published genotypes of this space, where they mean another op here.
    published_ops: ClassVar[Mapping[str, str]] = {}

    def __init__(self, channels: int = 16, cells: int = 2, nodes: int = 3) -> None:
        super().__init__(channels, cells, nodes)
        self.cell_types = ("normal", "reduce") if len(reductions(cells)) < cells else ("reduce",)
        self._decisions = tuple(self._node_decisions())

    def _node_decisions(self) -> Iterator[Decision]:
        for cell_type in self.cell_types:
            for node in range(self.nodes):
                yield Decision(f"{cell_type}/{node + 2}/inputs", "inputs", input_pairs(node))
                yield Decision(f"{cell_type}/{node + 2}/first_op", "op", self.ops)
                yield Decision(f"{cell_type}/{node + 2}/second_op", "op", self.ops)

    def _edges(self, decisions: Sequence[int]) -> tuple[tuple[str, tuple[Edge, ...]], ...]:
        left = iter(decisions)
        cells = []
        for cell_type in self.cell_types:
            edges: list[Edge] = []
            for node in range(self.nodes):
                pair = input_pairs(node)[next(left)]
                edges += [Edge(self.ops[next(left)], src, node + 2) for src in pair]
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
            if len(edges) != 2 * self.nodes:
                raise InputError(
                    f"genotype: {len(edges)} edges in {cell_type} given, {2 * self.nodes} are needed, two per node"
                )
            for node in range(self.nodes):
                first, second = edges[2 * node : 2 * node + 2]
                pairs = input_pairs(node)
                if first.dst != node + 2 or second.dst != node + 2 or (first.src, second.src) not in pairs:
                    raise InputError(
                        f"genotype: edges {first.src}->{first.dst} and {second.src}->{second.dst} of {cell_type} "
                        f"given where node {node + 2} needs two edges from different earlier states, lower one first"
                    )
                decisions.append(pairs.index((first.src, second.src)))
                decisions += [op_index(self.ops, edge, cell_type, self.name) for edge in (first, second)]
        return tuple(decisions)

    def menu(self) -> Menu:
        """Return every edge from an earlier state to a node, with ``none`` and then all ops.

        ``none`` belongs to mixtures alone, as in DARTS: it is never derived, and no choice of a decision.
        """
        edges = {(src, node + 2): NONE + self.ops for node in range(self.nodes) for src in range(node + 2)}
        return {cell_type: edges for cell_type in self.cell_types}

    def _strongest(self, weights: EdgeNumbers) -> tuple[tuple[str, tuple[Edge, ...]], ...]:
        """Return, for each node, its two heaviest edges with their heaviest op, ``none`` left out: DARTS, section 2.4.

        Deviation: the edges of a node are written lower state first, not heavier first.
        """
        cells = []
        for cell_type, rows in weights.items():
            edges: list[Edge] = []
            for node in range(2, self.nodes + 2):
                ops = {place: heaviest(row, without=NONE) for place, row in rows.items() if place[1] == node}
                weight = {place: rows[place][op] for place, op in ops.items()}
                inputs = sorted(weight, key=weight.__getitem__, reverse=True)[:2]  # equals keep their order
                edges += [Edge(ops[place], *place) for place in sorted(inputs)]
            cells.append((cell_type, tuple(edges)))
        return tuple(cells)

    def body(self, in_channels: int, image_size: int, menu: Menu, style: LayerStyle = DERIVED) -> Body:
        """Build stem, cells and global pool; see :class:`few_shot_nas.spaces.cell.CellBody`."""
        sizes = (in_channels, image_size, self.channels, self.cells, self.nodes)
        return CellBody(*sizes, menu, self.stem_multiplier, style, self.pools, self.growth)
