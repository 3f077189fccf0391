"""Pruning by ranks: against an independent ranking written as loops, with ties, and the published counts."""

import doctest
import random

import pytest
import torch

from few_shot_nas.algorithms.meta_ntk_nas import MetaNTKNAS
from few_shot_nas.search import pruning
from few_shot_nas.search.pruning import Candidate, Scores, by_importance, evaluations, first_stage, margin
from few_shot_nas.spaces import SPACES
from few_shot_nas.spaces.genotype import Edge
from few_shot_nas.spaces.supernet import Supernet


def prune_all(stage, seed=0, levels=4):
    """Run a search on synthetic scores with many ties."""
    rng, seen = random.Random(seed), []
    while not stage.finished:
        scores = {c: Scores(rng.randrange(levels) / 7, rng.randrange(levels) / 7) for c in stage.candidates()}
        after = stage.after(scores)
        seen.append((stage, scores, after))
        stage = after
    return stage, seen


def test_the_examples_in_the_docstrings_hold():
    result = doctest.testmod(pruning)
    assert result.attempted and not result.failed


@pytest.mark.parametrize(("space", "nodes", "count"), [("darts_fewshot", 3, 500), ("darts", 4, 780)])
@pytest.mark.parametrize("cells", [5, 8])
def test_a_search_takes_the_published_number_of_evaluations(space, nodes, cells, count):
    stage = first_stage(SPACES[space](channels=16, cells=cells, nodes=nodes))
    assert evaluations(stage) == count
    end, seen = prune_all(stage)
    assert sum(len(scores) for _, scores, _ in seen) == count
    assert len(seen) == 6 + 2 * (nodes - 1)
    for edges in end.active.values():
        kept = [place for place, ops in edges.items() if ops]
        assert all(len(edges[place]) == 1 for place in kept)
        assert [sum(dst == node for _, dst in kept) for node in range(2, 2 + nodes)] == [2] * nodes


@pytest.mark.parametrize(("per_round", "count"), [(3, 332), (2, 444)])
def test_te_nas_prunes_several_ops_a_round(per_round, count):
    assert evaluations(first_stage(SPACES["darts"](channels=16, cells=8), per_round)) == count


@pytest.mark.parametrize(
    ("space", "nodes", "count"), [("darts_fewshot", 3, 500), ("metantk", 3, 500), ("darts", 4, 780)]
)
def test_the_search_itself_scores_as_many(space, nodes, count):
    with torch.device("meta"):
        net = Supernet(5, 3, 32, space=space, channels=4, cells=5, nodes=nodes)
    assert MetaNTKNAS(net).total == count


def test_nb201_ends_with_one_op_per_edge_and_none_competes():
    stage = first_stage(SPACES["nb201"](channels=16))
    assert any(candidate.op == "none" for candidate in stage.candidates())
    assert evaluations(stage) == 6 * (5 + 4 + 3 + 2)
    end, _ = prune_all(stage)
    assert all(len(ops) == 1 for ops in end.active["cell"].values())


@pytest.mark.parametrize("seed", range(5))
def test_every_round_prunes_one_op_per_edge_and_the_end_is_an_architecture(seed):
    space = SPACES["darts_fewshot"](channels=16, cells=5)
    end, seen = prune_all(first_stage(space), seed)
    for before, _, after in seen[:6]:
        for cell_type, edges in before.active.items():
            assert all(len(after.active[cell_type][place]) == len(ops) - 1 for place, ops in edges.items())
    for edges in end.active.values():
        kept = [place for place, ops in edges.items() if ops]
        assert [sum(dst == node for _, dst in kept) for node in (2, 3, 4)] == [2, 2, 2]
    genotype = dict.fromkeys(end.active)
    for cell_type, edges in end.active.items():
        kept = [Edge(ops[0], *place) for place, ops in edges.items() if ops]
        genotype[cell_type] = tuple(sorted(kept, key=lambda edge: (edge.dst, edge.src)))
    assert all(len(edges) == 6 for edges in genotype.values())


def plain_ranking(scores):
    """The published ranking, as an independent loop: sort, walk through neighbours, add, sort."""
    sums = {}
    for field, reverse in ((0, True), (1, False)):
        rows = [(value[field], candidate) for candidate, value in scores.items()]
        rows.sort(key=lambda row: float(f"{row[0]:.3g}"), reverse=reverse)
        rank = 0
        for index, (value, candidate) in enumerate(rows):
            if index and value != rows[index - 1][0]:
                rank += 1
            sums.setdefault(candidate, []).append(rank)
    return sorted(sums, key=lambda candidate: sum(sums[candidate]))


@pytest.mark.parametrize("seed", range(20))
def test_ops_and_edges_are_pruned_as_published_even_with_ties(seed):
    for stage, scores, after in prune_all(first_stage(SPACES["darts_fewshot"](channels=16, cells=5)), seed)[1]:
        order = plain_ranking(scores)
        gone = {c for c in scores if c.op not in after.active[c.cell_type][c.place]}
        if stage.of_ops:
            first = {}
            for candidate in order:
                first.setdefault(candidate[:2], candidate)
            assert gone == set(first.values())
        else:
            assert gone == set(order[:-2]) and len({(c.cell_type, c.place[1]) for c in scores}) == 1


def test_scores_that_differ_past_three_digits_have_ranks_of_their_own_in_the_order_they_come():
    a, b, c = (Candidate("normal", (0, 2), op) for op in "abc")
    scores = {a: Scores(0.12341, 0.0), b: Scores(0.12342, 0.0), c: Scores(0.2, 0.0)}
    assert by_importance(scores) == [c, a, b]
    assert pruning.dense_ranks({k: v.trainability for k, v in scores.items()}, descending=True) == {c: 0, a: 1, b: 2}


def test_the_op_that_harms_the_kernel_most_and_loses_fewest_regions_goes_first():
    good, bad, fair = (Candidate("normal", (0, 2), op) for op in ("good", "bad", "fair"))
    scores = {good: Scores(-0.5, 0.4), fair: Scores(0.0, 0.1), bad: Scores(0.6, 0.0)}
    assert by_importance(scores) == [bad, fair, good]
    assert margin(scores, [bad]) == 2 and margin(scores, [bad, fair]) == 2


def test_the_margin_is_between_the_last_that_goes_and_the_first_that_stays_of_an_edge_or_of_a_node():
    def edge(src, *ops):
        return [Candidate("normal", (src, 3), op) for op in ops]

    (a, b, c), (d, e) = edge(0, "a", "b", "c"), edge(1, "d", "e")
    sums = {a: 0, d: 1, b: 2, c: 3, e: 4}  # one rank each; the other score is equal for all
    scores = {candidate: Scores(-float(rank), 0.0) for candidate, rank in sums.items()}
    assert margin(scores, [a, d]) == ((2 - 0) + (4 - 1)) / 2
    assert margin(scores, [a, b, d]) == ((3 - 2) + (4 - 1)) / 2  # two ops a round, but never the last
    edges = [edge(src, "a")[0] for src in range(4)]
    scores = {candidate: Scores(-float(rank**2), 0.0) for rank, candidate in enumerate(edges)}
    assert margin(scores, edges[:2]) == 1
    tied = dict.fromkeys(edges, Scores(0.0, 0.0))
    assert margin(tied, edges[:2]) == 0


def test_a_stage_is_written_and_read_and_refuses_scores_of_others():
    space = SPACES["darts_fewshot"](channels=16, cells=5)
    start = first_stage(space)
    for stage, _, _ in prune_all(start)[1]:
        assert start.restored(stage.state()) == stage
    with pytest.raises(ValueError, match="3 scores given for the 126 candidates"):
        start.after(dict(list(dict.fromkeys(start.candidates(), Scores(0, 0)).items())[:3]))
    end, _ = prune_all(start)
    assert end.candidates() == [] and start.restored(end.state()).finished
