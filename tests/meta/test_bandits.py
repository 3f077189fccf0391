"""Policies on bandits whose best architecture is known (B1, B2, B3, B6): sampling, rewards, updates, all together."""

import math

import pytest
import torch
from torch.func import functional_call

from few_shot_nas.controllers import CONTROLLERS
from few_shot_nas.meta.estimators import ESTIMATORS
from few_shot_nas.meta.functional import trainable
from few_shot_nas.meta.policy_gradient import leave_one_out, policy_loss
from tests.meta.exact import ARCHS, expected_gradient, random_rewards

MERIT = torch.tensor([[0.0, 0.1, 0.2], [0.2, 0.0, 0.1]])  # additive, gaps of 0.1; best (2, 0)


def replay(net):
    def policy(params, archs):
        return torch.stack([functional_call(net, params, (torch.as_tensor(a),)).log_probs for a in archs])

    return policy


def reinforce(net, reward, stream, updates, samples, lr):
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    for _ in range(updates):
        rollouts = [net.sample(stream) for _ in range(samples)]
        rewards = torch.stack([reward(rollout.decisions) for rollout in rollouts])
        optimizer.zero_grad()
        policy_loss(torch.stack([r.log_prob for r in rollouts]), rewards - leave_one_out(rewards)).backward()
        optimizer.step()


def test_reinforce_finds_the_best_architecture_in_19_of_20_runs():
    found = 0
    for seed in range(20):
        net, stream = CONTROLLERS["Factorised"]((3, 3), ("op", "op")), torch.Generator().manual_seed(seed)

        def reward(decisions, stream=stream):
            noise = 0.05 * torch.randn((), generator=stream)
            return MERIT[0, decisions[0]] + MERIT[1, decisions[1]] + noise

        reinforce(net, reward, stream, updates=40, samples=4, lr=0.1)
        found += net.greedy().tolist() == [2, 0]
    assert found >= 19


def test_with_a_bounded_policy_certainty_is_measured_against_its_bound():
    """Best architecture found, and P(best) between half its bound and the bound."""
    torch.manual_seed(0)
    net = CONTROLLERS["LSTM"]((3, 3), ("op", "op"), tanh_constant=0.44)
    stream = torch.Generator().manual_seed(0)
    reinforce(net, lambda d: MERIT[0, d[0]] + MERIT[1, d[1]], stream, updates=60, samples=4, lr=0.03)
    assert net.greedy().tolist() == [2, 0]
    p = float(net.log_prob(torch.tensor([2, 0])).detach().exp())
    up, down = math.exp(0.44), math.exp(-0.44)
    assert net.p_max() == pytest.approx((up / (up + 2 * down)) ** 2)
    assert 0.5 * net.p_max() < p <= net.p_max() + 1e-6 < 0.3


@pytest.mark.parametrize(("name", "solves"), [("LSTM", True), ("Factorised", False)])
def test_a_reward_of_two_decisions_together_needs_a_policy_that_conditions(name, solves):
    """XOR with entropy: the optimum exp(r / w) is on both best architectures; independent decisions cannot hold it."""
    torch.manual_seed(0)
    net = CONTROLLERS[name]((2, 2), ("op", "op"), tanh_constant=None, **({"hidden": 8} if name == "LSTM" else {}))
    archs = [(a, b) for a in (0, 1) for b in (0, 1)]
    rewards, weight = torch.tensor([0.0, 1.0, 1.0, 0.0]), 0.25
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    policy, params = replay(net), trainable(net)
    for _ in range(100):
        log_p = policy(params, archs).sum(1)
        optimizer.zero_grad()
        (-(log_p.exp() * (rewards - weight * log_p)).sum()).backward()
        optimizer.step()
    p = policy(params, archs).sum(1).exp().detach()
    best = torch.softmax(rewards / weight, 0)
    kl = float((p * (p / best).log()).sum())
    assert (kl < 0.01) == solves


# ---- two families of tasks ------------------------------------------------------------------------------------------


def family_rewards(family):
    """Additive; family 0 is best at (2, 0), family 1 at (0, 2)."""
    merit = MERIT if family == 0 else MERIT.flip(1)
    return torch.stack([merit[0, a] + merit[1, b] for a, b in ARCHS])


def meta_train(net, families, estimator, *, lr, steps=25, tasks=4, samples=4):
    policy, stream = replay(net), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        for task in range(tasks):
            rewards = family_rewards(families[task % 2])
            params = trainable(net)
            clone, tried, inner = one_step(net, params, rewards, estimator, stream, lr=lr, samples=samples)
            with torch.no_grad():
                chosen = functional_call(net, clone, (), {"generator": stream}).decisions
            own = policy(params, tried) if estimator.corrected else None
            outer = rewards[3 * chosen[0] + chosen[1]].reshape(1)
            estimator.loss(policy(clone, [chosen]), outer, inner.mean(), own, leave_one_out(inner)).backward()
        optimizer.step()


def one_step(net, params, rewards, estimator, stream, *, lr, samples=4):
    with torch.no_grad():
        tried = [functional_call(net, params, (), {"generator": stream}).decisions for _ in range(samples)]
    inner = torch.stack([rewards[3 * a[0] + a[1]] for a in tried])
    return estimator.adapt(replay(net), params, tried, inner - leave_one_out(inner), lr=lr), tried, inner


@pytest.mark.parametrize("estimator", ["fomaml", "emaml"])
@pytest.mark.parametrize("families", [(0, 1), (0, 0)])
def test_a_meta_learned_policy_adapts_to_its_task_with_one_step(families, estimator):
    net = CONTROLLERS["Factorised"]((3, 3), ("op", "op"))
    chosen = ESTIMATORS[estimator]
    meta_train(net, families, chosen, lr=5.0)
    policy, params, stream = replay(net), trainable(net), torch.Generator().manual_seed(1)
    before = policy(params, ARCHS).sum(1).exp().detach()
    for family in set(families):
        rewards = family_rewards(family)
        best, gains, rises = int(rewards.argmax()), [], []
        for _ in range(100):
            clone, _, _ = one_step(net, params, rewards, chosen, stream, lr=5.0)
            after = policy(clone, ARCHS).sum(1).exp().detach()
            gains.append(float(((after - before) * rewards).sum()))
            rises.append(float(after[best] - before[best]))
        standard_error = torch.tensor(gains).std() / 10
        if len(set(families)) == 2:
            assert sum(gains) / 100 > 3 * standard_error and sum(rises) / 100 > 0.02
        else:
            assert sum(gains) / 100 > -2 * standard_error
            assert before[best] > 2 / 9


def test_sampled_estimates_average_to_the_enumerated_one():
    """The whole path with its random draws: 1000 samples of E-MAML within 4.5 standard errors, every coordinate."""
    net = CONTROLLERS["Factorised"]((3, 3), ("op", "op")).double()
    with torch.no_grad():
        net.logits.copy_(torch.randn(6, generator=torch.Generator().manual_seed(3), dtype=torch.double) * 0.5)
    policy, params, estimator = replay(net), trainable(net), ESTIMATORS["emaml"]
    rewards, outer, stream = random_rewards(1), random_rewards(2), torch.Generator().manual_seed(0)
    exact = expected_gradient(estimator, policy, params, rewards, outer, 1.5)
    draws = []
    for _ in range(1000):
        with torch.no_grad():
            tried = net.sample(stream).decisions
        clone = estimator.adapt(policy, params, [tried], rewards[3 * tried[0] + tried[1]].reshape(1), lr=1.5)
        with torch.no_grad():
            chosen = functional_call(net, clone, (), {"generator": stream}).decisions
        reward = outer[3 * chosen[0] + chosen[1]].reshape(1)
        loss = estimator.loss(policy(clone, [chosen]), reward, 0.0, policy(params, [tried]))
        draws.append(-torch.autograd.grad(loss, net.logits)[0])
    draws = torch.stack(draws)
    errors = (draws.mean(0) - exact).abs() / (draws.std(0) / len(draws) ** 0.5)
    assert float(errors.max()) < 4.5
