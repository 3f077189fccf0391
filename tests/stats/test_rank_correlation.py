"""Rank correlations against loops over pairs and residuals of ranks, and what a known dependence must give."""

import doctest
import math

import numpy as np
import pytest
from scipy import stats

from few_shot_nas.stats import rank_correlation
from few_shot_nas.stats.rank_correlation import KINDS, correlation, partial_correlation, with_interval


def samples(count=40, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=count)
    return z + rng.normal(size=count), z + rng.normal(size=count), z


def test_the_examples_in_the_docstrings_hold():
    result = doctest.testmod(rank_correlation)
    assert result.attempted and not result.failed


def test_kendall_counts_pairs_that_agree():
    x, y, _ = samples(12)
    agree = [np.sign((x[i] - x[j]) * (y[i] - y[j])) for i in range(12) for j in range(i)]
    assert correlation(x, y, "kendall") == pytest.approx(np.mean(agree))


def test_the_partial_spearman_is_the_correlation_of_residuals_of_ranks():
    x, y, z = (stats.rankdata(sample) for sample in samples())
    left = [v - np.polyval(np.polyfit(z, v, 1), z) for v in (x, y)]
    assert partial_correlation(*samples(), "spearman") == pytest.approx(np.corrcoef(*left)[0, 1])


@pytest.mark.parametrize("kind", KINDS)
def test_what_size_explains_is_gone_once_size_is_given(kind):
    x, y, z = samples(400)
    assert correlation(x, y, kind) > 0.25 and abs(partial_correlation(x, y, z, kind)) < 0.12
    own = x - z
    assert partial_correlation(own + z, y - z + own, z, kind) > 0.3


@pytest.mark.parametrize("kind", KINDS)
def test_constants_and_functions_of_size_have_no_correlation(kind):
    x, y, z = samples()
    assert math.isnan(correlation(np.ones(40), y, kind))
    assert math.isnan(partial_correlation(2 * z + 1, y, z, kind))


def test_the_interval_holds_the_value_repeats_and_narrows_with_more_architectures():
    narrow, wide = (with_interval(lambda x, y: correlation(x, y, "kendall"), *samples(n)[:2]) for n in (300, 20))
    assert narrow.low < narrow.value < narrow.high and narrow.high - narrow.low < wide.high - wide.low
    assert with_interval(lambda x, y: correlation(x, y, "kendall"), *samples(20)[:2]) == wide
    nothing = with_interval(lambda x: math.nan, [1.0, 2.0])
    assert all(map(math.isnan, nothing))
