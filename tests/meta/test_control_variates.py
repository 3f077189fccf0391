"""Which baseline leaves the expected meta-gradient alone, and where (G5), by enumeration."""

import pytest
import torch

from few_shot_nas.errors import InputError
from few_shot_nas.meta.control_variates import CONTROL_VARIATES, Evidence, MovingAverage, legal_control_variate
from few_shot_nas.meta.estimators import ESTIMATORS
from tests.meta.exact import (
    ARCHS,
    autoregressive,
    expected_gradient,
    gradient,
    leave_one_out_advantages,
    objective,
    random_params,
    random_rewards,
    relative_error,
)

REWARDS, OUTER = random_rewards(1), random_rewards(2)
PARAMS = random_params(3, conditional=True)
GREEDY = int(autoregressive(PARAMS, ARCHS).sum(1).argmax())
AVERAGE = MovingAverage(0.12, 0.3)
K2 = {"alpha": 1.5, "count": 2, "advantages": leave_one_out_advantages}


@pytest.fixture(scope="module")
def exact():
    return gradient(objective(autoregressive, PARAMS, REWARDS, OUTER, **K2), PARAMS)


def value(name, samples, task, rewards):
    evidence = Evidence(samples, task, AVERAGE, greedy=float(rewards[GREEDY]))
    return CONTROL_VARIATES[name].value(evidence)


@pytest.mark.parametrize("name", CONTROL_VARIATES)
def test_every_legal_outer_baseline_leaves_the_expectation_alone(name, exact):
    estimate = expected_gradient(
        ESTIMATORS["emaml"], autoregressive, PARAMS, REWARDS, OUTER, **K2,
        outer_baseline=lambda inner, outer: value(name, outer, inner, OUTER),
    )  # fmt: skip
    torch.testing.assert_close(estimate, exact, rtol=0, atol=1e-10)


def test_leave_one_out_over_two_outer_samples_leaves_the_expectation_alone():
    exact = gradient(objective(autoregressive, PARAMS, REWARDS, OUTER, alpha=1.5), PARAMS)
    estimate = expected_gradient(
        ESTIMATORS["emaml"], autoregressive, PARAMS, REWARDS, OUTER, alpha=1.5, outer_count=2,
        outer_baseline=lambda inner, outer: value("leave_one_out", outer, inner, OUTER),
    )  # fmt: skip
    torch.testing.assert_close(estimate, exact, rtol=0, atol=1e-10)


@pytest.mark.parametrize("estimator", ["emaml", "dice_full"])
@pytest.mark.parametrize("name", [name for name, b in CONTROL_VARIATES.items() if "correction" in b.legal])
def test_every_legal_baseline_of_the_correction_leaves_the_expectation_alone(name, estimator, exact):
    estimate = expected_gradient(
        ESTIMATORS[estimator], autoregressive, PARAMS, REWARDS, OUTER, **K2,
        tried_baseline=lambda inner: value(name, inner, inner, REWARDS),
    )  # fmt: skip
    torch.testing.assert_close(estimate, exact, rtol=0, atol=1e-10)


def test_the_mean_inner_reward_in_the_correction_shifts_the_expectation(exact):
    estimate = expected_gradient(
        ESTIMATORS["emaml"], autoregressive, PARAMS, REWARDS, OUTER, **K2, tried_baseline=lambda inner: inner.mean()
    )
    # sum_k s_k mean(r) = (1/K) sum_k s_k r_k + terms without expectation: the shift is the inner policy gradient.
    shift = gradient((autoregressive(PARAMS, ARCHS).sum(1).exp() * REWARDS).sum(), PARAMS)
    torch.testing.assert_close(estimate, exact - shift, rtol=0, atol=1e-10)
    assert relative_error(estimate, exact) > 0.1


@pytest.mark.parametrize("name", [name for name, b in CONTROL_VARIATES.items() if "inner" in b.legal])
def test_every_legal_inner_baseline_leaves_the_expected_inner_gradient_alone(name):
    truth = gradient((autoregressive(PARAMS, ARCHS).sum(1).exp() * REWARDS).sum(), PARAMS)
    total = torch.zeros_like(truth)
    for i in range(9):
        for j in range(9):
            log_p = autoregressive(PARAMS, [ARCHS[i], ARCHS[j]]).sum(1)
            rewards = REWARDS[[i, j]]
            advantages = rewards - value(name, rewards, rewards, REWARDS)
            total += float(log_p.sum().detach().exp()) * gradient((advantages * log_p).mean(), PARAMS)
    torch.testing.assert_close(total, truth, rtol=0, atol=1e-12)


@pytest.mark.parametrize("place", ["inner", "correction"])
def test_the_mean_of_the_task_is_refused_where_it_contains_the_own_reward(place):
    with pytest.raises(InputError, match=f"some_flag=per_task: the baseline of the {place} samples"):
        legal_control_variate("per_task", place, "some_flag")
    assert legal_control_variate("per_task", "outer", "some_flag") is CONTROL_VARIATES["per_task"]


def test_an_unknown_baseline_is_named():
    with pytest.raises(InputError, match="outer_baseline=per-task: unknown. Did you mean per_task"):
        legal_control_variate("per-task", "outer", "outer_baseline")


def test_the_moving_average_is_the_weighted_mean_of_all_rewards():
    average, rewards = MovingAverage(), [0.9, 0.2, 0.4]
    assert average.value == 0.0
    for reward in rewards:
        average = average.updated(reward, 0.9)
    weights = [0.81, 0.9, 1.0]
    expected = sum(w * r for w, r in zip(weights, rewards, strict=True)) / sum(weights)
    assert average.value == pytest.approx(expected, abs=1e-12)
    assert average.total == pytest.approx(0.1 * sum(w * r for w, r in zip(weights, rewards, strict=True)), abs=1e-12)


def test_a_constant_reward_is_its_own_average_from_the_first_update_on():
    assert MovingAverage().updated(0.7, 0.99).value == pytest.approx(0.7, abs=1e-12)


def test_self_critical_needs_the_reward_of_the_greedy_architecture():
    with pytest.raises(ValueError, match="needs the reward of the greedy"):
        CONTROL_VARIATES["self_critical"].value(Evidence(REWARDS, REWARDS))
