"""REINFORCE by exact enumeration of a categorical policy, in float64."""

import itertools

import pytest
import torch

from few_shot_nas.meta.policy_gradient import leave_one_out, policy_loss

LOGITS = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64)
REWARDS = torch.tensor([0.2, 0.9, 0.4], dtype=torch.float64)


def expected_estimate(count, baseline):
    """Expectation of the surrogate's gradient over all count-tuples of independent samples."""
    total = torch.zeros(3, dtype=torch.float64)
    for sample in itertools.product(range(3), repeat=count):
        logits = LOGITS.clone().requires_grad_()
        log_probs = torch.log_softmax(logits, 0)[list(sample)]
        rewards = REWARDS[list(sample)]
        (gradient,) = torch.autograd.grad(policy_loss(log_probs, rewards - baseline(rewards)), logits)
        total += log_probs.detach().sum().exp() * gradient
    return total


def true_gradient():
    logits = LOGITS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(-(torch.softmax(logits, 0) * REWARDS).sum(), logits)
    return gradient


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("baseline", [leave_one_out, lambda rewards: 0.0, lambda rewards: 0.37])
def test_every_legal_baseline_leaves_the_expected_gradient_alone(count, baseline):
    torch.testing.assert_close(expected_estimate(count, baseline), true_gradient(), rtol=0, atol=1e-12)


def test_a_baseline_that_contains_the_own_reward_biases_the_gradient():
    biased = expected_estimate(2, lambda rewards: rewards.mean())
    torch.testing.assert_close(biased, 0.5 * true_gradient(), rtol=0, atol=1e-12)


def test_leave_one_out_is_the_mean_of_the_others():
    rewards = torch.tensor([0.1, 0.4, 0.7], dtype=torch.float64)
    expected = torch.tensor([0.55, 0.4, 0.25], dtype=torch.float64)
    torch.testing.assert_close(leave_one_out(rewards), expected, rtol=0, atol=1e-15)
    assert leave_one_out(rewards[:1]).tolist() == [0.0]


def test_no_gradient_flows_through_the_advantages():
    log_probs = torch.zeros(2, requires_grad=True)
    rewards = torch.tensor([0.3, 0.6], requires_grad=True)
    policy_loss(log_probs, rewards - 0.5).backward()
    assert rewards.grad is None
    torch.testing.assert_close(log_probs.grad, torch.tensor([0.1, -0.05]))
