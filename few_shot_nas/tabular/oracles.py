"""How much per-task choice could gain on a reward table: rules fitted on some tasks and scored on others. Pure.

Shapes: A architectures, T tasks, R replicates, F features of a task. Rewards are float ``[A, T, R]``, higher is better.

Every rule learns from some tasks and chooses for others. A choice that looks at rewards of a task looks at one
replicate and is scored on another. The gain is over the best fixed architecture of the tasks that the rule learned
from. No rule is a ceiling: up to chance, its gain is a lower bound of what the best rule gains.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from sklearn.linear_model import RidgeCV

from few_shot_nas.stats.statistics import MeanCI, mean_ci
from few_shot_nas.tabular.table_analysis import check_rewards, choice_value, interaction_share

#: Random cuts of the tasks in halves that a gain is the mean of.
SPLITS = 10
#: Strengths of the ridge penalty to choose from, relative to rows of unit variance.
PENALTIES = tuple(10.0**power for power in range(-1, 7))


class Gain(NamedTuple):
    """What a rule gains over the best fixed architecture.

    Attributes:
        tasks: the tasks that the rule chose for, ``[n]``.
        per_task: gain on each of these tasks, the mean over the cuts in which the rule chose for it, ``[n]``.
        mean: gain over all tasks, with the t-interval over tasks.
        low: the smallest mean gain of one cut.
        high: the largest mean gain of one cut.
    """

    tasks: np.ndarray
    per_task: np.ndarray
    mean: MeanCI
    low: float
    high: float


#: Takes the tasks ``[m]`` to choose for and the replicate that the choice may look at; returns a guess of each
#: architecture's score, ``[A, m]``. Only differences within a task count.
Chooser = Callable[[np.ndarray, int], np.ndarray]
#: Takes the tasks ``[n]`` to learn from.
Rule = Callable[[np.ndarray], Chooser]


#: One cut of the tasks, as pairs: tasks to learn from, and other tasks to choose for. A random cut in halves has two
#: pairs, so that each half is learned from once.
Cut = Sequence[tuple[np.ndarray, np.ndarray]]


def random_halves(tasks: int, *, splits: int = SPLITS, seed: int = 0) -> list[Cut]:
    """Return random cuts in halves: what a rule gains on tasks of the classes that it learned from."""
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(tasks) for _ in range(splits)]
    return [
        ((order[: tasks // 2], order[tasks // 2 :]), (order[tasks // 2 :], order[: tasks // 2])) for order in orders
    ]


def first_to_last(first: int, last: int) -> list[Cut]:
    """Return the cut that learns from the ``first`` tasks and chooses for the ``last`` tasks, which follow them.

    On a table of training classes that is followed by one of other classes, this is what a search can do: it has no
    reward of the classes that it is tested on.
    """
    return [((np.arange(first), np.arange(first, first + last)),)]


def gain_of(score: np.ndarray, rule: Rule, cuts: Sequence[Cut]) -> Gain:
    """Return the gain of a rule over the best fixed architecture, each learned on the same tasks and scored on others.

    Args:
        score: rewards that count, ``[A, T, R]``, R >= 2.
        rule: what chooses; a choice that looked at one replicate is scored on all others.
        cuts: which tasks are learned from, and which are chosen for.

    Raises:
        InputError: for a table that is too small or has entries that are not numbers.

    Example:
        Two kinds of tasks prefer one architecture each. A rule that knows the kind gains half of the difference, and a
        little more, because the architecture that is better on one half of the tasks is worse on the other.

        >>> kind = np.arange(40) % 2
        >>> score = np.stack([kind == 0, kind == 1]).astype(float)[:, :, None].repeat(2, axis=2)
        >>> round(gain_of(score, per_source(score, kind), random_halves(40)).mean.mean, 1)
        0.6
    """
    score = check_rewards(score)
    tasks, replicates = score.shape[1:]
    total, chosen, means = np.zeros(tasks), np.zeros(tasks), []
    for cut in cuts:
        gains = []
        for learn, choose in cut:
            fixed = score[:, learn].mean((1, 2)).argmax()
            chooser = rule(learn)
            own = np.zeros(len(choose))
            for replicate in range(replicates):
                others = np.delete(score[:, choose], replicate, axis=2).mean(2)
                own += (choice_value(chooser(choose, replicate), others) - others[fixed]) / replicates
            total[choose] += own
            chosen[choose] += 1
            gains.append(own)
        means.append(float(np.concatenate(gains).mean()))
    found = np.flatnonzero(chosen)
    per_task = total[found] / chosen[found]
    return Gain(found, per_task, mean_ci(per_task), min(means), max(means))


def per_source(score: np.ndarray, source: np.ndarray) -> Rule:
    """Return the rule that takes the best fixed architecture of each source; it looks at no reward of the task.

    Args:
        score: rewards that count, ``[A, T, R]``.
        source: which part of the data each task is from, ``[T]``.
    """

    def rule(learn: np.ndarray) -> Chooser:
        means = {s: score[:, learn[source[learn] == s]].mean((1, 2)) for s in np.unique(source[learn])}
        every = score[:, learn].mean((1, 2))
        return lambda choose, replicate: np.stack([means.get(s, every) for s in source[choose]], axis=1)

    return rule


def own_reward(clue: np.ndarray) -> Rule:
    """Return the rule of the task's own reward as it is: the architecture that is best on one replicate.

    Args:
        clue: rewards to choose by, ``[A, T, R]``; rewards of another kind may be what counts.
    """
    return lambda learn: lambda choose, replicate: np.asarray(clue[:, choose, replicate])


def shrunk(clue: np.ndarray) -> Rule:
    """Return the rule of the task's own reward, shrunk towards the mean over the other tasks.

    The weight of the task's deviation is interaction / (interaction + noise) of the other tasks. This is the best
    linear guess where the interactions of different architectures are independent.

    Args:
        clue: rewards to choose by, ``[A, T, R]``; rewards of another kind may be what counts.
    """
    centred = clue - clue.mean(0)

    def rule(learn: np.ndarray) -> Chooser:
        prior = centred[:, learn].mean((1, 2))[:, None]
        share = interaction_share(clue[:, learn])
        return lambda choose, replicate: np.asarray(prior + share * (centred[:, choose, replicate] - prior))

    return rule


def low_rank(score: np.ndarray, clue: np.ndarray, rank: int) -> Rule:
    """Return the rule of reduced-rank ridge regression (Izenman 1975) from a replicate's clues to other replicates.

    Clues and scores are taken as deviations from the mean over the architectures. The clues of all architectures on one
    replicate predict their scores on another replicate of the task, by a matrix of the given rank. What the
    architectures have in common is learned from the other tasks, so that one noisy replicate says more than it does
    architecture by architecture.

    Args:
        score: rewards that count, ``[A, T, R]``.
        clue: rewards that are looked at, ``[A, T, R]``.
        rank: of the matrix, 1 or more.
    """

    def centred(rewards: np.ndarray) -> np.ndarray:
        return np.asarray(rewards - rewards.mean(0))

    x, y = centred(clue), centred(score)

    def rule(learn: np.ndarray) -> Chooser:
        pairs = [(a, b) for a in range(x.shape[2]) for b in range(x.shape[2]) if a != b]
        seen = np.concatenate([x[:, learn, a].T for a, _ in pairs])
        wanted = np.concatenate([y[:, learn, b].T for _, b in pairs])
        predict = _ridge(seen, wanted, rank)
        return lambda choose, replicate: predict(x[:, choose, replicate].T).T

    return rule


def regression(score: np.ndarray, features: np.ndarray) -> Rule:
    """Return the rule of ridge regression from features of a task to the scores; it looks at no reward of the task.

    Args:
        score: rewards that count, ``[A, T, R]``.
        features: of each task, without query labels, ``[T, F]``: the embedding that a conditioned controller gets.
    """
    centred = (score - score.mean(0)).mean(2)

    def rule(learn: np.ndarray) -> Chooser:
        predict = _ridge(features[learn], centred[:, learn].T)
        return lambda choose, replicate: predict(features[choose]).T

    return rule


def _ridge(x: np.ndarray, y: np.ndarray, rank: int | None = None) -> Callable[[np.ndarray], np.ndarray]:
    """Return what predicts ``[m, A]`` from ``[m, F]``: ridge regression of ``y [n, A]`` on ``x [n, F]``.

    The penalty is the one of :data:`PENALTIES` with the least leave-one-out error. A rank projects the predictions on
    the leading right singular vectors of the fitted values ``x B``, which is the reduced-rank solution.
    """
    shift, scale, mean = x.mean(0), x.std(0), y.mean(0)
    scale = np.where(scale > 1e-12, scale, 1.0)
    rows = (x - shift) / scale
    matrix = np.atleast_2d(RidgeCV(alphas=PENALTIES, fit_intercept=False).fit(rows, y - mean).coef_).T
    if rank is not None:
        leading = np.linalg.eigh(matrix.T @ (rows.T @ rows) @ matrix)[1][:, -rank:]
        matrix = matrix @ leading @ leading.T
    return lambda new: np.asarray((new - shift) / scale @ matrix + mean)


def by_source(gain: Gain, source: np.ndarray) -> dict[int, MeanCI]:
    """Return a rule's gain on the tasks of each source; ``source [T]`` is which part of the data each task is from."""
    own = source[gain.tasks]
    return {int(s): mean_ci(gain.per_task[own == s]) for s in np.unique(own)}
