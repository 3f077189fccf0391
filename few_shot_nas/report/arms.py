"""Arms of a comparison: the same experiment repeated with several seeds, read from its run directories."""

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from few_shot_nas.errors import InputError
from few_shot_nas.report.pairing import other_table, task_settings
from few_shot_nas.report.run import BN_MODES, Run, load_run

# What repetitions of one experiment have in common.
_SAME_EXPERIMENT = ("algorithm", "model_class", "regime")


@dataclass(frozen=True)
class Arm:
    """One way to train, with the runs that repeat it.

    Attributes:
        path: what the user named: a run directory, a folder of run directories, or a glob.
        runs: one run per seed, by seed in ascending order.
    """

    path: str
    runs: dict[int, Run]

    @property
    def folder(self) -> Path:
        """The folder that names the arm; of a glob, the one that its first run lies in."""
        return self.first().path.parent if glob.has_magic(self.path) else Path(self.path)

    def first(self) -> Run:
        """Return the run of the smallest seed."""
        return next(iter(self.runs.values()))

    def size(self) -> tuple[float, float] | None:
        """Return the parameters and the multiply-accumulates, means over the runs; None if a run lacks one."""
        found = [[run.results.get(field) for field in ("parameters", "macs")] for run in self.runs.values()]
        if any(value is None for own in found for value in own):
            return None
        parameters, macs = (sum(column) / len(column) for column in zip(*found, strict=True))
        return parameters, macs

    def reward_calls(self) -> tuple[int | None, ...]:
        """Return the distinct numbers of reward calls of the runs, None for a run without a search."""
        spent = {run.results["search"].get("reward_calls") for run in self.runs.values()}
        return tuple(sorted(spent, key=lambda calls: (calls is not None, calls)))


def load_arm(path: str) -> Arm:
    """Read an arm.

    Args:
        path: a run directory (it holds a results.json), a folder whose subfolders are run directories, or a glob.

    Raises:
        InputError: if there is no run, one is damaged, two have the same seed, or they repeat different experiments.
    """
    folders = sorted(map(Path, glob.glob(path))) if glob.has_magic(path) else [Path(path)]
    if len(folders) == 1 and folders[0].is_dir() and not (folders[0] / "results.json").exists():
        folders = sorted(file.parent for file in folders[0].glob("*/results.json"))
    if not folders:
        raise InputError(
            f"compare: {path} holds no run; give a run directory (results.json, episodes.csv) or a folder of them"
        )
    runs: dict[int, Run] = {}
    for run in map(load_run, folders):
        seed = int(run.results["seed"])
        if seed in runs:
            raise InputError(
                f"compare: {runs[seed].path} and {run.path} of the arm {path} both have seed {seed}; "
                "an arm repeats one experiment with one run per seed"
            )
        runs[seed] = run
    arm = Arm(path, dict(sorted(runs.items())))
    _require_several_networks(arm)
    _require_one_experiment(arm)
    return arm


def _require_several_networks(arm: Arm) -> None:
    """Refuse one network under several seeds: its tests are not repetitions of the training."""
    owner: dict[str, Run] = {}
    for run in arm.runs.values():
        weights = run.results.get("weights")
        if isinstance(weights, str) and owner.setdefault(weights, run) is not run:
            raise InputError(
                f"compare: {owner[weights].path} and {run.path} of the arm {arm.path} are tests of one network (weights"
                f" {weights}), not of two trainings; train it with another --seed"
            )


def _require_one_experiment(arm: Arm) -> None:
    first = arm.first()
    for run in arm.runs.values():
        for key in _SAME_EXPERIMENT:
            one, other = first.results.get(key), run.results.get(key)
            if one != other:
                raise InputError(
                    f"compare: {first.path} ({key} {one}) and {run.path} ({key} {other}) are different experiments; "
                    f"name them as two arms instead of {arm.path}"
                )


def common_mode(arms: Sequence[Arm], wanted: str | None) -> str:
    """Return the ``bn_mode`` to compare in: the one asked for, else the first that every run was tested in.

    Raises:
        InputError: naming the run that lacks it.
    """
    runs = [run for arm in arms for run in arm.runs.values()]
    for run in runs:
        if not run.episodes or (wanted is not None and wanted not in run.episodes):
            has = ", ".join(run.episodes) or "no episode at all"
            raise InputError(
                f"compare: {run.path}/episodes.csv has no episodes of bn_mode {wanted or 'transductive'}, it has "
                f"{has}; repeat the test with training/evaluate.py --output, or choose another --bn_mode"
            )
    if wanted is not None:
        return wanted
    common = set.intersection(*(set(run.episodes) for run in runs))
    if not common:
        listed = "; ".join(f"{run.path}: {', '.join(run.episodes)}" for run in runs)
        raise InputError(f"compare: the runs share no bn_mode ({listed}); test them again with training/evaluate.py")
    return next(mode for mode in (*BN_MODES, *sorted(common)) if mode in common)


def require_same_tasks(arms: Sequence[Arm], mode: str) -> None:
    """Check that differences between arms can be taken task by task.

    Raises:
        InputError: naming two runs or arms whose test tasks differ, and in what.
    """
    reference = arms[0]
    for arm in arms[1:]:
        if list(arm.runs) != list(reference.runs):
            raise InputError(
                f"compare: {reference.path} has seeds {_listed(reference)} and {arm.path} has {_listed(arm)}; the seed "
                "names the test tasks, so every arm needs the same seeds"
            )
    _require_same_tables(arms)
    for arm in arms[1:]:
        for seed, run in arm.runs.items():
            one, other = (task_settings(each)["seed"] for each in (reference.runs[seed], run))
            if one != other:
                raise InputError(
                    f"compare: {reference.runs[seed].path} and {run.path} were tested on different tasks: drawn by seed"
                    f" {one} and {other}; repeat one test with training/evaluate.py --seed --output"
                )
    first = reference.first()
    for run in (run for arm in arms for run in arm.runs.values()):
        one, other = task_settings(first), task_settings(run)
        differing = [key for key in one | other if key != "seed" and one.get(key) != other.get(key)]
        if differing:
            key = differing[0]
            raise InputError(
                f"compare: {first.path} and {run.path} were tested on different tasks: {key} is {one.get(key)} and "
                f"{other.get(key)}; repeat one test with training/evaluate.py --output"
            )
        ids, own = first.episodes[mode].task_id, run.episodes[mode].task_id
        if not np.array_equal(ids, own):
            raise InputError(
                f"compare: {first.path} and {run.path} were tested on different tasks: {ids.size} task ids from "
                f"{ids[0]} to {ids[-1]} and {own.size} from {own[0]} to {own[-1]}; repeat one test with "
                "training/evaluate.py --episodes --output"
            )
    if first.episodes[mode].task_id.size < 2:
        raise InputError(f"compare: {first.path} was tested on 1 task, at least 2 are needed; raise --test_episodes")


def _require_same_tables(arms: Sequence[Arm]) -> None:
    """Check that runs of one seed were scored on one reward table; other seeds may have other tables.

    An arm from before tables were recorded is no reason to let two others differ, so every two arms are compared.
    """
    for reference, arm in combinations(arms, 2):
        for seed, run in arm.runs.items():
            first = reference.runs[seed]
            for key in other_table(first, run):
                one, other = first.results["table"][key], run.results["table"][key]
                raise InputError(
                    f"compare: seed {seed} of {reference.path} and of {arm.path} were scored on different reward "
                    f"tables: {key} is {one} and {other}; "
                    "repeat training/tabular/arms.py with one --test_table and --plant"
                )


def by_supernet(arms: Sequence[Arm]) -> list[list[int]]:
    """Return the seeds in groups: together where they were scored on tables of the same weights, else each alone."""
    groups: dict[str, list[int]] = {}
    for seed in arms[0].runs:
        found = (arm.runs[seed].results["table"].get("weights") for arm in arms)
        weights = next((each for each in found if each is not None), None)
        groups.setdefault(f"seed {seed}" if weights is None else f"weights {weights}", []).append(seed)
    return list(groups.values())


def _listed(arm: Arm) -> str:
    return ", ".join(map(str, arm.runs))


def differences(arm: Arm, reference: Arm, mode: str, groups: Sequence[Sequence[int]]) -> np.ndarray:
    """Return accuracy of ``arm`` minus that of ``reference``, ``[groups, tasks]``, in percentage points.

    Args:
        arm: one of the arms.
        reference: the arm that it is compared with.
        mode: the ``bn_mode`` of the scores.
        groups: seeds of one supernet each; a group is one observation, the mean over its seeds.
    """

    def mean(each: Arm, seeds: Sequence[int]) -> np.ndarray:
        return np.mean([each.runs[seed].episodes[mode].accuracy for seed in seeds], axis=0)

    return np.stack([100 * (mean(arm, seeds) - mean(reference, seeds)) for seeds in groups])


def classes(arm: Arm, mode: str, groups: Sequence[Sequence[int]]) -> np.ndarray | None:
    """Return the classes of each test task, ``[groups, tasks, N]``; None if a run's file does not name them."""
    found = [arm.runs[seeds[0]].episodes[mode].classes for seeds in groups]
    known = [each for each in found if each is not None]
    if len(known) < len(found) or len({each.shape for each in known}) > 1:
        return None
    return np.stack(known)
