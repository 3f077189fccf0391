"""Contrasts between arms and a reference: paired differences in percentage points with intervals and tests."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from few_shot_nas.errors import InputError
from few_shot_nas.report.arms import (
    Arm,
    by_supernet,
    classes,
    common_mode,
    differences,
    load_arm,
    require_same_tasks,
)
from few_shot_nas.report.pairing import task_settings
from few_shot_nas.report.tables import protocol_of, short_names, task
from few_shot_nas.seeding import derived_seed
from few_shot_nas.stats.class_variance import class_interval
from few_shot_nas.stats.paired import below, hierarchical_bootstrap, holm, t_test, tost, units, wilcoxon
from few_shot_nas.stats.statistics import MeanCI, mean_ci

#: Fewer seeds than this do not show their spread.
FEW_SEEDS = 5
ALPHA = 0.05
# Task settings that the header names in words of its own.
_NAMED = {"data_class", "n_way", "k_shot", "n_query", "seed", "split"}


class PValues(NamedTuple):
    """P-values of one contrast.

    Attributes:
        t: paired t-test, over tasks for one seed and over the means of the seeds for several.
        bootstrap: hierarchical bootstrap over (seed, task).
        wilcoxon: signed-rank test over all tasks.
        equivalence: two one-sided t-tests with the margin.
        no_gain: one-sided t-test against a gain of the margin or more.
    """

    t: float
    bootstrap: float
    wilcoxon: float
    equivalence: float
    no_gain: float


@dataclass(frozen=True)
class Contrast:
    """One arm minus the reference, in percentage points.

    Attributes:
        arm: name of the arm.
        difference: mean with its 95 % t-interval, over tasks for one seed and over the means of the seeds for several.
        other_classes: half-width of the 95 % interval that holds for other classes too; None where they are unknown.
        low: lower end of the bootstrap's 95 % interval.
        high: its upper end.
        p: p-values as they are.
        corrected: the same after Holm's correction over all contrasts, each kind of test by itself.
    """

    arm: str
    difference: MeanCI
    other_classes: float | None
    low: float
    high: float
    p: PValues
    corrected: PValues

    @property
    def verdict(self) -> str:
        """What the corrected tests allow to say; a difference needs the t-test and the bootstrap to agree."""
        found = []
        if max(self.corrected.t, self.corrected.bootstrap) < ALPHA:
            found.append("better" if self.difference.mean > 0 else "worse")
        if self.corrected.equivalence < ALPHA:
            found.append("equivalent")
        if not found and self.corrected.no_gain < ALPHA:
            found.append("no gain")
        return ", ".join(found) or "undecided"


@dataclass(frozen=True)
class Comparison:
    """All contrasts with what they rest on.

    Attributes:
        arms: name of each arm, the reference first.
        paths: what the user named each arm by.
        protocol: what all runs share, as (what, value).
        reward_calls: of each arm, as text.
        accuracies: of each arm in ``bn_mode`` over seeds and tasks, as a fraction.
        sizes: parameters and multiply-accumulates of each arm, means over seeds; None where a run lacks one.
        seeds: the seeds of every arm.
        observations: independent trainings: the seeds, of which those of one reward table count as one.
        tasks: test tasks per seed.
        bn_mode: of all scores.
        contrasts: one per arm but the reference.
        margin: of the equivalence test, in percentage points.
        resamples: of the bootstrap.
        warnings: what the reader must know before believing a number.
    """

    arms: tuple[str, ...]
    paths: tuple[str, ...]
    protocol: tuple[tuple[str, str], ...]
    reward_calls: tuple[str, ...]
    accuracies: tuple[float, ...]
    sizes: tuple[tuple[float, float] | None, ...]
    seeds: tuple[int, ...]
    observations: int
    tasks: int
    bn_mode: str
    contrasts: tuple[Contrast, ...]
    margin: float
    resamples: int
    warnings: tuple[str, ...]


def compare_arms(
    paths: Sequence[str],
    *,
    reference: str | None = None,
    bn_mode: str | None = None,
    margin: float = 0.5,
    resamples: int = 10_000,
) -> Comparison:
    """Compare arms with a reference on their common test tasks.

    Args:
        paths: run directories, folders of run directories, or globs; the first is the reference.
        reference: the path of another arm to be the reference.
        bn_mode: of the scores; None takes the first that all runs were tested in, transductive before support.
        margin: of the equivalence test, in percentage points.
        resamples: replicates of the bootstrap.

    Raises:
        InputError: if there are fewer than two arms, a number is not positive, an arm cannot be read, or the test tasks
            differ.
    """
    for flag, value in (("margin", margin), ("resamples", resamples)):
        if not value > 0:
            raise InputError(f"compare: --{flag}={value} given, it must be positive")
    arms = _reference_first([load_arm(path) for path in paths], reference)
    mode = common_mode(arms, bn_mode)
    require_same_tasks(arms, mode)
    labels = short_names([arm.folder for arm in arms])
    groups = by_supernet(arms)
    points = [differences(arm, arms[0], mode, groups) for arm in arms[1:]]
    return Comparison(
        arms=tuple(labels),
        paths=tuple(arm.path for arm in arms),
        protocol=_protocol(arms, mode),
        reward_calls=tuple(_calls(arm) for arm in arms),
        accuracies=tuple(_accuracy(arm, mode) for arm in arms),
        sizes=tuple(arm.size() for arm in arms),
        seeds=tuple(arms[0].runs),
        observations=len(groups),
        tasks=int(arms[0].first().episodes[mode].task_id.size),
        bn_mode=mode,
        contrasts=contrasts(labels[1:], points, margin, resamples, classes(arms[0], mode, groups)),
        margin=margin,
        resamples=resamples,
        warnings=tuple(_warnings(arms, labels, groups)),
    )


def contrasts(
    labels: Sequence[str],
    points: Sequence[np.ndarray],
    margin: float,
    resamples: int,
    task_classes: np.ndarray | None = None,
) -> tuple[Contrast, ...]:
    """Return the statistics of each arm's differences ``[seeds, tasks]`` from the reference, in percentage points.

    With the classes of the tasks, ``[seeds, tasks, N]``, each has an interval for other classes too. All contrasts
    resample by the same stream: they share the seeds and tasks drawn, and another arm changes none of the intervals.
    """
    found = []
    for values in points:
        observed = units(values)
        rng = np.random.default_rng(derived_seed("compare", "bootstrap"))
        drawn = hierarchical_bootstrap(values, rng, resamples)
        one_sided = tost(observed, margin), below(observed, margin)
        p = PValues(t_test(observed), drawn.p_value, wilcoxon(values), *one_sided)
        wide = None if task_classes is None else class_interval(values, task_classes).ci95
        found.append((mean_ci(observed), wide, drawn, p))
    by_test = [holm(column) for column in zip(*(p for *_, p in found), strict=True)]
    corrected = [PValues(*row) for row in zip(*by_test, strict=True)]
    return tuple(
        Contrast(label, mean, wide, drawn.low, drawn.high, p, after)
        for label, (mean, wide, drawn, p), after in zip(labels, found, corrected, strict=True)
    )


def _reference_first(arms: list[Arm], reference: str | None) -> list[Arm]:
    if len(arms) < 2:
        raise InputError(f"compare: {len(arms)} arm given, at least 2 are needed; name another run directory")
    if reference is None:
        return arms
    chosen = [arm for arm in arms if arm.path == reference or arm.folder.resolve() == Path(reference).resolve()]
    if not chosen:
        listed = ", ".join(arm.path for arm in arms)
        raise InputError(f"compare: --reference={reference} is not one of the arms given ({listed}); name one of them")
    return [chosen[0], *(arm for arm in arms if arm is not chosen[0])]


def _accuracy(arm: Arm, mode: str) -> float:
    return float(np.mean([run.episodes[mode].accuracy for run in arm.runs.values()]))


def _calls(arm: Arm) -> str:
    return " or ".join("none" if calls is None else f"{calls:,}" for calls in arm.reward_calls())


def _protocol(arms: Sequence[Arm], mode: str) -> tuple[tuple[str, str], ...]:
    run = arms[0].first()
    ids = run.episodes[mode].task_id
    flags = [f"{key}={value}" for key, value in task_settings(run).items() if key not in _NAMED]
    queries = f", {run.results['n_query']} queries per class" if "n_query" in run.results else ""
    return (
        ("data", ", ".join([str(run.results["data_class"]), *flags])),
        ("split", str(run.results.get("split", "not recorded"))),
        ("task", task(run) + queries),
        ("protocol", ", ".join(dict.fromkeys(protocol_of(arm.first()) for arm in arms))),
        ("bn_mode", mode),
        ("seeds", ", ".join(map(str, arms[0].runs))),
        ("tasks", f"{ids.size} per seed, ids {ids[0]} to {ids[-1]}"),
    )


def _warnings(arms: Sequence[Arm], labels: Sequence[str], groups: Sequence[Sequence[int]]) -> list[str]:
    found = []
    if len({arm.reward_calls() for arm in arms}) > 1 or any(len(arm.reward_calls()) > 1 for arm in arms):
        spent = "; ".join(f"{label}: {_calls(arm)}" for label, arm in zip(labels, arms, strict=True))
        found.append(f"unequal reward budgets (reward calls of {spent}): a difference may be that of the budgets")
    if len({protocol_of(arm.first()) for arm in arms}) > 1:
        listed = "; ".join(f"{label}: {protocol_of(arm.first())}" for label, arm in zip(labels, arms, strict=True))
        found.append(f"protocols are mixed ({listed}): tasks were adapted to or scored in different ways")
    regimes = [str(arm.first().results.get("regime", "not recorded")) for arm in arms]
    if len(set(regimes)) > 1:
        listed = "; ".join(f"{label}: {regime}" for label, regime in zip(labels, regimes, strict=True))
        found.append(f"weights from scratch and inherited ones are mixed ({listed})")
    for same in (seeds for seeds in groups if len(seeds) > 1):
        found.append(
            f"seeds {', '.join(map(str, same))} share one reward table: their mean is one observation, because they "
            "say nothing of another supernet or of other tasks"
        )
    units = "seed" if len(groups) == len(arms[0].runs) else "supernet"
    if len(groups) == 1:
        found.append(f"one {units}: intervals and tests are over tasks and say nothing of another training seed")
    elif len(groups) < FEW_SEEDS:
        found.append(
            f"{len(groups)} {units}s are too few to show their spread: the bootstrap's interval tends to be too "
            f"narrow, so a difference counts only where the t-test over {units}s agrees"
        )
    return found
