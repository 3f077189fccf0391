"""Statistics of paired differences: two arms tested on the same tasks, with one or several training seeds each.

Differences are ``[S, T]``: S training seeds, T test tasks. Every function keeps the unit of its input.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

# Replicates per block: bounds the memory at a few MB for thousands of tasks.
_BLOCK = 500


class Bootstrap(NamedTuple):
    """What resampling says of a mean difference.

    Attributes:
        low: lower end of the two-sided percentile interval.
        high: its upper end.
        p_value: two-sided, ``2 min(P(mean* <= 0), P(mean* >= 0))`` with one added to both counts; at most 1,
            and 1 for differences without any spread.
    """

    low: float
    high: float
    p_value: float


def units(differences: np.ndarray) -> np.ndarray:
    """Return the independent observations that a t statistic may count.

    With one seed these are the tasks: the result speaks of these two trained networks. With several seeds they are the
    means of the seeds: the result speaks of the two ways to train, and S tasks more do not make up for a seed.
    """
    return differences[0] if differences.shape[0] == 1 else differences.mean(axis=1)


def has_spread(values: np.ndarray) -> bool:
    """Return whether there are different numbers among the values; rounding errors are none.

    Example:
        >>> has_spread(np.full(7, 0.1)), has_spread(np.array([0.1, 0.2])), has_spread(np.array([np.nan, 0.2]))
        (False, True, False)
    """
    return bool(np.isfinite(values).all() and np.ptp(values) > 1e-9 * np.abs(values).max())


def t_test(values: np.ndarray) -> float:
    """Two-sided p-value of the paired t-test of mean 0, ``values [n]``, n >= 2.

    Without any spread it is 1: values that do not vary, such as those of a network that has diverged to one answer, say
    nothing of how far their mean could be from another sample's. So do values that are no numbers.
    """
    if not has_spread(values):
        return 1.0
    mean, error = float(values.mean()), float(values.std(ddof=1)) / values.size**0.5
    return float(2 * stats.t.sf(abs(mean) / error, values.size - 1))


def below(values: np.ndarray, margin: float) -> float:
    """P-value of the one-sided t-test against ``mean >= margin``: small means that the mean lies below ``margin``.

    Below 0.05 exactly if the upper end of the 90 % t-interval is.
    """
    mean, error = float(values.mean()), float(values.std(ddof=1)) / values.size**0.5
    if error == 0:
        return 0.0 if mean < margin else 1.0
    return float(stats.t.sf((margin - mean) / error, values.size - 1))


def tost(values: np.ndarray, margin: float) -> float:
    """P-value of the two one-sided t-tests (Schuirmann 1987): small means that the mean lies within ``+-margin``.

    The larger of the p-values of ``mean <= -margin`` and ``mean >= margin``; below 0.05 exactly if the 90 % t-interval
    lies inside the margins.

    Raises:
        ValueError: if ``margin`` is not positive.
    """
    if not margin > 0:
        raise ValueError(f"tost() needs a positive margin, got {margin}")
    return max(below(values, margin), below(-values, margin))


def wilcoxon(differences: np.ndarray) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test over all differences; zeros are dropped. 1 if nothing is left.

    Also 1 where all differences are the same, or some are no numbers. It takes tasks of different seeds for
    independent, so it does not see the variance between seeds.
    """
    values = differences.ravel()
    return float(stats.wilcoxon(values, zero_method="wilcox").pvalue) if has_spread(values) else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979), in the order given; at most 1.

    The i-th smallest of m is multiplied by ``m - i`` (i from 0), and none is smaller than the one before it.
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    factors = np.arange(values.size, 0, -1)
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1.0)
    return [float(value) for value in corrected]


def hierarchical_bootstrap(
    differences: np.ndarray, rng: np.random.Generator, resamples: int = 10_000, confidence: float = 0.95
) -> Bootstrap:
    """Resample seeds, and tasks jointly for all seeds, and take percentiles of the mean difference.

    Both levels are drawn with replacement in every replicate: S of the seeds, and one set of T tasks that all drawn
    seeds share (the pigeonhole bootstrap; Owen 2007, Annals of Applied Statistics 1(2)). Shared tasks keep what the
    seeds have in common if all were tested on the same tasks, and are conservative if each had tasks of its own. With
    one seed it is the ordinary paired bootstrap over tasks. With few seeds the interval is too narrow: it cannot know
    a spread that S seeds do not show. Read it beside the t-interval over seeds.

    Args:
        differences: ``[S, T]``.
        rng: the only source of randomness.
        resamples: replicates.
        confidence: of the two-sided interval.

    Raises:
        ValueError: if there are no differences or no replicates.
    """
    seeds, tasks = differences.shape
    if not differences.size or resamples < 1:
        raise ValueError(f"hierarchical_bootstrap() got differences {differences.shape} and resamples={resamples}")
    means = np.empty(resamples)
    for start in range(0, resamples, _BLOCK):
        count = min(_BLOCK, resamples - start)
        drawn = rng.integers(0, seeds, (count, seeds, 1))
        weights = (drawn == np.arange(seeds)).mean(axis=1)  # [count, S]
        chosen = rng.integers(0, tasks, (count, tasks))
        means[start : start + count] = np.take_along_axis(weights @ differences, chosen, axis=1).mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    tail = min(int((means <= 0).sum()), int((means >= 0).sum())) + 1
    p_value = min(2 * tail / (resamples + 1), 1.0) if has_spread(differences) else 1.0
    return Bootstrap(float(low), float(high), p_value)
