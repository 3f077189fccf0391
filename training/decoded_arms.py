"""What decoded genotypes are worth: three ways to choose a trained network for a task, as arms of compare.py.

``own`` takes the network of the task's own genotype, ``most_often`` that of the genotype which comes most often among
the tasks, ``random`` the mean over networks of random architectures of the space. All are scored on the same tasks.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from few_shot_nas.errors import InputError
from few_shot_nas.stats.statistics import mean_ci
from few_shot_nas.whole_file import read_text, write_text
from training import results

#: Facts of one network, which an arm of many has not.
_OF_ONE = ("weights", "legs", "wall_seconds", "test_seconds", "skipped_steps", "diverged_rows", "search", "checkpoint")
#: Flags of one run that name its own files.
_OWN_FILES = ("genotype:", "run_dir:")


class Row(NamedTuple):
    """One line of episodes.csv: the score of one task in one bn_mode."""

    task_id: int
    bn_mode: str
    accuracy: float
    loss: float
    classes: str


def read_rows(folder: Path) -> dict[tuple[int, str], Row]:
    """Return the lines of a finished run's episodes.csv by (task, bn_mode).

    Raises:
        InputError: if the file is not what a run wrote.
    """
    path = folder / "episodes.csv"
    try:
        found = [
            Row(int(line["task_id"]), line["bn_mode"], float(line["accuracy"]), float(line["loss"]),
                line.get("classes", ""))
            for line in csv.DictReader(read_text(path).splitlines())
        ]  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise InputError(f"{path}: is not what a run wrote ({error}); remove {folder} to train it again") from error
    return {(row.task_id, row.bn_mode): row for row in found}


def mean_row(rows: Sequence[Row]) -> Row:
    """Return the mean score of several networks on one task.

    >>> mean_row([Row(7, "support", 0.5, 1.0, "0 1"), Row(7, "support", 1.0, 0.0, "0 1")])
    Row(task_id=7, bn_mode='support', accuracy=0.75, loss=0.5, classes='0 1')
    """
    accuracy, loss = (sum(getattr(row, name) for row in rows) / len(rows) for name in ("accuracy", "loss"))
    return rows[0]._replace(accuracy=accuracy, loss=loss)


def choices(
    names: Mapping[int, str], trained: Mapping[str, Path], drawn: Sequence[str]
) -> dict[str, dict[int, tuple[str, ...]]]:
    """Return for each arm the genotypes whose networks score each task; tasks whose own was not trained are left out.

    Args:
        names: genotype by task.
        trained: run directory by genotype; the first one is that of the most frequent.
        drawn: genotypes that were drawn at random; without any there is no arm ``random``.
    """
    tasks = [task_id for task_id, name in names.items() if name in trained]
    first = next(iter(trained))
    found: dict[str, dict[int, tuple[str, ...]]] = {
        "own": {task_id: (names[task_id],) for task_id in tasks},
        "most_often": {task_id: (first,) for task_id in tasks},
    }
    at_random = tuple(name for name in drawn if name in trained)
    if at_random:
        found["random"] = dict.fromkeys(tasks, at_random)
    return found


def arm_rows(chosen: Mapping[int, Sequence[str]], trained: Mapping[str, Path]) -> list[Row]:
    """Return the scores of one arm, one per task and bn_mode; tasks that a network was not tested on are left out."""
    by_name = {name: read_rows(trained[name]) for name in {name for each in chosen.values() for name in each}}
    found = []
    for task_id, own in sorted(chosen.items()):
        for mode in dict.fromkeys(mode for _, mode in by_name[own[0]]):
            rows = [by_name[name][task_id, mode] for name in own if (task_id, mode) in by_name[name]]
            if len(rows) == len(own):
                found.append(mean_row(rows))
    return found


def arms(
    names: Mapping[int, str], trained: Mapping[str, Path], drawn: Sequence[str] = ()
) -> dict[str, list[Row]]:
    """Return the scores of every arm, in the same order of the same tasks; arguments as for :func:`choices`."""
    found = {arm: arm_rows(chosen, trained) for arm, chosen in choices(names, trained, drawn).items()}
    common = set.intersection(*({(row.task_id, row.bn_mode) for row in rows} for rows in found.values()))
    return {arm: [row for row in rows if (row.task_id, row.bn_mode) in common] for arm, rows in found.items()}


def gains(found: Mapping[str, Sequence[Row]], bn_mode: str) -> dict[str, Any]:
    """Compare a task's own genotype with the most frequent one and with random ones, paired on the tasks.

    Args:
        found: scores by arm.
        bn_mode: of the scores that count.

    Returns:
        ``tasks``; mean and half-width of the 95 % t-interval of each arm, of ``difference`` (own minus most_often) and
        of ``difference_random`` (own minus random).
    """
    values = {arm: [row.accuracy for row in rows if row.bn_mode == bn_mode] for arm, rows in found.items()}
    if not values["own"]:
        return {"tasks": 0}
    for arm, name in (("most_often", "difference"), ("random", "difference_random")):
        if arm in values:
            values[name] = [own - other for own, other in zip(values["own"], values[arm], strict=True)]
    means = {name: mean_ci(scores) for name, scores in values.items()}
    return {
        "tasks": len(values["own"]),
        **{name: {"mean": value.mean, "ci95": value.ci95} for name, value in means.items()},
    }


def write_arms(
    output: Path, names: Mapping[int, str], trained: Mapping[str, Path], drawn: Sequence[str], command: str
) -> list[Path]:
    """Write each arm as a folder that compare.py reads, ``output/ARM/seedS``; returns these folders.

    Parameters and MACs are means over the tasks. Everything else that is said of one network is left out.
    """
    one = next(iter(trained.values()))
    content = {key: value for key, value in _json(one).items() if key not in _OF_ONE}
    config = [line for line in read_text(one / "config.yaml").splitlines() if not line.startswith(_OWN_FILES)]
    chosen, folders = choices(names, trained, drawn), []
    for arm, rows in arms(names, trained, drawn).items():
        folder = output / arm / f"seed{content['seed']}"
        folder.mkdir(parents=True, exist_ok=True)
        text = ["task_id,bn_mode,accuracy,loss,classes", *(",".join(map(str, row)) for row in rows)]
        write_text(folder / "episodes.csv", "\n".join(text) + "\n")
        write_text(folder / "config.yaml", "\n".join(config) + "\n")
        used = [_json(trained[name]) for own in chosen[arm].values() for name in own]
        sizes = {key: round(sum(each[key] for each in used) / len(used)) for key in ("parameters", "macs")}
        tested = results.scores([row._asdict() for row in rows])
        results.write_json(folder / "results.json", {**content, **sizes, "test": tested, "command": command})
        folders.append(folder)
    return folders


def _json(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(read_text(folder / "results.json"))
    return content
