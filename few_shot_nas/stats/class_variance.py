"""Intervals that take the classes of the tasks for a sample, not only the tasks.

Tasks of few classes are not independent: 1000 tasks of 5 out of 16 classes each show every class some 300 times. An
interval over tasks speaks of these 16 classes alone and is too narrow for another 16 of their kind (Lafargue et al.
2024, arXiv 2409.02850, who resample images, show by how much). Resampling classes would keep only the tasks whose
classes were all drawn, so the variance is computed instead: the first-order term of Hoeffding's decomposition.
Every class brings its own images. What a class is found to be worth varies with them too, so that the variance over
classes holds that of images.
"""

from typing import NamedTuple

import numpy as np
from scipy import sparse, stats
from scipy.sparse.csgraph import connected_components

from few_shot_nas.stats.paired import units
from few_shot_nas.stats.statistics import MeanCI, mean_ci


class ClassVariance(NamedTuple):
    """What the choice of classes adds to the variance of a mean over tasks.

    Attributes:
        variance: of the mean, 0 or more.
        uncertainty: half of the variance of that estimate, the sum of ``variance^2 / degrees of freedom``.
    """

    variance: float
    uncertainty: float


def class_variance(values: np.ndarray, classes: np.ndarray) -> ClassVariance:
    """Estimate the variance that the choice of classes gives to the mean of tasks.

    The model is ``value_t = mean_g + (1/N) sum of beta_c over the N classes of task t + noise_t``, with classes drawn
    at random. Classes that are joined by tasks form a stratum g (the sources of a mixture): strata are fixed. In a
    stratum of C classes the mean of the tasks with class c estimates ``beta_c (C - N) / (N (C - 1))``, since the other
    N - 1 classes of the task are not c. The variance of these estimates, minus that of their noise (what
    is left of the values), is that of the classes; of a mean over all tasks it is ``sum_g share_g^2 var_g / C_g``.

    Args:
        values: one per task, ``[T]``.
        classes: the N different classes of each task, ``[T, N]`` integers.

    Example:
        A class that is worth 1 in every task that has it, among four in pairs:

        >>> pairs = np.array([[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]] * 50)
        >>> round(class_variance((pairs == 0).any(1) * 0.5, pairs).variance, 3)  # var(1, 0, 0, 0) / 4
        0.062
    """
    values = np.asarray(values, np.float64)
    names, member = np.unique(classes, return_inverse=True)
    tasks, ways = classes.shape
    rows = np.repeat(np.arange(tasks), ways)
    holds = sparse.csr_matrix((np.ones(rows.size), (rows, member.ravel())), (tasks, names.size))
    count, stratum = connected_components(holds.T @ holds, directed=False)
    of_task = stratum[member.reshape(classes.shape)[:, 0]]
    variance, uncertainty = 0.0, 0.0
    for part in range(count):
        own = of_task == part
        size, found = int((stratum == part).sum()), int(own.sum())
        if size <= ways or found <= size:  # every task has the same classes, or there are fewer tasks than classes
            continue
        centred = values[own] - values[own].mean()
        inside = holds[own][:, stratum == part]
        shown = np.asarray(inside.sum(0)).ravel()
        scale = ways * (size - 1) / (size - ways)
        effects = scale * (inside.T @ centred) / shown
        left = centred - inside @ effects / ways
        noise = scale**2 * float(left @ left) / found * (1 / shown).mean()
        weight = (found / tasks) ** 2 / size
        seen = float(effects.var(ddof=1))
        variance += weight * max(seen - noise, 0.0)
        uncertainty += (weight * max(seen - noise, 0.0)) ** 2 / (size - 1)
    return ClassVariance(float(variance), float(uncertainty))


def class_interval(differences: np.ndarray, classes: np.ndarray) -> MeanCI:
    """Return the mean and the half-width of a 95 % interval that holds for other classes of the same kind.

    To the variance over tasks (one seed) or over the means of the seeds comes that of the classes, which all seeds
    share; the degrees of freedom are Satterthwaite's. It is never narrower than the interval without classes, though
    more degrees of freedom would let it be.

    Args:
        differences: ``[S, T]``.
        classes: of each task, ``[S, T, N]``.
    """
    values = units(differences)
    ways = classes.shape[2]
    centred = differences - differences.mean(axis=1, keepdims=True)
    added = class_variance(centred.ravel(), classes.reshape(-1, ways))
    own = float(values.var(ddof=1)) / values.size
    total = own + added.variance
    spread = own**2 / (values.size - 1) + added.uncertainty
    degrees = max(total**2 / spread, 1.0) if spread else 1.0
    half = max(float(stats.t.ppf(0.975, degrees)) * total**0.5, mean_ci(values).ci95)
    return MeanCI(float(values.mean()), half, int(values.size))
