"""Rewards: what each may see, its value against plain calls, and which combinations are refused."""

from typing import get_args, get_type_hints

import pytest
import torch
import torch.nn.functional as F

from few_shot_nas.algorithms.maml_enas import MAMLENAS
from few_shot_nas.algorithms.maml_enas_settings import ControllerLoop, MetaTest
from few_shot_nas.algorithms.random_search import RandomSearch
from few_shot_nas.algorithms.settings import InnerLoop, Scoring
from few_shot_nas.episode import SupportSet
from few_shot_nas.errors import InputError
from few_shot_nas.meta.heads import HEADS
from few_shot_nas.proxies import PROXIES
from few_shot_nas.search.children import derived_network
from few_shot_nas.search.rewards import (
    REWARDS,
    QueryReward,
    SupportReward,
    reward_at_test,
    shifted_views,
)
from few_shot_nas.spaces.supernet import Supernet
from tests.three_way import make_task

DECISIONS = (1, 3, 0)
NEEDS_QUERIES = {"query_accuracy", "negative_query_loss"}


def make_search(algorithm=RandomSearch, scoring=None, **settings):
    torch.manual_seed(0)
    net = Supernet(3, 1, 28, space="chain", channels=4)
    inner = InnerLoop(inner_lr=0.1, inner_steps=2)
    return algorithm(net, inner=inner, scoring=Scoring(**(scoring or {})), seed=5, **settings).double()


def features(search, x):
    return search.supernet.features(x, search.supernet.space.decode(DECISIONS))


def test_flags_offer_exactly_the_rewards():
    assert get_args(get_type_hints(Scoring)["reward"]) == tuple(REWARDS)
    for hint in (get_type_hints(MetaTest)["test_reward"], get_type_hints(ControllerLoop)["inner_reward"]):
        assert get_args(get_args(hint)[0]) == tuple(REWARDS)


@pytest.mark.parametrize("head", ["linear", "prototype"])
def test_query_rewards_are_scores_of_the_adapted_child(head):
    search, task = make_search(scoring={"head": head}), make_task(shots=2)
    children = search.supernet_children
    loss, accuracy = children.mean_loss(task, [DECISIONS])
    assert children.reward(DECISIONS, task, REWARDS["query_accuracy"]) == float(accuracy)
    assert children.reward(DECISIONS, task, REWARDS["negative_query_loss"]) == pytest.approx(-float(loss.detach()))


@pytest.mark.parametrize("head", HEADS)
def test_leave_one_out_rewards_are_those_of_heads_refitted_without_the_image(head):
    search, task = make_search(scoring={"head": head}), make_task(shots=3)
    own, logits = features(search, task.support_x), []
    for i in range(9):
        rest = torch.arange(9) != i
        logits.append(HEADS[head].logits(own[rest], task.support_y[rest], own[i : i + 1], 3))
    logits = torch.cat(logits).detach()
    accuracy = float((logits.argmax(1) == task.support_y).double().mean())
    loss = float(F.cross_entropy(logits, task.support_y))
    children = search.supernet_children
    assert children.reward(DECISIONS, task, REWARDS["support_loo"]) == pytest.approx(accuracy)
    assert children.reward(DECISIONS, task, REWARDS["support_loo_loss"]) == pytest.approx(-loss, rel=1e-9)


def test_support_loss_and_views_judge_the_child_adapted_to_the_support_set():
    search, task = make_search(scoring={"head": "prototype"}), make_task(shots=2)
    own, views = features(search, task.support_x), shifted_views(task.support_x)
    loss = F.cross_entropy(HEADS["prototype"].logits(own, task.support_y, own, 3), task.support_y)
    children = search.supernet_children
    assert children.reward(DECISIONS, task, REWARDS["support_loss"]) == pytest.approx(-float(loss.detach()), rel=1e-9)
    predicted = HEADS["prototype"].logits(own, task.support_y, features(search, views), 3).argmax(1)
    hits = [int(predicted[i]) == int(task.support_y[i % 6]) for i in range(24)]
    assert children.reward(DECISIONS, task, REWARDS["support_views"]) == pytest.approx(sum(hits) / 24)


def test_views_are_the_four_diagonal_shifts_with_repeated_edges():
    image = torch.arange(28 * 28, dtype=torch.float).view(1, 1, 28, 28)
    views = shifted_views(image)
    assert views.shape == (4, 1, 28, 28)
    clamp = lambda k: min(max(k, 0), 27)  # noqa: E731
    for view, (dy, dx) in zip(views, [(-2, -2), (-2, 2), (2, -2), (2, 2)], strict=True):
        for row, column in [(0, 0), (0, 27), (13, 5), (27, 27), (27, 1)]:
            assert float(view[0, row, column]) == float(image[0, 0, clamp(row + dy), clamp(column + dx)])


@pytest.mark.parametrize("name", [name for name in REWARDS if name not in {*NEEDS_QUERIES, "linear_regions"}])
def test_a_support_reward_does_not_change_with_the_queries_and_changes_no_weight(name):
    search, task = make_search(scoring={"head": "ridge"}), make_task(shots=2)
    before = {key: value.clone() for key, value in search.state_dict().items()}
    children, support = search.supernet_children, SupportSet(task.support_x, task.support_y)
    value = children.reward(DECISIONS, task, REWARDS[name])
    other = make_task(seed=1)
    assert children.reward(DECISIONS, task._replace(query_x=other.query_x), REWARDS[name]) == value
    assert children.support_reward(DECISIONS, support, REWARDS[name]) == value
    assert all(torch.equal(value, before[key]) for key, value in search.state_dict().items())


@pytest.mark.parametrize("name", PROXIES)
def test_a_proxy_rewards_the_network_of_the_child_at_the_shared_weights(name):
    torch.manual_seed(0)
    net = Supernet(3, 1, 28, space="darts_fewshot", channels=4, affine=name != "swap")
    search, task = RandomSearch(net).double(), make_task(shots=2)
    decisions, state = net.space.sample(torch.Generator().manual_seed(1)), torch.random.get_rng_state()
    genotype = net.space.decode(decisions)
    derived = derived_network(net, task.support_x, genotype)
    torch.testing.assert_close(derived(task.query_x), net(task.query_x, genotype), rtol=0, atol=0)
    score = PROXIES[name].reward(derived, task.support_set())
    assert search.supernet_children.reward(decisions, task, REWARDS[name]) == score
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("pad", ["left", "right"])
def test_the_network_of_a_child_pads_odd_sizes_as_its_supernet_does(pad):
    net, x = Supernet(3, 1, 27, space="darts_fewshot", channels=4, cells=3, pad=pad).double(), torch.randn(2, 1, 27, 27)
    genotype = net.space.decode(net.space.sample(torch.Generator().manual_seed(1)))
    derived = derived_network(net, x.double(), genotype)
    torch.testing.assert_close(derived(x.double()), net(x.double(), genotype), rtol=0, atol=0)


def test_a_proxy_that_is_not_defined_for_a_space_is_refused():
    with pytest.raises(InputError, match="linear_regions: space chain given.*darts"):
        make_search().supernet_children.reward(DECISIONS, make_task(shots=2), REWARDS["linear_regions"])
    with pytest.raises(InputError, match="reward meta_ntk_condition: k_shot=1 given.*k_shot=2"):
        make_search().supernet_children.reward(DECISIONS, make_task(), REWARDS["meta_ntk_condition"])


def test_the_type_of_a_reward_says_whether_it_needs_queries():
    assert {name for name, reward in REWARDS.items() if isinstance(reward, QueryReward)} == NEEDS_QUERIES
    assert {name for name, reward in REWARDS.items() if isinstance(reward, SupportReward)} == {*REWARDS} - NEEDS_QUERIES
    assert "query_x" not in SupportSet._fields and "query_y" not in SupportSet._fields


@pytest.mark.parametrize("name", sorted(NEEDS_QUERIES))
def test_rewards_with_query_labels_are_refused_at_meta_test_unless_as_an_oracle(name):
    with pytest.raises(InputError, match=f"test_reward={name}.*support_loo, .*naswot.*oracle_adaptation=true"):
        reward_at_test(name, "prototype")
    with pytest.raises(InputError, match=f"test_reward={name}"):
        make_search(MAMLENAS, test=MetaTest(test_reward=name))
    oracle = make_search(MAMLENAS, test=MetaTest(test_reward=name, oracle_adaptation=True))
    assert oracle.test_reward_function is REWARDS[name]


def test_leaving_one_out_needs_two_shots_and_a_closed_form():
    search = make_search(scoring={"head": "prototype"})
    with pytest.raises(InputError, match="support_loo: k_shot=1 .*support_views .*support_loss"):
        search.supernet_children.reward(DECISIONS, make_task(shots=1), REWARDS["support_loo"])
    with pytest.raises(InputError, match="reward=support_loo.*head=linear"):
        Scoring(reward="support_loo")
    with pytest.raises(InputError, match="reward=accuracy"):
        Scoring(reward="accuracy")
