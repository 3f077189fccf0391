"""Scores at fresh weights against networks made by hand."""

import pytest
import torch

from few_shot_nas.episode import SupportSet
from few_shot_nas.errors import InputError
from few_shot_nas.nn.init import xavier_init
from few_shot_nas.proxies import PROXIES
from few_shot_nas.proxies.naswot import naswot
from few_shot_nas.proxies.untrained import untrained_score
from few_shot_nas.seeding import derived_seed
from few_shot_nas.spaces.chain import Chain
from few_shot_nas.spaces.supernet import DerivedNetwork

GENOTYPE = Chain(channels=3, cells=2).decode((0, 3))
IMAGES = torch.randn(2, 6, 1, 16, 16, generator=torch.Generator().manual_seed(1))
TASKS = [SupportSet(images, torch.arange(3).repeat(2)) for images in IMAGES]


def test_the_score_is_the_mean_over_tasks_with_fresh_networks():
    before = torch.random.get_rng_state()
    found = untrained_score("naswot", GENOTYPE, TASKS, seed=4)
    assert torch.equal(torch.random.get_rng_state(), before)
    expected = []
    for number, images in enumerate(IMAGES):
        torch.manual_seed(derived_seed(4, "naswot", number))
        expected.append(naswot(DerivedNetwork(1, 1, 16, GENOTYPE).features, images))
    torch.random.set_rng_state(before)
    assert expected[0] != expected[1] and found == pytest.approx(sum(expected) / 2, abs=1e-12)
    assert untrained_score("naswot", GENOTYPE, TASKS, seed=4) == found
    assert untrained_score("naswot", GENOTYPE, TASKS, seed=5) != found


def test_where_lower_is_better_the_sign_is_turned():
    torch.manual_seed(derived_seed(4, "ntk_condition", 0))
    net = DerivedNetwork(1, 1, 16, GENOTYPE)
    net.head = torch.nn.Linear(net.feature_dim, 3)
    xavier_init(net.head)
    score = PROXIES["ntk_condition"].score(net, TASKS[0])
    assert untrained_score("ntk_condition", GENOTYPE, TASKS[:1], seed=4) == pytest.approx(-score)


def test_no_task_and_an_unknown_proxy_are_refused():
    with pytest.raises(ValueError, match="needs a task"):
        untrained_score("naswot", GENOTYPE, [], seed=4)
    with pytest.raises(InputError, match="proxy=naswto: unknown. Did you mean naswot"):
        untrained_score("naswto", GENOTYPE, TASKS, seed=4)
