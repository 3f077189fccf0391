"""Which op of a mixture is pruned next: rankings of candidates by two scores, and the stages of a search by pruning.

Everything here is data and pure functions; what the scores measure is the caller's.

Source: TE-NAS (Chen et al., ICLR 2021, arXiv:2102.11535, algorithm 1) and MetaNTK-NAS (Wang et al., CVPR 2022), whose
released codes share the ranking.
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from few_shot_nas.spaces.space import Menu, Place, SearchSpace

#: Edges that a node of a derived cell has, in the spaces of two inputs per node.
INPUTS = 2


class Candidate(NamedTuple):
    """An op on an edge that may be pruned."""

    cell_type: str
    place: Place
    op: str


class Scores(NamedTuple):
    """What pruning a candidate would do, relative to the network as it is.

    Attributes:
        trainability: mean of ``(kappa_0 - kappa_1) / kappa_0``; positive where the kernel gets better conditioned.
        expressivity: mean of ``(R_0 - R_1) / R_0``; positive where linear regions get lost.
    """

    trainability: float
    expressivity: float


def significant(value: float, digits: int = 3) -> float:
    """Round to so many significant digits.

    Example:
        >>> significant(0.012345), significant(-987.65), significant(0.0)
        (0.0123, -988.0, 0.0)
    """
    if value == 0 or not math.isfinite(value):
        return value
    return round(value, digits - 1 - math.floor(math.log10(abs(value))))


def dense_ranks(values: Mapping[Candidate, float], *, descending: bool, digits: int = 3) -> dict[Candidate, int]:
    """Rank candidates by a score, 0 first; neighbours with equal scores share a rank, and no rank is left out.

    Candidates are put in order by their scores of ``digits`` significant digits, equal ones as they come. Neighbours
    share a rank if their scores are equal to the last bit.

    Returns:
        The ranks, in that order.

    Example:
        >>> a, b, c = (Candidate("normal", (0, 2), op) for op in "abc")
        >>> list(dense_ranks({a: 1.0, b: 2.0, c: 2.0}, descending=True).values())
        [0, 0, 1]
    """
    sign = -1 if descending else 1
    order = sorted(values, key=lambda candidate: sign * significant(values[candidate], digits))
    ranks: dict[Candidate, int] = {}
    for before, candidate in zip([None, *order], order, strict=False):
        if before is None:
            ranks[candidate] = 0
        else:
            ranks[candidate] = ranks[before] + (values[before] != values[candidate])
    return ranks


def rank_sums(scores: Mapping[Candidate, Scores]) -> dict[Candidate, int]:
    """Return the sum of the two ranks of each candidate, in order of the first rank.

    Rank 0 has the candidate whose pruning conditions the kernel best, and the one whose pruning loses the fewest linear
    regions.
    """
    trainable = dense_ranks({c: s.trainability for c, s in scores.items()}, descending=True)
    expressive = dense_ranks({c: s.expressivity for c, s in scores.items()}, descending=False)
    return {candidate: trainable[candidate] + expressive[candidate] for candidate in trainable}


def by_importance(scores: Mapping[Candidate, Scores]) -> list[Candidate]:
    """Order candidates by the sum of their two ranks, the least important first.

    Of equal sums the one with the better conditioned kernel comes first.
    """
    sums = rank_sums(scores)
    return sorted(sums, key=lambda candidate: sums[candidate])


def margin(scores: Mapping[Candidate, Scores], pruned: Collection[Candidate]) -> float:
    """By how many ranks the pruned candidates are ahead of the candidates that stay, at the closest pair.

    Ops compete with the other ops of their edge. Edges, when they have one op each, compete with the other edges of
    their node. The margin is the mean over these competitions; a small one says that chance decides.

    Example:
        >>> a, b, c = (Candidate("normal", (0, 2), op) for op in "abc")
        >>> margin({a: Scores(0.3, -0.1), b: Scores(0.2, 0.0), c: Scores(0.1, 0.1)}, pruned=[a])
        2.0
    """
    sums, competitions = rank_sums(scores), Counter(candidate[:2] for candidate in scores)
    groups: dict[Any, list[Candidate]] = {}
    for candidate in scores:
        edge = candidate[:2]
        groups.setdefault(edge if competitions[edge] > 1 else "edges of a node", []).append(candidate)
    gaps = [
        min(sums[c] for c in group if c not in pruned) - max(sums[c] for c in group if c in pruned)
        for group in groups.values()
    ]
    return sum(gaps) / len(gaps)


def without(menu: Menu, pruned: Sequence[Candidate]) -> Menu:
    """Return a menu without some ops; an edge may be left empty."""
    gone = set(pruned)
    return {
        cell_type: {
            place: tuple(op for op in ops if Candidate(cell_type, place, op) not in gone)
            for place, ops in edges.items()
        }
        for cell_type, edges in menu.items()
    }


@dataclass(frozen=True)
class Stage:
    """Where a search by pruning stands.

    First come rounds that prune ``per_round`` ops of every edge, until each has one; then, in spaces whose nodes have
    two inputs, one stage for each node with more, which prunes all its edges but two.

    Attributes:
        active: the ops that are left.
        per_round: ops pruned of an edge in a round, but never the last one.
        groups: (cell type, node) whose edges are still to be pruned, the next one first.
        number: stages before this one.
    """

    active: Menu
    per_round: int
    groups: tuple[tuple[str, int], ...]
    number: int = 0

    @property
    def of_ops(self) -> bool:
        """Whether this stage prunes ops; else it prunes the edges of a node, or nothing is left to do."""
        return any(len(ops) > 1 for edges in self.active.values() for ops in edges.values())

    @property
    def finished(self) -> bool:
        """Whether nothing is left to prune."""
        return not self.of_ops and not self.groups

    def candidates(self) -> list[Candidate]:
        """Return what is to be scored: all ops of all edges, or the edges of the next node."""
        if not self.of_ops and not self.groups:
            return []
        return [
            Candidate(cell_type, place, op)
            for cell_type, edges in self.active.items()
            for place, ops in edges.items()
            if (len(ops) > 1 if self.of_ops else (cell_type, place[1]) == self.groups[0])
            for op in ops
        ]

    def after(self, scores: Mapping[Candidate, Scores]) -> "Stage":
        """Return the next stage, once all candidates are scored.

        Raises:
            ValueError: if the scores are not those of the candidates.
        """
        if set(scores) != set(self.candidates()):
            raise ValueError(f"{len(scores)} scores given for the {len(self.candidates())} candidates of a stage")
        groups = self.groups if self.of_ops else self.groups[1:]
        return Stage(without(self.active, self.pruned(scores)), self.per_round, groups, self.number + 1)

    def pruned(self, scores: Mapping[Candidate, Scores]) -> list[Candidate]:
        """Return which of the scored candidates go: the least important ones."""
        order = by_importance(scores)
        return self._first_of_each_edge(order) if self.of_ops else order[: len(order) - INPUTS]

    def _first_of_each_edge(self, order: Sequence[Candidate]) -> list[Candidate]:
        """Return the first ``per_round`` candidates of each edge, but never its last op."""
        left = {
            (cell_type, place): min(self.per_round, len(ops) - 1)
            for cell_type, edges in self.active.items()
            for place, ops in edges.items()
        }
        pruned = []
        for candidate in order:
            if left[candidate[:2]] > 0:
                left[candidate[:2]] -= 1
                pruned.append(candidate)
        return pruned

    def state(self) -> dict[str, Any]:
        """Return the stage as plain data."""
        active = [
            [cell_type, list(place), list(ops)] for cell_type, edges in self.active.items()
            for place, ops in edges.items()
        ]  # fmt: skip
        return {"active": active, "groups": [list(group) for group in self.groups], "number": self.number}

    def restored(self, state: Mapping[str, Any]) -> "Stage":
        """Return the stage that :meth:`state` described, of a search with the settings of this one."""
        active: dict[str, dict[Place, tuple[str, ...]]] = {}
        for cell_type, (src, dst), ops in state["active"]:
            active.setdefault(cell_type, {})[src, dst] = tuple(ops)
        groups = tuple((str(cell_type), int(node)) for cell_type, node in state["groups"])
        return Stage(active, self.per_round, groups, int(state["number"]))


def first_stage(space: SearchSpace, per_round: int = 1) -> Stage:
    """Return where a search of a space starts: with all its ops, ``none`` left out if the space never derives it.

    Args:
        space: the space. If its genotypes have two edges per node, the edges are pruned to two at the end.
        per_round: ops pruned of an edge in a round.
    """
    two_inputs = any(decision.kind == "inputs" for decision in space.decisions)
    active = {
        cell_type: {place: tuple(op for op in ops if not (two_inputs and op == "none")) for place, ops in edges.items()}
        for cell_type, edges in space.menu().items()
    }
    nodes = sorted({(cell_type, dst) for cell_type, edges in active.items() for _, dst in edges}, key=_by(active))
    groups = [
        (cell_type, node)
        for cell_type, node in nodes
        if two_inputs and sum(dst == node for _, dst in active[cell_type]) > INPUTS
    ]
    return Stage(active, per_round, tuple(groups))


def _by(active: Menu) -> Any:
    """Return the key that orders (cell type, node) by the cell types as they come."""
    place = {cell_type: number for number, cell_type in enumerate(active)}
    return lambda pair: (place[pair[0]], pair[1])


def evaluations(stage: Stage) -> int:
    """Return how many candidates a search from here evaluates; it does not depend on the scores.

    Example:
        >>> from few_shot_nas.spaces.darts_fewshot import DartsFewshot
        >>> evaluations(first_stage(DartsFewshot(cells=5)))
        500
    """
    total = 0
    while not stage.finished:
        candidates = stage.candidates()
        total += len(candidates)
        stage = stage.after(dict.fromkeys(candidates, Scores(0.0, 0.0)))
    return total
