"""ProMP by enumeration: where it equals LVC, what it is the gradient of away from there, and what clipping stops."""

import pytest
import torch

from few_shot_nas.meta.estimators import ESTIMATORS
from few_shot_nas.meta.promp import clipped_ratio_loss, promp, promp_clone
from tests.meta.exact import ARCHS, autoregressive, factorised, gradient, random_params, random_rewards

REWARDS, OUTER = random_rewards(1), random_rewards(2)
TRIED, CHOSEN = [ARCHS[1], ARCHS[5]], [ARCHS[7], ARCHS[0]]
ADVANTAGES, OUTER_ADVANTAGES = torch.tensor([[0.4, -0.2], [0.3, -0.5]], dtype=torch.double)


def test_the_first_outer_step_is_that_of_lvc():
    params = random_params(3, conditional=True)
    ours = promp(
        autoregressive, params, params, (TRIED, ADVANTAGES), (CHOSEN, OUTER_ADVANTAGES), lr=1.5, kl_weight=7.0
    )
    lvc = ESTIMATORS["lvc"].task_loss(
        autoregressive, params, (TRIED, ADVANTAGES), (CHOSEN, OUTER_ADVANTAGES), lr=1.5
    )
    expected = gradient(lvc, params)
    assert float(expected.norm()) > 0.01
    torch.testing.assert_close(gradient(ours, params), expected, rtol=0, atol=1e-12)


def test_away_from_the_old_policy_it_is_the_gradient_of_the_expected_outer_reward():
    """One decision, nothing clipped: sum_a pi_old(a) V(theta + lr grad J^LR(theta; a)), all in closed form."""
    archs = [(0,), (1,), (2,)]
    old, params = random_params(3, decisions=1), random_params(5, decisions=1)
    rewards, outer = REWARDS[:3], OUTER[:3]
    old_p = factorised(old, archs).sum(1).exp().detach()
    total, exact = 0.0, 0.0
    for i in range(3):
        frozen = {name: value.detach() for name, value in old.items()}
        after = factorised(promp_clone(factorised, frozen, frozen, [archs[i]], rewards[i : i + 1], lr=1.5), archs)
        for j in range(3):
            loss = promp(
                factorised, params, old, ([archs[i]], rewards[i : i + 1]), ([archs[j]], outer[j : j + 1]), lr=1.5,
                clip=100.0, kl_weight=0.0,
            )  # fmt: skip
            total = total + old_p[i] * after[j].sum().exp().detach() * loss
        p = params["logits"].softmax(1)[0]
        slope = rewards[i] * (p[i] / old_p[i]) * (torch.eye(3, dtype=torch.double)[i] - p)
        exact = exact + old_p[i] * ((params["logits"][0] + 1.5 * slope).softmax(0) * outer).sum()
    torch.testing.assert_close(-gradient(total, params), gradient(exact, params), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("ratio", "advantage", "moves"), [(1.5, 1.0, False), (1.5, -1.0, True), (0.5, -1.0, False), (0.5, 1.0, True)]
)
def test_clipping_stops_what_would_go_further_and_never_the_way_back(ratio, advantage, moves):
    old = torch.tensor([[-1.0]], dtype=torch.double)
    log_probs = (old + torch.tensor(ratio, dtype=torch.double).log()).requires_grad_()
    loss = clipped_ratio_loss(log_probs, old, torch.tensor([advantage], dtype=torch.double), clip=0.2)
    (slope,) = torch.autograd.grad(loss, log_probs)
    assert bool(slope.any()) == moves


def test_the_penalty_pulls_back_towards_the_old_policy():
    old, params = random_params(3, conditional=True), random_params(5, conditional=True)
    zero = torch.zeros(9, dtype=torch.double)
    total = 0.0
    for i, arch in enumerate(ARCHS):
        p = autoregressive(old, [arch]).sum().exp().detach()
        total = total + p * promp(
            autoregressive, params, old, ([arch], zero[:1]), ([arch], zero[i : i + 1]), lr=1.5, kl_weight=2.0
        )
    log_old = autoregressive(old, ARCHS).sum(1).detach()
    kl = (log_old.exp() * (log_old - autoregressive(params, ARCHS).sum(1))).sum()
    torch.testing.assert_close(gradient(total, params), 2.0 * gradient(kl, params), rtol=0, atol=1e-12)
    torch.testing.assert_close(total.detach(), 2.0 * kl.detach(), rtol=0, atol=1e-12)


def test_several_outer_steps_on_one_batch_of_rewards_raise_the_expected_outer_reward():
    old = random_params(3, conditional=True)
    params = {name: value.detach().clone().requires_grad_() for name, value in old.items()}
    optimizer = torch.optim.Adam(params.values(), lr=0.05)

    def value(params):
        return float((autoregressive(params, ARCHS).sum(1).exp() * OUTER).sum().detach())

    start = value(params)
    for _ in range(5):
        optimizer.zero_grad()
        loss = promp(
            autoregressive, params, old, (ARCHS, 0.1 * (REWARDS - 0.5)), (ARCHS, OUTER - OUTER.mean()), lr=0.5
        )
        loss.backward()
        optimizer.step()
    assert value(params) > start + 0.02
