"""Statistics of paired differences. Truth: closed forms, hand-computed examples, and plain loops."""

import math

import numpy as np
import pytest
from scipy import stats

from few_shot_nas.stats.paired import below, hierarchical_bootstrap, holm, t_test, tost, units, wilcoxon
from few_shot_nas.stats.statistics import mean_ci


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_one_seed_counts_tasks_and_several_seeds_count_seeds() -> None:
    values = np.array([[1.0, 2.0, 6.0], [0.0, 1.0, 2.0]])
    assert units(values[:1]).tolist() == [1, 2, 6]
    assert units(values).tolist() == [3, 1]


def test_t_test_in_closed_form() -> None:
    # mean 2, s = 1, error 1/sqrt(3), t = 2 sqrt(3) with 2 degrees of freedom: sf(t) = 1/2 - t / (2 sqrt(2 + t^2))
    t = 2 * math.sqrt(3)
    assert t_test(np.array([1.0, 2.0, 3.0])) == pytest.approx(1 - t / math.sqrt(2 + t * t), rel=1e-12)


@pytest.mark.parametrize("values", [[0.0, 0.0], [0.1] * 7, [np.nan, 1.0], [-1.0, 1.0]])
def test_t_test_without_spread_or_difference(values: list[float]) -> None:
    assert t_test(np.array(values)) == 1.0


@pytest.mark.parametrize("value", [7.5, 100 / 3, np.nan])
def test_differences_that_are_all_the_same_or_no_numbers_prove_nothing(value: float) -> None:
    same = np.full((3, 40), value)
    assert t_test(units(same)) == wilcoxon(same) == hierarchical_bootstrap(same, rng(), 200).p_value == 1.0


@pytest.mark.parametrize("mean", [0.0, 0.2, -0.2, 0.4, 0.55, -3.0])
def test_tost_rejects_exactly_if_the_90_percent_interval_is_inside(mean: float) -> None:
    values = rng().normal(size=40)
    values = mean + (values - values.mean())
    half = stats.t.ppf(0.95, 39) * values.std(ddof=1) / math.sqrt(40)
    assert (tost(values, 0.5) < 0.05) == (abs(mean) + half < 0.5)
    low = stats.ttest_1samp(values, -0.5, alternative="greater").pvalue
    high = stats.ttest_1samp(values, 0.5, alternative="less").pvalue
    assert tost(values, 0.5) == pytest.approx(max(low, high), rel=1e-9)
    assert below(values, 0.5) == pytest.approx(high, rel=1e-9)


def test_tost_without_spread_and_with_a_senseless_margin() -> None:
    assert tost(np.array([0.25, 0.25]), 0.5) == 0.0
    assert tost(np.array([0.5, 0.5]), 0.5) == 1.0
    with pytest.raises(ValueError, match="margin, got 0"):
        tost(np.array([1.0, 2.0]), 0)


def test_holm_by_hand() -> None:
    # sorted .005 .01 .03 .04 times 4 3 2 1: .02 .03 .06 .04, made monotone: .02 .03 .06 .06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02], rel=1e-12)
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2] and holm([]) == []


def test_wilcoxon_enumerates_the_signs_of_small_samples() -> None:
    # All four differences positive: rank sum 10 has probability 1/16 under random signs, twice that two-sided.
    assert wilcoxon(np.array([[1.0, 2.0], [3.0, 4.0]])) == pytest.approx(2 / 16, rel=1e-12)
    assert wilcoxon(np.zeros((2, 3))) == 1.0


def test_the_bootstrap_of_two_tasks_has_the_exact_distribution() -> None:
    # Means of two draws from {-1, 3}: -1, 1, 3 with probability 1/4, 1/2, 1/4.
    found = hierarchical_bootstrap(np.array([[-1.0, 3.0]]), rng(), resamples=20_000, confidence=0.4)
    assert (found.low, found.high) == (1.0, 1.0)
    assert found.p_value == pytest.approx(0.5, abs=0.02)
    wide = hierarchical_bootstrap(np.array([[-1.0, 3.0]]), rng(), resamples=20_000)
    assert (wide.low, wide.high) == (-1.0, 3.0)


def test_one_seed_is_the_paired_bootstrap_over_tasks() -> None:
    values = rng(1).normal(0.3, 1.0, size=60)
    found = hierarchical_bootstrap(values[None], rng(2), resamples=20_000)
    draws, plain = rng(3), []
    for _ in range(20_000):
        plain.append(values[draws.integers(0, 60, 60)].mean())
    spread = float(np.std(plain))
    # The 2.5 % point of 20,000 replicates has a standard error of about 0.02 of their spread.
    assert [found.low, found.high] == pytest.approx(np.quantile(plain, [0.025, 0.975]).tolist(), abs=0.1 * spread)
    assert found.p_value == pytest.approx(2 * min(np.mean(np.array(plain) <= 0), 0.5), abs=0.01)


def test_several_seeds_have_the_moments_of_a_plain_loop() -> None:
    values = rng(4).normal(size=(4, 30)) + rng(5).normal(size=(4, 1)) + rng(6).normal(size=30)
    draws, plain = rng(7), []
    for _ in range(20_000):
        seeds, tasks = draws.integers(0, 4, 4), draws.integers(0, 30, 30)
        plain.append(values[np.ix_(seeds, tasks)].mean())
    found = hierarchical_bootstrap(values, rng(8), resamples=20_000)
    spread = float(np.std(plain))
    assert [found.low, found.high] == pytest.approx(np.quantile(plain, [0.025, 0.975]).tolist(), abs=0.1 * spread)


def test_the_same_stream_gives_the_same_bits_in_blocks_of_any_rest() -> None:
    values = rng().normal(size=(3, 20))
    assert hierarchical_bootstrap(values, rng(1), 1234) == hierarchical_bootstrap(values, rng(1), 1234)
    assert hierarchical_bootstrap(values, rng(1), 1234) != hierarchical_bootstrap(values, rng(2), 1234)


@pytest.mark.parametrize("seeds", [1, 20])
def test_the_bootstrap_interval_covers_the_truth_as_often_as_it_says(seeds: int) -> None:
    draws, inside = rng(9), 0
    for _ in range(300):
        between = draws.normal(0, 0.5, size=(seeds, 1)) if seeds > 1 else 0.0
        values = 0.7 + between + draws.normal(size=(seeds, 50))
        found = hierarchical_bootstrap(values, draws, resamples=400)
        inside += found.low <= 0.7 <= found.high
    # A binomial of 300 with p = 0.95 leaves 0.90 .. 0.99 less than once in a thousand; percentiles lose 1 to 2 %.
    assert 0.90 <= inside / 300 <= 0.99


def test_the_interval_of_a_thousand_normal_tasks_is_the_t_interval() -> None:
    values = rng(10).normal(0.2, 1, size=1000)
    found, expected = hierarchical_bootstrap(values[None], rng(11), resamples=20_000), mean_ci(values)
    assert found.low == pytest.approx(expected.mean - expected.ci95, abs=0.05 * expected.ci95)
    assert found.high == pytest.approx(expected.mean + expected.ci95, abs=0.05 * expected.ci95)


@pytest.mark.parametrize(("shape", "resamples"), [((0, 3), 10), ((1, 0), 10), ((1, 3), 0)])
def test_nothing_to_resample_is_a_defect(shape: tuple[int, int], resamples: int) -> None:
    with pytest.raises(ValueError, match=rf"resamples={resamples}"):
        hierarchical_bootstrap(np.zeros(shape), rng(), resamples)
