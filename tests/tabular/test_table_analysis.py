"""The analysis of a reward table against tables whose truth is known."""

import numpy as np
import pytest
from scipy import stats

from few_shot_nas.errors import InputError
from few_shot_nas.tabular.table_analysis import (
    choice_value,
    headroom,
    order_agreement,
    rank_correlation,
    signal_to_noise,
    variance_components,
)

TRUTH = {"architecture": 0.04, "task": 1.0, "draw": 0.25, "interaction": 0.09, "noise": 0.16}


def make(shape: tuple[int, int, int], variances: dict[str, float], seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    a, t, r = shape
    parts = {
        "architecture": rng.normal(size=(a, 1, 1)),
        "task": rng.normal(size=(1, t, 1)),
        "draw": rng.normal(size=(1, t, r)),
        "interaction": rng.normal(size=(a, t, 1)),
        "noise": rng.normal(size=(a, t, r)),
    }
    return sum(variances[name] ** 0.5 * part for name, part in parts.items()) + 3.0  # type: ignore[return-value]


def test_components_of_a_tiny_table_by_hand() -> None:
    # A = T = R = 2. Cell means 1 3 / 2 8; task means 1.5 5.5; draw means 1 2 / 5 6.
    rewards = np.array([[[0.0, 2.0], [3.0, 3.0]], [[2.0, 2.0], [7.0, 9.0]]])
    # MS_A = TR sum(effect^2)/1, effects -+1.5 -> 4 * 4.5 = 18;  MS_T = AR * 8 = 32
    # MS_AT: deviations -.5 -2.5 / .5 2.5 minus effects -> 1 -1 / -1 1: R * 4 = 8
    # MS_D = A (.5 + .5) / 2 = 1;  residuals: -+.5 and +-.5 in each cell, 8 * .25 / 2 = 1
    found = variance_components(rewards, bootstrap=10)
    expected = {
        "architecture": (18 - 8) / 4, "task": (32 - 1 - 8 + 1) / 4, "draw": 0.0, "interaction": 3.5, "noise": 1.0,
    }  # fmt: skip
    assert {name: interval.value for name, interval in found.items()} == pytest.approx(expected)


def test_known_components_are_recovered_without_bias() -> None:
    found = [variance_components(make((12, 60, 2), TRUTH, seed), bootstrap=2) for seed in range(60)]
    for name, truth in TRUTH.items():
        values = np.array([components[name].value for components in found])
        assert abs(values.mean() - truth) < 3.5 * values.std(ddof=1) / len(values) ** 0.5, name


def test_the_interval_of_the_interaction_covers_the_truth() -> None:
    covered = 0
    for seed in range(40):
        interval = variance_components(make((10, 80, 2), TRUTH, seed), bootstrap=200)["interaction"]
        assert interval.low <= interval.value <= interval.high
        covered += interval.low < TRUTH["interaction"] < interval.high
    assert covered >= 33  # 95 %: 38 expected, P(< 33) < 0.01


def test_the_bootstrap_is_that_of_resampled_tables() -> None:
    rewards = make((4, 6, 3), TRUTH, 0)
    rng = np.random.default_rng(5)
    weights = rng.multinomial(6, np.full(6, 1 / 6), 50)
    plain = []
    for row in weights:
        resampled = rewards[:, np.repeat(np.arange(6), row)]
        plain.append([interval.value for interval in variance_components(resampled, bootstrap=1).values()])
    low, high = np.percentile(np.array(plain), (2.5, 97.5), axis=0)
    found = variance_components(rewards, bootstrap=50, seed=5)
    np.testing.assert_allclose([interval.low for interval in found.values()], low, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose([interval.high for interval in found.values()], high, rtol=1e-9, atol=1e-12)


def test_signal_to_noise_from_components() -> None:
    found = signal_to_noise(variance_components(make((40, 3000, 2), TRUTH, 1), bootstrap=2))
    assert found["task"] == pytest.approx(9 / 16, rel=0.05)
    assert found["fixed"] == pytest.approx(4 / 25, rel=0.5)


def test_headroom_is_that_of_the_best_architecture() -> None:
    rewards = make((5, 400, 2), {**TRUTH, "architecture": 0.0, "interaction": 0.0}, 2)
    assert abs(headroom(rewards).mean) < 2 * headroom(rewards).ci95
    rewards[3] += 1.0
    assert headroom(rewards).mean == pytest.approx(0.8, abs=0.1)


def test_ties_give_their_mean() -> None:
    guess = np.array([[1.0, 0.0], [1.0, 2.0], [0.0, 1.0]])
    score = np.array([[1.0, 5.0], [3.0, 6.0], [9.0, 7.0]])
    assert choice_value(guess, score).tolist() == [2.0, 6.0]


def test_orders_agree_source_by_source() -> None:
    rng = np.random.default_rng(0)
    score, other = rng.normal(size=(7, 40)), rng.normal(size=(7, 30))
    source, other_source = np.arange(40) % 2, np.arange(30) % 3
    found = order_agreement(score, source, other, other_source)
    for place in (0, 1):
        own = [[row[t] for t in range(40) if t % 2 == place] for row in score]
        others = [[row[t] for t in range(30) if t % 3 == place] for row in other]
        first, second = ([np.mean(row[start::2]) for row in own] for start in (0, 1))
        tau = stats.kendalltau([np.mean(row) for row in own], [np.mean(row) for row in others]).statistic
        assert found[place] == pytest.approx((tau, stats.kendalltau(first, second).statistic))
    assert list(found) == [0, 1] and np.isnan(order_agreement(score, source, other, other_source + 5)[0][0])


def test_rank_correlation_is_kendalls_tau() -> None:
    x, y = np.random.default_rng(6).normal(size=(2, 12))
    y = x + 0.5 * y
    found = rank_correlation(x, y)
    assert found.value == pytest.approx(stats.kendalltau(x, y).statistic)
    assert found.low < found.value < found.high <= 1
    with pytest.raises(InputError, match="rank correlation of 2 architectures"):
        rank_correlation([1, 2], [1, 2])


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        (np.zeros((3, 4, 1)), "3 x 4 x 1 architectures x tasks x replicates: needed are at least 2 x 2 x 2"),
        (np.full((2, 2, 2), np.nan), "entries that are not numbers"),
    ],
)
def test_a_table_that_says_nothing_is_refused(rewards: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        variance_components(rewards)
