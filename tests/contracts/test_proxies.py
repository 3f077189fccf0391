"""Properties of every proxy in the table."""

import math

import pytest
import torch
from torch import nn

from few_shot_nas.episode import SupportSet, Task
from few_shot_nas.proxies import PROXIES
from few_shot_nas.spaces import SPACES
from few_shot_nas.spaces.nb201 import NB201_OPS
from few_shot_nas.spaces.supernet import DerivedNetwork

#: Those that look at no image of the task, only at its shape, and those that look at no label.
NO_IMAGES = {"params", "macs", "synflow", "zen"}
LABELS = {"grad_norm", "snip", "grasp", "fisher", "zico"}


def make_task(seed=0, shots=4, size=16):
    g = torch.Generator().manual_seed(seed)
    return Task(
        torch.randn(3 * shots, 1, size, size, generator=g),
        torch.arange(3).repeat(shots),
        torch.randn(6, 1, size, size, generator=g),
        torch.arange(3).repeat(2),
    )


def make_net(space="darts_fewshot", channels=8, decisions=None):
    chosen = SPACES[space](channels=channels)
    torch.manual_seed(0)
    decisions = decisions or chosen.sample(torch.Generator().manual_seed(3))
    return DerivedNetwork(3, 1, 16, chosen.decode(decisions))


@pytest.mark.parametrize("name", PROXIES)
def test_a_score_is_finite_and_repeats_and_nothing_changes(name):
    net, task = make_net().train(), make_task()
    net.head.bias.requires_grad_(False)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    state, flags = torch.random.get_rng_state(), [p.requires_grad for p in net.parameters()]
    with torch.no_grad():
        score = PROXIES[name].score(net, task)
    assert math.isfinite(score) and score == PROXIES[name].score(net, task)
    assert torch.equal(torch.random.get_rng_state(), state) and net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert [p.requires_grad for p in net.parameters()] == flags and all(p.grad is None for p in net.parameters())
    hooks = (len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in net.modules())
    assert not any(hooks)


@pytest.mark.parametrize("name", PROXIES)
def test_a_score_sees_what_it_says_of_the_task(name):
    net, task, other = make_net(), make_task(), make_task(seed=1)
    proxy = PROXIES[name]
    score = proxy.score(net, task)
    moved = proxy.score(net, task._replace(support_x=other.support_x))
    assert (moved == score) == (name in NO_IMAGES)
    turned = proxy.score(net, task._replace(support_y=task.support_y.flip(0)))
    assert (turned != pytest.approx(score)) == (name in LABELS)
    assert proxy.score(net, task._replace(query_y=task.query_y.flip(0))) == score
    queried = proxy.score(net, task._replace(query_x=other.query_x))
    assert (queried == score) == (name != "meta_ntk_condition")
    assert math.isfinite(proxy.score(net, SupportSet(task.support_x, task.support_y)))


@pytest.mark.parametrize("name", PROXIES)
def test_a_reward_is_the_score_with_the_better_one_higher(name):
    net, task, proxy = make_net(), make_task(), PROXIES[name]
    assert proxy.reward(net, task) == (1 if proxy.higher_is_better else -1) * proxy.score(net, task)
    assert proxy.higher_is_better != name.endswith("condition")


@pytest.mark.parametrize("name", PROXIES)
def test_architectures_differ(name):
    task, spaces = make_task(), SPACES["darts_fewshot"](channels=8)
    nets = [make_net(decisions=spaces.sample(torch.Generator().manual_seed(seed))) for seed in range(4)]
    assert len({PROXIES[name].score(net, task) for net in nets}) > 1


@pytest.mark.parametrize("name", PROXIES)
def test_a_network_that_ignores_its_images_has_a_finite_score_and_not_the_best(name):
    task = make_task()
    cut = make_net("nb201", decisions=(NB201_OPS.index("none"),) * 6)
    whole = make_net("nb201", decisions=(NB201_OPS.index("nor_conv_3x3"),) * 6)
    rewards = [PROXIES[name].reward(net, task) for net in (cut, whole)]
    assert all(map(math.isfinite, rewards)) and rewards[0] <= rewards[1]


@pytest.mark.parametrize("name", ["grad_norm", "synflow", "ntk_condition", "jacov"])
def test_dropout_is_off(name):
    net, task = make_net().train(), make_task()
    net.body.stem.append(nn.Dropout(0.9))
    assert PROXIES[name].score(net, task) == pytest.approx(PROXIES[name].score(net.eval(), task))
