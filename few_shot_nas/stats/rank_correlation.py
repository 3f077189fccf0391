"""Rank correlations of scores with a truth, with intervals, and what is left of them once size is accounted for."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

#: Kinds of rank correlation: how often two pairs agree, and the correlation of the ranks.
KINDS = ("kendall", "spearman")


class Correlation(NamedTuple):
    """A correlation and its 95 % bootstrap interval; nan where one side does not vary."""

    value: float
    low: float
    high: float


def correlation(x: np.ndarray, y: np.ndarray, kind: str) -> float:
    """Kendall's tau-b or Spearman's rho of two samples; nan where one of them is constant.

    Example:
        >>> x, y = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.0, 4.0, 3.0])
        >>> round(correlation(x, y, "kendall"), 3), round(correlation(x, y, "spearman"), 3)
        (0.667, 0.8)
    """
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    test = stats.kendalltau if kind == "kendall" else stats.spearmanr
    return float(test(x, y).statistic)


def partial_correlation(x: np.ndarray, y: np.ndarray, z: np.ndarray, kind: str) -> float:
    """Correlation of x and y given z, ``(r_xy - r_xz r_yz) / sqrt((1 - r_xz^2) (1 - r_yz^2))``.

    For Kendall's tau this is the coefficient of Kendall, Biometrika 32, 1942; for Spearman's rho it is the correlation
    of the ranks' residuals after regression on the ranks of z. nan where x or y is a function of z.

    Example:
        >>> x = np.array([1.0, 2.0, 3.0, 4.0])
        >>> partial_correlation(x, np.array([1.0, 2.0, 4.0, 3.0]), x, "kendall")
        nan
    """
    xy, xz, yz = correlation(x, y, kind), correlation(x, z, kind), correlation(y, z, kind)
    rest = (1 - xz**2) * (1 - yz**2)
    if not rest > 1e-12:
        return math.nan
    return (xy - xz * yz) / math.sqrt(rest)


def with_interval(
    statistic: Callable[..., float], *samples: Sequence[float], bootstrap: int = 1000, seed: int = 0
) -> Correlation:
    """Return a statistic of paired samples and its 95 % percentile interval over resampled architectures.

    Args:
        statistic: of the samples.
        *samples: one value per architecture each, in the same order.
        bootstrap: number of resamples; those on which the statistic is nan are left out.
        seed: of the resampling.
    """
    arrays = [np.asarray(sample, np.float64) for sample in samples]
    rows = np.random.default_rng(seed).integers(len(arrays[0]), size=(bootstrap, len(arrays[0])))
    found = np.array([statistic(*(array[row] for array in arrays)) for row in rows])
    kept = found[np.isfinite(found)]
    low, high = np.percentile(kept, (2.5, 97.5)) if len(kept) else (math.nan, math.nan)
    return Correlation(statistic(*arrays), float(low), float(high))
