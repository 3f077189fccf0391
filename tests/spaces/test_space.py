"""Search spaces as sets of decisions."""

import dataclasses
from collections import Counter

import pytest
import torch

from few_shot_nas.errors import InputError
from few_shot_nas.spaces import SPACES
from few_shot_nas.spaces import space as space_module
from few_shot_nas.spaces.chain import CHAIN_OPS, Chain
from few_shot_nas.spaces.darts_fewshot import DARTS_FEWSHOT_OPS, DartsFewshot, input_pairs
from few_shot_nas.spaces.genotype import Edge, Genotype


@pytest.fixture(params=SPACES)
def space(request):
    return SPACES[request.param](channels=4, cells=2, nodes=3)


def some_decisions(space, count=50):
    generator = torch.Generator().manual_seed(0)
    return [space.sample(generator) for _ in range(count)]


def test_encode_undoes_decode(space):
    for decisions in some_decisions(space):
        assert space.encode(space.decode(decisions)) == decisions


def test_a_genotype_is_checked_once_however_often_it_is_used_and_a_wrong_one_every_time(space, monkeypatch):
    checks = []
    decisions_of = type(space)._decisions_of
    monkeypatch.setattr(
        type(space), "_decisions_of", lambda self, given: checks.append(given) or decisions_of(self, given)
    )
    first, second = (space.decode(decisions) for decisions in some_decisions(space, 2))
    for _ in range(3):
        assert space.decode(space.encode(first)) == first and space.decode(space.encode(second)) == second
    assert checks == [first, second]
    (cell_type, edges), *rest = first.edges
    wrong = dataclasses.replace(first, edges=((cell_type, (edges[0]._replace(op="conv_9x9"), *edges[1:])), *rest))
    for _ in range(2):
        with pytest.raises(InputError, match="op conv_9x9"):
            space.encode(wrong)
    assert checks == [first, second, wrong, wrong]


def test_a_space_remembers_a_bounded_number_of_genotypes(monkeypatch):
    monkeypatch.setattr(space_module, "MAX_REMEMBERED", 3)
    space = Chain(4, 2)
    for _ in range(2):
        for decisions in space.enumerate():
            assert space.encode(space.decode(decisions)) == decisions
    assert len(space._remembered) == 3


def test_genotypes_survive_json(space):
    for decisions in some_decisions(space):
        genotype = space.decode(decisions)
        assert Genotype.from_json(genotype.to_json()) == genotype


def test_genotypes_record_the_sizes_of_their_space(space):
    genotype = space.decode(some_decisions(space, 1)[0])
    assert (genotype.space, genotype.channels, genotype.cells, genotype.nodes) == (space.name, 4, 2, 3)


def test_decisions_have_distinct_names_and_a_kind_has_one_list_or_its_beginning(space):
    names = [decision.name for decision in space.decisions]
    assert len(set(names)) == len(names)
    for kind in {decision.kind for decision in space.decisions}:
        lists = sorted((decision.choices for decision in space.decisions if decision.kind == kind), key=len)
        assert all(lists[-1][: len(shorter)] == shorter for shorter in lists)


def test_sampling_is_repeatable_and_leaves_the_global_generator_alone(space):
    before = torch.get_rng_state()
    assert some_decisions(space) == some_decisions(space)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_choice_of_every_decision_is_sampled_about_equally_often(space):
    drawn = some_decisions(space, 700)
    for place, decision in enumerate(space.decisions):
        counts = Counter(decisions[place] for decisions in drawn)
        n = len(decision.choices)
        assert set(counts) == set(range(n))
        # 5 standard deviations of a binomial count
        assert all(abs(count - 700 / n) <= 5 * (700 * (n - 1)) ** 0.5 / n for count in counts.values())


def test_too_many_decisions_are_refused(space):
    needed = len(space.decisions)
    with pytest.raises(InputError, match=f"{needed + 1} decisions given, {needed} are needed"):
        space.decode((0,) * (needed + 1))


@pytest.mark.parametrize("wrong", [-1, 99])
def test_a_choice_out_of_range_names_its_decision(space, wrong):
    decisions = list(some_decisions(space, 1)[0])
    decisions[-1] = wrong
    with pytest.raises(InputError, match=f"choice {wrong} of decision {space.decisions[-1].name}"):
        space.decode(decisions)


@pytest.mark.parametrize("field", ["channels", "cells", "nodes"])
def test_sizes_below_one_are_refused(space, field):
    with pytest.raises(InputError, match=f"{field}=0"):
        type(space)(**{"channels": 4, "cells": 2, "nodes": 3, field: 0})


@pytest.mark.parametrize("field", ["channels", "cells", "nodes"])
def test_a_genotype_of_other_sizes_is_refused(space, field):
    genotype = space.decode(some_decisions(space, 1)[0])
    with pytest.raises(InputError, match=f"{field}=7"):
        space.encode(dataclasses.replace(genotype, **{field: 7}))


def test_a_genotype_of_another_space_is_refused():
    chain, cells = Chain(4, 2, 3), DartsFewshot(4, 2, 3)
    with pytest.raises(InputError, match="space=chain does not fit space darts_fewshot"):
        cells.encode(chain.decode((0, 0)))
    with pytest.raises(InputError, match="space=darts_fewshot does not fit space chain"):
        chain.encode(cells.decode((0,) * 18))


def with_edges(space, *cell_types):
    return Genotype(space.name, space.channels, space.cells, space.nodes, cell_types)


def test_an_unknown_op_is_named_with_its_edge(space):
    genotype = space.decode(some_decisions(space, 1)[0])
    (cell_type, edges), *rest = genotype.edges
    wrong = (cell_type, (edges[0]._replace(op="conv_9x9"), *edges[1:]))
    with pytest.raises(InputError, match=f"op conv_9x9 on edge 0->{edges[0].dst} of {cell_type}"):
        space.encode(with_edges(space, wrong, *rest))


def test_an_op_that_exists_in_another_space_only_is_refused():
    space = Chain(4, 2)
    with pytest.raises(InputError, match="op sep_conv_3x3 on edge 1->2"):
        space.encode(with_edges(space, ("chain", (Edge("conv_k3", 0, 1), Edge("sep_conv_3x3", 1, 2)))))


@pytest.mark.parametrize(
    "edges",
    [
        [("conv_k3", 0, 1)],
        [("conv_k3", 0, 1), ("conv_k3", 0, 2)],
        [("conv_k3", 1, 2), ("conv_k3", 0, 1)],
        [("conv_k3", 0, 1), ("conv_k3", 1, 2), ("conv_k3", 2, 3)],
    ],
)
def test_wrong_edges_of_a_chain_are_refused(edges):
    space = Chain(4, 2)
    with pytest.raises(InputError, match=f"edges .*{edges[0][1]}, {edges[0][2]}.* given, space chain with cells=2"):
        space.encode(with_edges(space, ("chain", tuple(Edge(*edge) for edge in edges))))


@pytest.mark.parametrize(
    ("edges", "named"),
    [
        ([(0, 2)], "1 edges in normal given, 4 are needed"),
        ([(0, 2), (0, 2), (0, 3), (1, 3)], "0->2 and 0->2 of normal"),
        ([(1, 2), (0, 2), (0, 3), (1, 3)], "1->2 and 0->2 of normal"),
        ([(0, 2), (1, 2), (0, 3), (3, 3)], "0->3 and 3->3 of normal"),
        ([(0, 3), (1, 3), (0, 2), (1, 2)], "0->3 and 1->3 of normal given where node 2"),
        ([(0, 2), (1, 3), (0, 3), (1, 3)], "0->2 and 1->3 of normal"),
    ],
)
def test_wrong_edges_of_a_cell_are_refused(edges, named):
    space = DartsFewshot(4, 2, 2)
    cell = tuple(Edge("conv_3x3", src, dst) for src, dst in edges)
    with pytest.raises(InputError, match=named):
        space.encode(with_edges(space, ("normal", cell), ("reduce", cell)))


def test_missing_or_swapped_cell_types_are_refused():
    space = DartsFewshot(4, 2, 3)
    edges = space.decode((0,) * 18).edges
    with pytest.raises(InputError, match="cell types normal given"):
        space.encode(with_edges(space, edges[0]))
    with pytest.raises(InputError, match="cell types reduce, normal given"):
        space.encode(with_edges(space, *reversed(edges)))


def test_chain_of_three_layers_enumerates_125_distinct_architectures():
    space = Chain()
    genotypes = [space.decode(decisions) for decisions in space.enumerate()]
    assert space.size() == len(genotypes) == len(set(genotypes)) == len(CHAIN_OPS) ** 3 == 125


def test_cells_sets_the_length_of_a_chain_and_nodes_changes_nothing_but_the_record():
    assert Chain(4, 2).size() == 25
    assert Chain(4, 2, 5).decisions == Chain(4, 2, 1).decisions
    assert Chain(4, 2, 5).decode((0, 0)).nodes == 5


def test_darts_fewshot_has_the_published_size():
    space = DartsFewshot()
    assert len(DARTS_FEWSHOT_OPS) == 7
    assert space.size() == (18 * 49**3) ** 2 == 2_117_682**2
    assert f"{space.size():.2e}" == "4.48e+12"


@pytest.mark.parametrize("nodes", [1, 2, 3, 4])
def test_node_i_chooses_among_all_pairs_of_earlier_states(nodes):
    pairs = input_pairs(nodes - 1)
    assert len(pairs) == len(set(pairs)) == (nodes + 1) * nodes // 2
    assert all(0 <= first < second < nodes + 1 for first, second in pairs)


def test_a_single_cell_has_no_decisions_for_the_normal_cell_it_lacks():
    space = DartsFewshot(4, 1, 1)
    assert [decision.name.split("/")[0] for decision in space.decisions] == ["reduce"] * 3
    assert space.size() == 49


def test_a_small_cell_space_enumerates_distinct_architectures():
    space = DartsFewshot(4, 1, 2)
    genotypes = {space.decode(decisions) for decisions in space.enumerate()}
    assert len(genotypes) == space.size() == 49 * 3 * 49


def test_a_large_space_refuses_to_be_enumerated():
    with pytest.raises(InputError, match="4484577053124 architectures"):
        DartsFewshot().enumerate()
