"""Means with a confidence interval against scipy's interval of the same sample."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from few_shot_nas.stats.statistics import accuracy, mean_ci


@pytest.mark.parametrize("n", [2, 5, 600])
def test_the_interval_is_scipys_t_interval(n):
    values = np.random.default_rng(n).random(n)
    result = mean_ci(values)
    low, high = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
    assert result.n == n
    assert result.mean == pytest.approx((low + high) / 2, abs=1e-14)
    assert result.ci95 == pytest.approx((high - low) / 2, abs=1e-14)


def test_one_value_has_no_interval_and_none_is_an_error():
    assert mean_ci([0.25]).mean == 0.25 and math.isnan(mean_ci([0.25]).ci95)
    with pytest.raises(ValueError, match="at least one value"):
        mean_ci([])


def test_the_interval_covers_the_truth_in_95_of_100_experiments():
    rng = np.random.default_rng(0)
    hits = [abs(r.mean - 0.5) <= r.ci95 for r in (mean_ci(rng.random(8)) for _ in range(4000))]
    assert abs(np.mean(hits) - 0.95) < 0.012


def test_accuracy_counts_rows_and_ties_go_to_the_lowest_class():
    logits = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0], [0.0, 1.0]])
    assert float(accuracy(logits, torch.tensor([0, 1, 1, 1]))) == 0.75
