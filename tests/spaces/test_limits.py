"""Limits on parameters and multiply-accumulates, against all architectures of a small space and against draws."""

import pytest
import torch

from few_shot_nas.errors import InputError
from few_shot_nas.nn.cost import count_macs, count_parameters
from few_shot_nas.spaces import SPACES
from few_shot_nas.spaces.limits import Limits
from few_shot_nas.spaces.mixed_supernet import MixedSupernet
from few_shot_nas.spaces.op_costs import Cost
from few_shot_nas.spaces.supernet import DerivedNetwork, Supernet

CHAIN = {"space": "chain", "channels": 3, "cells": 2}


def supernet(**settings):
    torch.manual_seed(0)
    return Supernet(3, 1, 28, **{**CHAIN, **settings})


def costs():
    net = supernet()
    return {decisions: net.cost(net.space.decode(decisions)) for decisions in net.space.enumerate()}


@pytest.mark.parametrize("space", SPACES)
def test_the_sum_of_its_ops_is_the_cost_of_the_derived_network_and_no_generator_moves(space):
    net, stream = supernet(space=space, channels=4, cells=3), torch.Generator().manual_seed(1)
    before = torch.get_rng_state()
    for _ in range(2):
        genotype = net.space.decode(net.space.sample(stream))
        found = net.cost(genotype)
        assert torch.equal(torch.get_rng_state(), before)
        with torch.random.fork_rng():
            derived = DerivedNetwork(3, 1, 28, genotype)
        assert found == (count_parameters(derived), count_macs(derived, 1, 28))


@pytest.mark.parametrize("kind", ["params", "macs"])
def test_the_smallest_of_a_chain_is_the_smallest_of_all(kind):
    limits = supernet(**{f"max_{kind}": 10**9}).limits
    every = costs()
    least = min(getattr(cost, kind) for cost in every.values())
    assert getattr(every[limits.smallest], kind) == least


def test_draws_are_those_that_fit_and_any_of_them():
    every = costs()
    limit = sorted(cost.params for cost in every.values())[len(every) // 2]
    limits, stream = supernet(max_params=limit).limits, torch.Generator().manual_seed(0)
    drawn = {limits.sample(lambda: limits.space.sample(stream)) for _ in range(400)}
    assert drawn == {decisions for decisions, cost in every.items() if cost.params <= limit}
    never = limits.sample(lambda: max(every, key=lambda decisions: every[decisions].params))
    assert never == limits.smallest
    assert supernet().limits.sample(lambda: (1, 2)) == (1, 2)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("space", "nodes"), [("chain", None), ("darts_fewshot", 2), ("nb201", 3), ("darts", 2)])
def test_a_mixture_stands_for_an_architecture_that_fits_and_for_its_own_if_that_does(space, nodes, seed):
    settings = {"space": space, "channels": 4, "cells": 2, "nodes": nodes}
    free, stream = supernet(**settings), torch.Generator().manual_seed(seed)
    drawn = [free.space.decode(free.space.sample(stream)) for _ in range(12)]
    limit = sorted(free.cost(genotype).params for genotype in drawn)[4]
    limits = supernet(**settings, max_params=limit).limits
    mixture = {
        cell_type: torch.rand(len(edges), len(next(iter(edges.values()))), generator=stream).softmax(1)
        for cell_type, edges in free.space.menu().items()
    }
    before = {name: value.clone() for name, value in mixture.items()}
    own, found = free.space.discretise(mixture), limits.discretise(mixture)
    assert limits.admits(found) and free.space.encode(found) is not None
    assert found == own if limits.admits(own) else found != own
    assert all(torch.equal(value, before[name]) for name, value in mixture.items())


def test_the_op_that_gives_up_the_least_weight_for_what_it_saves_is_changed():
    """Two layers whose first choice is too large together: the second one's runner-up is nearly as heavy."""
    space = SPACES["chain"](channels=3, cells=2)
    ops = next(iter(next(iter(space.menu().values())).values()))
    size = {op: number for number, op in enumerate(ops)}  # the later in the list, the larger

    def cost(genotype):
        return Cost(sum(size[edge.op] for _, edges in genotype.edges for edge in edges), 0)

    limits = Limits(space, cost, max_params=2 * len(ops) - 3)
    ((cell_type, edges),) = space.menu().items()
    weights = torch.zeros(len(edges), len(ops))
    weights[0, -1], weights[0, -2], weights[1, -1], weights[1, -2] = 0.9, 0.1, 0.51, 0.49
    chosen = [edge.op for edge in limits.discretise({cell_type: weights}).edges[0][1]]
    assert chosen == [ops[-1], ops[-2]]


def test_a_runner_up_as_large_as_the_first_choice_is_passed_over_for_the_next():
    """No single change saves anything at first; the smallest architecture of all would be far from the mixture."""
    space = SPACES["chain"](channels=3, cells=2)
    ((cell_type, edges),) = space.menu().items()
    a, b, c, d, e = next(iter(edges.values()))
    size = {a: 5, b: 5, c: 1, d: 1, e: 0}

    def cost(genotype):
        return Cost(sum(size[edge.op] for _, edges in genotype.edges for edge in edges), 0)

    weights = torch.tensor([[0.5, 0.4, 0.0, 0.1, 0.0], [0.0, 0.0, 0.6, 0.4, 0.0]])
    chosen = [edge.op for edge in Limits(space, cost, max_params=3).discretise({cell_type: weights}).edges[0][1]]
    assert chosen == [d, c]


def test_networks_with_alphas_keep_limits_too():
    free = MixedSupernet(3, 1, 28, **CHAIN)
    least = free.limits.cost(free.space.decode(supernet(max_params=10**9).limits.smallest)).params
    net = MixedSupernet(3, 1, 28, **CHAIN, max_params=least)
    assert net.cost(net.discretise()).params == least


def test_limits_below_the_smallest_architecture_are_refused():
    least = min(cost.params for cost in costs().values())
    with pytest.raises(InputError, match=f"max_params={least - 1}, max_macs=None.*chain that was found has {least}"):
        supernet(max_params=least - 1)
    with pytest.raises(InputError, match="max_macs=1:"):
        supernet(max_macs=1)
