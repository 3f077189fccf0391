"""Is there anything to learn per task? Variance components, headroom and rank correlation of a reward table. Pure.

Shapes: A architectures, T tasks, R replicates. Rewards are float ``[A, T, R]``, higher is better; the replicates of a
task share their images over the architectures (common random numbers).
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from few_shot_nas.errors import InputError
from few_shot_nas.stats.rank_correlation import correlation, with_interval
from few_shot_nas.stats.statistics import MeanCI, mean_ci

#: The sources of variance, in the order of the model.
COMPONENTS = ("architecture", "task", "draw", "interaction", "noise")


class Interval(NamedTuple):
    """A number and its two-sided 95 % interval."""

    value: float
    low: float
    high: float


class _Sums(NamedTuple):
    """What the mean squares need of each task: see :func:`variance_components`."""

    mean: np.ndarray  # [T]
    deviation: np.ndarray  # of each architecture from the task's mean, [A, T]
    draw: np.ndarray  # sum of squares of replicates around the task, [T]
    noise: np.ndarray  # residual sum of squares, [T]


def check_rewards(rewards: np.ndarray, *, replicates: int = 2) -> np.ndarray:
    """Return rewards in float64.

    Raises:
        InputError: if there are fewer than two architectures or tasks, too few replicates, or entries that are nan.
    """
    rewards = np.asarray(rewards, np.float64)
    if rewards.ndim != 3 or min(rewards.shape[:2]) < 2 or rewards.shape[2] < replicates:
        raise InputError(
            f"reward table of {' x '.join(map(str, rewards.shape))} architectures x tasks x replicates: needed are at "
            f"least 2 x 2 x {replicates}; fill it with more --tasks and --replicates"
        )
    if not np.isfinite(rewards).all():
        raise InputError("reward table: this score has entries that are not numbers; leave-one-out needs k_shot >= 2")
    return rewards


def _sums(rewards: np.ndarray) -> _Sums:
    cells, draws = rewards.mean(2), rewards.mean(0)  # [A, T], [T, R]
    mean = cells.mean(0)
    draw = ((draws - mean[:, None]) ** 2).sum(1)
    residual = rewards - cells[:, :, None] - draws + mean[:, None]
    return _Sums(mean, cells - mean, draw, (residual**2).sum((0, 2)))


def _components(sums: _Sums, weights: np.ndarray, replicates: int) -> np.ndarray:
    """Return the components ``[B, 5]`` of tasks that count ``weights [B, T]`` times."""
    count, (a, t), r = weights.sum(1), sums.deviation.shape, replicates
    effect = weights @ sums.deviation.T / count[:, None]  # of each architecture, [B, A]
    grand = weights @ sums.mean / count
    ms_a = t * r * (effect**2).sum(1) / (a - 1)
    ms_t = a * r * (weights @ sums.mean**2 - count * grand**2) / (t - 1)
    ms_at = r * (weights @ (sums.deviation**2).sum(0) - count * (effect**2).sum(1)) / ((a - 1) * (t - 1))
    ms_d = a * (weights @ sums.draw) / (t * (r - 1))
    ms_e = weights @ sums.noise / ((a - 1) * t * (r - 1))
    parts = (
        (ms_a - ms_at) / (t * r),
        (ms_t - ms_d - ms_at + ms_e) / (a * r),
        (ms_d - ms_e) / a,
        (ms_at - ms_e) / r,
        ms_e,
    )
    return np.stack(parts, axis=1)


def variance_components(rewards: np.ndarray, *, bootstrap: int = 1000, seed: int = 0) -> dict[str, Interval]:
    """Decompose rewards by the method of moments.

    The model is ``y_atr = mu + architecture_a + task_t + draw_tr + interaction_at + noise_atr``, all random. ``draw``
    is what a replicate's images do to all architectures alike. The architectures share the images, so a model without
    ``draw`` would count it as noise and bias the interaction down. Estimates solve the expected mean squares and may be
    negative.

    Args:
        rewards: ``[A, T, R]``, R >= 2.
        bootstrap: resamples of the tasks for the percentile intervals.
        seed: of the resampling.

    Raises:
        InputError: for a table that is too small or has entries that are not numbers.
    """
    rewards = check_rewards(rewards)
    tasks, replicates = rewards.shape[1:]
    sums = _sums(rewards)
    estimate = _components(sums, np.ones((1, tasks)), replicates)[0]
    weights = np.random.default_rng(seed).multinomial(tasks, np.full(tasks, 1 / tasks), bootstrap).astype(np.float64)
    low, high = np.percentile(_components(sums, weights, replicates), (2.5, 97.5), axis=0)
    return {
        name: Interval(float(estimate[i]), float(low[i]), float(high[i])) for i, name in enumerate(COMPONENTS)
    }


def signal_to_noise(components: Mapping[str, Interval]) -> dict[str, float]:
    """Return how much one reward call says about which architecture is better.

    ``task`` is interaction over noise: what the call says of the best architecture *for its task*. ``fixed`` is
    architecture over interaction plus noise: what the call says of the best architecture for all tasks.
    """
    value = {name: max(interval.value, 0.0) for name, interval in components.items()}
    tiny = np.finfo(np.float64).tiny
    return {
        "task": value["interaction"] / max(value["noise"], tiny),
        "fixed": value["architecture"] / max(value["interaction"] + value["noise"], tiny),
    }


def interaction_share(rewards: np.ndarray) -> float:
    """Return interaction / (interaction + noise) of ``[A, T, R]``: how far one reward of a task is to be believed.

    Raises:
        InputError: for a table that is too small or has entries that are not numbers.
    """
    rewards = check_rewards(rewards)
    parts = _components(_sums(rewards), np.ones((1, rewards.shape[1])), rewards.shape[2])[0]
    value = dict(zip(COMPONENTS, parts.tolist(), strict=True))
    signal = max(value["interaction"], 0.0)
    return signal / max(signal + value["noise"], np.finfo(np.float64).tiny)


def _halves(tasks: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the even and the odd tasks."""
    return np.arange(0, tasks, 2), np.arange(1, tasks, 2)


def _best_of_other_half(choose: np.ndarray) -> np.ndarray:
    """Return, for each task, the architecture with the highest mean over the *other* half of the tasks, ``[T]``."""
    best = np.empty(choose.shape[1], np.int64)
    first, second = _halves(choose.shape[1])
    for own, other in ((first, second), (second, first)):
        best[own] = choose[:, other].mean((1, 2)).argmax()
    return best


def headroom(rewards: np.ndarray) -> MeanCI:
    """Gain of the best fixed architecture over the mean one, chosen on one half of the tasks, scored on the other.

    Args:
        rewards: ``[A, T, R]``.

    Raises:
        InputError: for a table that is too small or has entries that are not numbers.
    """
    rewards = check_rewards(rewards, replicates=1)
    best = _best_of_other_half(rewards)
    cells = rewards.mean(2)
    return mean_ci(cells[best, np.arange(len(best))] - cells.mean(0))


def choice_value(guess: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Return the score of the architecture with the highest guess in each task, the mean over ties: ``[T]``.

    Args:
        guess: ``[A, T]``.
        score: ``[A, T]``.
    """
    best = guess >= guess.max(0) - 1e-9 * np.maximum(1, np.abs(guess.max(0)))
    return (best * score).sum(0) / best.sum(0)


def order_agreement(
    score: np.ndarray, source: np.ndarray, other: np.ndarray, other_source: np.ndarray
) -> dict[int, tuple[float, float]]:
    """Say how well other tasks order the architectures for those of each source.

    Args:
        score: ``[A, T]``.
        source: of each of its tasks, ``[T]``.
        other: scores of the same architectures on other tasks, such as those of the training classes, ``[A, U]``.
        other_source: of each of these, ``[U]``.

    Returns:
        By source, Kendall's tau of the mean scores of ``score`` and ``other``; and that of the two halves of ``score``
        itself, every second task, which says how much of a disagreement is noise. nan where one does not vary.

    Example:
        >>> score, source = np.array([[0.1, 0.2], [0.4, 0.3], [0.8, 0.9]]), np.zeros(2, np.int64)
        >>> order_agreement(score, source, 1 - score, source)
        {0: (-1.0, 1.0)}
    """
    found = {}
    for place in np.unique(source).tolist():
        own, others = score[:, source == place], other[:, other_source == place]
        pairs = (own, others), (own[:, ::2], own[:, 1::2])
        agreed = [
            correlation(x.mean(1), y.mean(1), "kendall") if x.size and y.size else math.nan for x, y in pairs
        ]
        found[place] = agreed[0], agreed[1]
    return found


def rank_correlation(
    shared: Sequence[float], alone: Sequence[float], *, bootstrap: int = 1000, seed: int = 0
) -> Interval:
    """Kendall's tau-b of scores with shared weights and stand-alone scores, with its 95 % bootstrap interval.

    Args:
        shared: mean reward of each architecture in the table.
        alone: its score when trained by itself, in the same order.
        bootstrap: number of resamples.
        seed: of the resampling.

    Raises:
        InputError: for fewer than three architectures.
    """
    if len(shared) < 3:
        raise InputError(f"rank correlation of {len(shared)} architectures: at least 3 stand-alone runs are needed")
    return Interval(*with_interval(partial(correlation, kind="kendall"), shared, alone, bootstrap=bootstrap, seed=seed))
