"""MAMLENAS against plain loops of autograd.grad, with its samples and rewards held fixed."""

from typing import get_args, get_type_hints

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from few_shot_nas.algorithms.maml_enas import MAMLENAS, ControllerLoop
from few_shot_nas.algorithms.random_search import RandomSearch
from few_shot_nas.algorithms.settings import InnerLoop, OuterLoop
from few_shot_nas.episode import Episode
from few_shot_nas.errors import InputError
from few_shot_nas.meta.control_variates import CONTROL_VARIATES
from few_shot_nas.meta.estimators import ESTIMATORS
from few_shot_nas.models.conv4 import Conv4
from few_shot_nas.search.derivation import Derivation
from few_shot_nas.search.two_draws import two_draws
from few_shot_nas.spaces.supernet import Supernet
from tests.three_way import make_task

INNER = InnerLoop(inner_lr=0.1, inner_steps=2)


def make_search(inner=INNER, **policy):
    torch.manual_seed(0)
    net = Supernet(3, 1, 28, space="chain", channels=4)
    return MAMLENAS(net, inner=inner, loop=ControllerLoop(**policy), outer=OuterLoop(), seed=5).double()


def log_prob(controller, params, decisions):
    return functional_call(controller, params, (), {"decisions": torch.tensor(decisions)}).log_prob


@pytest.mark.parametrize("estimator", ["naive", "fomaml", "emaml"])
@pytest.mark.parametrize(
    ("tried", "rewards"), [([(0, 1, 2)], [0.4]), ([(0, 1, 2), (3, 3, 0), (1, 4, 2)], [0.2, 0.9, 0.4])]
)
def test_controller_gradient_equals_a_plain_loop(monkeypatch, estimator, tried, rewards):
    """theta' = theta + lr * mean_k A_k grad log p(a_k); loss = -(R' - mean r) log p(a'; theta') - w_H * entropy.

    emaml subtracts sum_k (R' - b_k) log p(a_k; theta) from the loss.
    """
    search = make_search(
        controller_inner_lr=2.0,
        estimator=estimator,
        inner_archs=len(tried),
        entropy_weight=0.01,
    )
    chosen, task = (2, 0, 4), make_task()
    draws, left = {"inner": tried, "outer": [chosen]}, list(rewards)
    monkeypatch.setattr(search, "draw", lambda params, task, phase, count: draws[phase])
    monkeypatch.setattr(search.supernet_children, "reward", lambda decisions, task, reward_function=None: left.pop(0))
    loss, scalars = search.task_loss(task)
    loss.backward()

    theta = dict(search.controller.named_parameters())
    mean = sum(rewards) / len(rewards)
    baselines = [(sum(rewards) - r) / (len(rewards) - 1) if len(rewards) > 1 else 0.0 for r in rewards]
    surrogate = sum(
        (r - b) * log_prob(search.controller, theta, a) for r, b, a in zip(rewards, baselines, tried, strict=True)
    ) / len(rewards)
    step = torch.autograd.grad(surrogate, list(theta.values()), create_graph=True)
    if estimator == "fomaml":
        step = [g.detach() for g in step]
    clone = {name: value + 2.0 * g for (name, value), g in zip(theta.items(), step, strict=True)}
    rollout = functional_call(search.controller, clone, (), {"decisions": torch.tensor(chosen)})
    outer_reward = float(scalars["controller/reward"])
    plain = -(outer_reward - mean) * rollout.log_prob - 0.01 * rollout.entropy
    if estimator == "emaml":
        for b, a in zip(baselines, tried, strict=True):
            plain = plain - (outer_reward - b) * log_prob(search.controller, theta, a)
    expected = torch.autograd.grad(plain, list(theta.values()))
    assert max(float(g.abs().max()) for g in expected) > 1e-4
    for (name, value), gradient in zip(theta.items(), expected, strict=True):
        # Rewards are float32, and the score of what was tried is large.
        torch.testing.assert_close(
            value.grad, gradient, rtol=0, atol=1e-6 if estimator == "emaml" else 1e-9, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert float(scalars["controller/baseline"]) == pytest.approx(mean, abs=1e-7)


@pytest.mark.parametrize("first_order", [False, True])
def test_weight_gradient_is_mamls_on_the_sampled_path_and_none_elsewhere(monkeypatch, first_order):
    search = make_search(InnerLoop(inner_lr=0.1, inner_steps=2, first_order=first_order), inner_archs=1)
    chosen, task = (2, 0, 4), make_task()
    monkeypatch.setattr(search, "draw", lambda params, task, phase, count: [chosen])
    search.task_loss(task)[0].backward()

    genotype = search.supernet.space.decode(chosen)
    names = search.supernet.active_params(genotype)
    own = dict(search.supernet.named_parameters())
    second = two_draws(task)[1]
    fast = {name: own[name] for name in names}
    for _ in range(2):
        logits = functional_call(search.supernet, fast, (second.support_x, genotype))
        inner = torch.autograd.grad(
            F.cross_entropy(logits, second.support_y), list(fast.values()), create_graph=not first_order
        )
        fast = {name: value - 0.1 * g for (name, value), g in zip(fast.items(), inner, strict=True)}
    loss = F.cross_entropy(functional_call(search.supernet, fast, (second.query_x, genotype)), second.query_y)
    expected = dict(zip(names, torch.autograd.grad(loss, [own[name] for name in names]), strict=True))
    assert 0 < len(names) < len(own)
    for name, value in own.items():
        if name in expected:
            torch.testing.assert_close(value.grad, expected[name], rtol=0, atol=1e-9, msg=name)
        else:
            assert value.grad is None, name


def fixed(monkeypatch, search, tried, chosen, reward=lambda decisions: 0.5):
    """Hold samples and inner rewards fixed; return the list of rewarded (architecture, number of queries)."""
    calls = []
    monkeypatch.setattr(search, "draw", lambda params, task, phase, count: tried if phase == "inner" else chosen)

    def rewarded(decisions, task, reward_function=None):
        calls.append((decisions, len(task.query_y)))
        return reward(decisions)

    monkeypatch.setattr(search.supernet_children, "reward", rewarded)
    return calls


def test_flags_offer_exactly_the_estimators_and_the_legal_baselines():
    hints = get_type_hints(ControllerLoop)
    assert get_args(hints["estimator"]) == tuple(ESTIMATORS)
    for place in ("inner", "outer"):
        legal = {name for name, baseline in CONTROL_VARIATES.items() if place in baseline.legal}
        assert set(get_args(hints[f"{place}_baseline"])) == legal


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("estimator", "maml"),
        ("inner_baseline", "per_task"),
        ("outer_baseline", "mean"),
        ("baseline_decay", 1.0),
        ("entropy_gradient", "both"),
    ],
)
def test_flags_that_name_nothing_legal_are_refused(flag, value):
    with pytest.raises(InputError, match=f"{flag}={value}"):
        ControllerLoop(**{flag: value})
    with pytest.raises(InputError, match="dice_lambda=2"):
        ControllerLoop(estimator="loaded_dice", dice_lambda=2.0)


def test_self_critical_rewards_the_greedy_architecture_of_theta_and_of_the_clone_and_counts_them(monkeypatch):
    search = make_search(
        inner_baseline="self_critical", outer_baseline="self_critical", controller_inner_lr=30.0, inner_archs=1
    )
    tried, chosen, task = [(0, 1, 2)], [(2, 0, 4)], make_task()
    theta = search.incumbent()
    calls = fixed(monkeypatch, search, tried, chosen, lambda decisions: 0.9 if decisions == tried[0] else 0.2)
    scalars = search.task_loss(task)[1]
    own = dict(search.controller.named_parameters())
    step = torch.autograd.grad(0.7 * log_prob(search.controller, own, tried[0]), list(own.values()))
    clone = {name: value + 30.0 * g for (name, value), g in zip(own.items(), step, strict=True)}
    adapted = tuple(functional_call(search.controller, clone, (), {"greedy": True}).decisions.tolist())
    sizes = [len(part.query_y) for part in two_draws(task)]
    assert theta != adapted
    assert calls == [(tried[0], sizes[0]), (theta, sizes[0]), (adapted, sizes[1])]
    assert float(scalars["controller/baseline"]) == pytest.approx(0.9 if adapted == tried[0] else 0.2)
    search.meta_step = 5
    assert search.rewards_spent(2) == 5 * 2 * (1 + 1 + 2)


def test_the_moving_average_is_used_before_it_is_updated_and_survives_a_checkpoint(monkeypatch):
    search = make_search(outer_baseline="moving_average", baseline_decay=0.5)
    fixed(monkeypatch, search, [(0, 1, 2)], [(2, 0, 4)])
    baselines = []

    def backward_mean(losses, count):
        for loss, scalars in losses:
            loss.backward()
            baselines.append(float(scalars["controller/baseline"]))
        return {"controller/reward": 0.9, "controller/inner_reward": 0.5}

    monkeypatch.setattr(search, "backward_mean", backward_mean)
    monkeypatch.setattr(search, "descend_outer", lambda: None)
    for _ in range(2):
        search.update(Episode(*(field[None] for field in make_task()[:5])))
    assert baselines == [0.0, pytest.approx(0.5)]
    checkpoint = {}
    search.on_save_checkpoint(checkpoint)
    other = make_search(outer_baseline="moving_average")
    other.on_load_checkpoint(checkpoint)
    assert other.reward_average == search.reward_average
    assert other.outer_average == search.outer_average and search.outer_average.value == pytest.approx(0.9)
    assert other._gradients.steps == 2 and torch.equal(other._gradients.total, search._gradients.total)


def test_diagnostics_are_those_of_the_clone(monkeypatch):
    search = make_search(controller_inner_lr=20.0)
    tried, chosen = [(0, 1, 2), (3, 3, 0)], [(2, 0, 4), (1, 1, 1)]
    fixed(monkeypatch, search, tried, chosen, lambda decisions: 0.9 if decisions == tried[0] else 0.2)
    scalars = search.task_loss(make_task())[1]
    own = dict(search.controller.named_parameters())
    advantages = torch.tensor([0.7, -0.7], dtype=torch.double)
    inner = sum(
        a * log_prob(search.controller, own, t) for a, t in zip(advantages, tried, strict=True)
    ) / 2  # fmt: skip
    step = torch.autograd.grad(inner, list(own.values()))
    clone = {name: value + 20.0 * g for (name, value), g in zip(own.items(), step, strict=True)}
    expected_kl, expected_entropy = 0.0, 0.0
    for a in chosen:
        after, before = (
            functional_call(search.controller, p, (), {"decisions": torch.tensor(a)}) for p in (clone, own)
        )
        log_ratio = before.log_probs - after.log_probs
        expected_kl += float((log_ratio.exp() - 1 - log_ratio).sum().detach()) / 2
        expected_entropy += float(after.entropy.detach()) / 2
    assert float(scalars["controller/kl_adapt"]) == pytest.approx(expected_kl, rel=1e-5) and expected_kl > 1e-4
    assert float(scalars["controller/entropy"].detach()) == pytest.approx(expected_entropy, rel=1e-6)
    fraction = expected_entropy / search.controller.max_entropy()
    assert float(scalars["controller/entropy_fraction"].detach()) == pytest.approx(fraction, rel=1e-6)
    assert float(scalars["controller/inner_reward"]) == pytest.approx(0.55)


def test_training_rows_carry_the_signal_to_noise_of_the_meta_gradients_since_the_last():
    search = make_search()
    samples = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    for sample in samples:
        search._gradients = search._gradients.add(sample)
    variance = float(samples.var(0).sum())
    expected = (float(samples.mean(0).square().sum()) - variance / 3) / variance
    assert search.end_window() == {"controller/grad_snr": pytest.approx(expected)}
    assert search.end_window() == {}


def test_samples_depend_on_seed_step_task_and_phase_alone():
    search, task = make_search(), make_task()
    own = dict(search.controller.named_parameters())
    first = search.draw(own, task, "inner", 8)
    torch.manual_seed(123)
    assert search.draw(own, task, "inner", 8) == first
    assert search.draw(own, task, "outer", 8) != first
    assert search.draw(own, task._replace(task_id=torch.tensor(12)), "inner", 8) != first
    search.meta_step = 1
    assert search.draw(own, task, "inner", 8) != first


def test_a_reward_is_the_accuracy_of_the_adapted_child_and_changes_nothing():
    search, task = make_search(), two_draws(make_task())[0]
    before = {name: value.clone() for name, value in search.state_dict().items()}
    decisions = (1, 3, 0)
    genotype = search.supernet.space.decode(decisions)
    own = dict(search.supernet.named_parameters())
    fast = {name: own[name] for name in search.supernet.active_params(genotype)}
    for _ in range(2):
        logits = functional_call(search.supernet, fast, (task.support_x, genotype))
        grads = torch.autograd.grad(F.cross_entropy(logits, task.support_y), list(fast.values()))
        fast = {
            name: (value - 0.1 * g).detach().requires_grad_()
            for (name, value), g in zip(fast.items(), grads, strict=True)
        }
    predicted = functional_call(search.supernet, fast, (task.query_x, genotype)).argmax(1)
    reward = search.supernet_children.reward(decisions, task)
    assert reward == pytest.approx(float((predicted == task.query_y).double().mean()))
    assert all(torch.equal(value, before[name]) for name, value in search.state_dict().items())


class Tasks:
    """Stands in for the datamodule: the same task under every id, and a memory of what was asked for."""

    meta_batch_size = 2

    def __init__(self):
        self.asked = []

    def episode(self, split, task_ids):
        self.asked.append((split, list(task_ids)))
        batch = [make_task(seed=i)._replace(task_id=torch.tensor(i)) for i in task_ids]
        return Episode(*(torch.stack(field) for field in list(zip(*batch, strict=True))[:5]))


def test_the_search_derives_the_candidate_with_the_highest_mean_reward(monkeypatch):
    search, data = make_search(), Tasks()
    search.derivation, search.meta_step = Derivation(6, 3), 7
    candidates = search.propose()
    assert candidates[0] == search.incumbent() and len(candidates) == 6
    best = candidates[3]
    monkeypatch.setattr(search.supernet_children, "reward", lambda decisions, task: 1.0 if decisions == best else 0.5)
    search.finish_search(data)
    assert search.genotype == search.supernet.space.decode(best)
    assert data.asked == [("val", [0, 1, 2])]
    listed = search.search_summary.pop("candidates")
    assert [entry["reward"] for entry in listed] == [1.0] + [0.5] * (len(set(candidates)) - 1)
    assert search.search_summary == {
        "reward_calls": 7 * 2 * 3 + len(set(candidates)) * 3,
        "reward_calls_search": 7 * 2 * 3,
        "reward_calls_derive": len(set(candidates)) * 3,
        "p_max": search.controller.p_max(),
    }


def test_random_search_spends_the_same_calls_on_unseen_training_tasks_and_keeps_the_best(monkeypatch):
    torch.manual_seed(0)
    net = Supernet(3, 1, 28, space="chain", channels=4)
    search = RandomSearch(net, inner=INNER, random_archs=6, derivation=Derivation(2, 3), seed=5).double()
    data, calls = Tasks(), []
    search.meta_step = 10
    candidates = list(dict.fromkeys(search.draw(6, "candidates")))
    best = candidates[-1]
    monkeypatch.setattr(
        search.supernet_children,
        "reward",
        lambda decisions, task: calls.append(decisions) or (0.9 if decisions == best else 0.1),
    )
    search.finish_search(data)
    per_arch = 10 * 2 * 3 // len(candidates)
    assert data.asked == [("train", list(range(20, 20 + per_arch))), ("val", [0, 1, 2])]
    assert search.genotype == net.space.decode(best)
    assert search.search_summary["reward_calls"] == len(calls) == per_arch * len(candidates) + 2 * 3


def test_random_search_draws_each_architecture_about_equally_often():
    net = Supernet(3, 1, 28, space="chain", channels=4)
    first = [decisions[0] for decisions in RandomSearch(net, seed=1).draw(2000, "anything")]
    counts = torch.bincount(torch.tensor(first), minlength=5)
    assert counts.min() > 330 and counts.max() < 470


def test_a_search_refuses_a_network_that_is_no_supernet():
    with pytest.raises(InputError, match="MAMLENAS searches a Supernet, but model_class is Conv4"):
        MAMLENAS(Conv4(3, 1, 28, width=4))


def test_the_sweep_is_refused_and_adam_moves_the_children():
    with pytest.raises(InputError, match="MAMLENAS: engine=sweep"):
        make_search(InnerLoop(engine="sweep"))
    task, children = make_task(), []
    for optimizer in ("sgd", "adam"):
        search = make_search(InnerLoop(inner_lr=0.1, inner_optimizer=optimizer))
        genotype = search.supernet.space.decode((0, 1, 2))
        children.append(search.supernet_children.fast_weights(task, genotype, training=True, second_order=False))
    assert not torch.allclose(children[0]["head.weight"], children[1]["head.weight"])


def test_a_checkpoint_holds_the_supernet_once_and_one_of_an_earlier_version_is_read():
    state = make_search().state_dict()
    assert not any(name.startswith("supernet.") for name in state)
    second = {name.replace("net.", "supernet.", 1): t for name, t in state.items() if name.startswith("net.")}
    twice = {**state, **second}
    torch.manual_seed(9)
    other = make_search()
    other.load_state_dict(twice)
    assert all(torch.equal(value, state[name]) for name, value in other.state_dict().items())
