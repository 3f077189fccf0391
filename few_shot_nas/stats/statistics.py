"""Accuracy of an episode, and means over episodes with a confidence interval."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats
from torch import Tensor


class MeanCI(NamedTuple):
    """A mean over episodes.

    Attributes:
        mean: in the unit of the values (accuracies are fractions).
        ci95: half-width of the two-sided 95 % confidence interval; nan below two values.
        n: number of values.
    """

    mean: float
    ci95: float
    n: int


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Fraction of rows of ``logits [B, N]`` whose largest entry is at ``labels [B]``; ties go to the lowest class."""
    return (logits.argmax(dim=-1) == labels).double().mean()


def mean_ci(values: Sequence[float] | np.ndarray) -> MeanCI:
    """Mean and t-interval ``t_{0.975, n-1} * s / sqrt(n)`` in float64, s with ddof = 1.

    Raises:
        ValueError: if there are no values.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError("mean_ci() needs at least one value")
    if array.size == 1:
        return MeanCI(float(array[0]), float("nan"), 1)
    half = stats.t.ppf(0.975, array.size - 1) * array.std(ddof=1) / np.sqrt(array.size)
    return MeanCI(float(array.mean()), float(half), int(array.size))
