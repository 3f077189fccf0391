"""Entropy, its gradient, KL and the skip prior, exactly (G6, B5)."""

import itertools
import math

import pytest
import torch

from few_shot_nas.controllers import CONTROLLERS
from few_shot_nas.meta.entropy import bernoulli_kl, entropy_bonus, kl_estimate, normalised_entropy, skip_log_probs
from few_shot_nas.meta.skip_prior import skip_prior_kl
from tests.meta.exact import ARCHS, autoregressive, factorised, gradient, random_params, relative_error

POLICIES = {"factorised": (factorised, False), "autoregressive": (autoregressive, True)}


def entropies(params):
    """H_t met on the way to every architecture, ``[9, 2]``."""

    def entropy(log_p):
        return -(log_p.exp() * log_p).sum(-1)

    if "logits" in params:
        return entropy(params["logits"].log_softmax(1)).expand(9, 2)
    first, second = entropy(params["first"].log_softmax(0)), entropy(params["second"].log_softmax(1))
    return torch.stack([torch.stack([first, second[a]]) for a, _ in ARCHS])


def true_entropy(policy, params):
    log_p = policy(params, ARCHS).sum(1)
    return -(log_p.exp() * log_p).sum()


def expected_bonus(policy, params, how):
    log_probs, own = policy(params, ARCHS), entropies(params)
    p = log_probs.sum(1).exp().detach()
    return sum(p[i] * entropy_bonus(log_probs[i : i + 1], own[i : i + 1], how) for i in range(9))


@pytest.mark.parametrize("policy", POLICIES)
def test_the_exact_entropy_gradient_is_exact_and_all_forms_have_its_value(policy):
    function, conditional = POLICIES[policy]
    params = random_params(3, conditional)
    truth = gradient(true_entropy(function, params), params)
    assert float(truth.norm()) > 0.05
    torch.testing.assert_close(gradient(expected_bonus(function, params, "exact"), params), truth, rtol=0, atol=1e-12)
    for how in ("exact", "direct", "score"):
        value = expected_bonus(function, params, how).detach()
        torch.testing.assert_close(value, true_entropy(function, params).detach(), rtol=0, atol=1e-12)


def test_one_term_alone_is_biased_and_the_two_sum_up():
    params = random_params(3, conditional=True)
    truth = gradient(true_entropy(autoregressive, params), params)
    direct, score = (gradient(expected_bonus(autoregressive, params, how), params) for how in ("direct", "score"))
    torch.testing.assert_close(direct + score, truth, rtol=0, atol=1e-12)
    assert relative_error(direct, truth) > 0.01 and relative_error(score, truth) > 0.5


def test_for_independent_decisions_the_score_term_of_enas_is_pure_noise():
    params = random_params(3)
    assert float(gradient(expected_bonus(factorised, params, "score"), params).abs().max()) < 1e-12


def test_the_score_term_is_in_expectation_what_adding_the_entropy_to_the_reward_gives():
    params = random_params(3, conditional=True)
    log_p = autoregressive(params, ARCHS).sum(1)
    enas = gradient((log_p.exp().detach() * entropies(params).sum(1).detach() * log_p).sum(), params)
    torch.testing.assert_close(
        gradient(expected_bonus(autoregressive, params, "score"), params), enas, rtol=0, atol=1e-12
    )


def test_ascent_on_the_bonus_raises_the_entropy_every_step():
    params = {name: p.detach() * 4 for name, p in random_params(3, conditional=True).items()}
    values = []
    for _ in range(50):
        params = {name: p.detach().requires_grad_() for name, p in params.items()}
        values.append(float(true_entropy(autoregressive, params).detach()))
        slope = gradient(expected_bonus(autoregressive, params, "exact"), params)
        parts = slope.split([p.numel() for p in params.values()])
        params = {name: p + 0.3 * g.view_as(p) for (name, p), g in zip(params.items(), parts, strict=True)}
    assert all(later > earlier for earlier, later in zip(values, values[1:], strict=False))
    assert values[-1] > 0.9 * math.log(9) > 1.2 * values[0]


def test_normalised_entropies_are_fractions_of_the_uniform_ones():
    given = torch.tensor([[math.log(3), 0.5 * math.log(2), 0.0]], dtype=torch.double)
    expected = torch.tensor([[1.0, 0.5, 0.0]], dtype=torch.double)
    torch.testing.assert_close(normalised_entropy(given, (3, 2, 1)), expected, rtol=0, atol=1e-6)


def test_the_kl_estimate_is_unbiased_never_negative_and_flat_where_the_policies_meet():
    p, q = random_params(3, conditional=True), random_params(4, conditional=True)
    log_p, log_q = autoregressive(p, ARCHS), autoregressive(q, ARCHS)
    truth = (log_p.sum(1).exp() * (log_p.sum(1) - log_q.sum(1))).sum()
    each = [kl_estimate(log_p[i : i + 1], log_q[i : i + 1]) for i in range(9)]
    estimate = sum(log_p[i].sum().exp() * each[i] for i in range(9))
    torch.testing.assert_close(estimate, truth, rtol=0, atol=1e-12)
    assert min(float(value.detach()) for value in each) >= 0 < float(truth.detach())
    assert not gradient(kl_estimate(log_p.detach(), autoregressive(p, ARCHS)), p).any()


def test_the_probability_of_a_skip_comes_from_either_choice():
    p = torch.tensor([0.3, 0.3, 0.9], dtype=torch.double)
    taken = torch.tensor([1, 0, 0])
    log_probs = torch.where(taken.bool(), p, 1 - p).log().requires_grad_()
    result = skip_log_probs(log_probs, taken)
    torch.testing.assert_close(result.exp().detach(), p, rtol=0, atol=1e-12)
    assert torch.isfinite(torch.autograd.grad(result.sum(), log_probs)[0]).all()


def test_the_skip_prior_is_the_kl_between_coins_and_zero_at_the_target():
    skip = torch.tensor([0.3, 0.8], dtype=torch.double)
    expected = [q * math.log(q / 0.4) + (1 - q) * math.log((1 - q) / 0.6) for q in (0.3, 0.8)]
    assert bernoulli_kl(skip.log(), 0.4).tolist() == pytest.approx(expected, abs=1e-12)
    assert float(bernoulli_kl(torch.tensor([0.4], dtype=torch.double).log(), 0.4)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", CONTROLLERS)
def test_training_on_the_skip_prior_alone_brings_the_sampled_rate_to_the_target(name):
    torch.manual_seed(0)
    kinds = ("op", "op", "skip")
    policy = CONTROLLERS[name]((2, 2, 2), kinds, tanh_constant=1.5)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.02)
    stream = torch.Generator().manual_seed(0)
    for _ in range(150):
        optimizer.zero_grad()
        rollout = policy.sample(stream)
        skip_prior_kl(rollout.log_probs, rollout.decisions, kinds, 0.4).backward()
        optimizer.step()
    with torch.no_grad():
        ops = list(itertools.product((0, 1), repeat=2))
        rate = sum(float(policy.log_prob(torch.tensor([*pair, 1])).exp()) for pair in ops)
    assert rate == pytest.approx(0.4, abs=0.02)
