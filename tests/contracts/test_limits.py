"""Every search of the table ends within the limits on parameters and multiply-accumulates that its supernet has."""

import inspect

import pytest
import torch

from few_shot_nas.algorithms import ALGORITHMS
from few_shot_nas.search.derivation import Derivation
from few_shot_nas.spaces.limits import Limits

SEARCHES = [name for name, algorithm in ALGORITHMS.items() if algorithm.searches]


@pytest.mark.parametrize("kind", ["params", "macs"])
@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_ends_within_its_limits(name, kind, make_module, make_data, make_trainer):
    """The limit is the fifth smallest cost of 20 random architectures: most of what a search meets is too large."""
    by_rewards = "derivation" in inspect.signature(ALGORITHMS[name]).parameters
    module = make_module(name, 3, **({"derivation": Derivation(2, 2)} if by_rewards else {}))
    net, stream = module.net, torch.Generator().manual_seed(0)
    costs = [net.cost(net.space.decode(net.space.sample(stream))) for _ in range(20)]
    limit = sorted(getattr(cost, kind) for cost in costs)[4]
    net.limits = Limits(net.space, net.cost, **{f"max_{kind}": limit})
    data = make_data(3)
    make_trainer()[0].fit(module, datamodule=data)
    assert getattr(net.cost(module.end_search(data).genotype), kind) <= limit
