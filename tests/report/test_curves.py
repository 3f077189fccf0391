"""Reductions of curves before they are drawn. Truth: sums counted by hand."""

import numpy as np
import pytest

from few_shot_nas.report.curves import smooth, thin


@pytest.mark.parametrize("size", [1, 400, 401, 10_000])
def test_thinning_keeps_the_mean_order_and_range(size: int) -> None:
    steps = np.arange(1.0, size + 1)
    values = np.random.default_rng(0).normal(size=size)
    at, means = thin(steps, values)
    assert at.size == means.size == min(size, 400)
    assert (np.diff(at) > 0).all() and 1 <= at[0] and at[-1] <= size
    if size % 400 == 0:
        np.testing.assert_allclose(means.mean(), values.mean(), rtol=0, atol=1e-12)


def test_smoothing_is_a_centred_mean_over_the_neighbours_that_exist() -> None:
    values = np.array([1.0, 2.0, 6.0, 3.0, 0.0])
    expected = [(1 + 2) / 2, (1 + 2 + 6) / 3, (2 + 6 + 3) / 3, (6 + 3 + 0) / 3, (3 + 0) / 2]
    np.testing.assert_allclose(smooth(values, 3), expected, rtol=0, atol=1e-12)


def test_smoothing_keeps_a_constant() -> None:
    np.testing.assert_allclose(smooth(np.full(50, 0.3), 7), 0.3, rtol=0, atol=1e-12)
