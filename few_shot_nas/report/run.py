"""Read a run directory: the only input of every report. Nothing here imports a model or opens a checkpoint."""

import csv
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from few_shot_nas.errors import InputError
from few_shot_nas.report.results_file import damaged, read_results, read_text
from few_shot_nas.spaces.genotype import Genotype

BN_MODES = ("transductive", "support", "running")
# A CSV may hold rounded numbers; more than half of the last digit that a table shows is damage.
_TOLERANCE = 5e-4


@dataclass(frozen=True)
class Episodes:
    """Scores of one evaluation, ordered by task id.

    Attributes:
        task_id: identity of each test task, ``[n]`` int64, no duplicates.
        accuracy: fraction of right queries, ``[n]`` float64.
        loss: mean cross-entropy of the queries, ``[n]`` float64, nan where the file has none.
        classes: numbers of the classes of each task within the split, ``[n, N]`` int64; None where the file is from
            before they were written.
    """

    task_id: np.ndarray
    accuracy: np.ndarray
    loss: np.ndarray
    classes: np.ndarray | None = None


class _Row(NamedTuple):
    """One line of ``episodes.csv``."""

    task_id: int
    accuracy: float
    loss: float
    classes: tuple[int, ...]


@dataclass(frozen=True)
class Run:
    """All that a report needs to know of one run.

    Attributes:
        path: the run directory.
        results: the content of ``results.json``.
        config: the flags of ``config.yaml``.
        config_text: the same, as it is written.
        metrics: columns of ``metrics.csv`` by name, float64 with nan in blank cells; empty without the file.
        episodes: test scores by ``bn_mode``; empty without the file.
        genotype: the architecture found or trained, if there is one.
        choices: columns of ``choices.csv`` by name, ``meta_step`` and ``decision=choice``; empty without the file.
    """

    path: Path
    results: dict[str, Any]
    config: dict[str, Any]
    config_text: str
    metrics: dict[str, np.ndarray]
    episodes: dict[str, Episodes]
    genotype: Genotype | None
    choices: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The folder's name, in characters that a page can hold."""
        return printable(self.path.resolve().name)

    def series(self, column: str) -> tuple[np.ndarray, np.ndarray]:
        """Return (meta_step, value) of the rows of ``metrics.csv`` where ``column`` is filled; empty without it."""
        if column not in self.metrics:
            return np.empty(0), np.empty(0)
        values = self.metrics[column]
        filled = np.isfinite(values)
        return self.metrics["meta_step"][filled], values[filled]


def printable(name: str) -> str:
    """Return a name with what is not UTF-8 in it, as names of files may have, written out."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def load_run(path: Path | str) -> Run:
    """Read one run directory.

    Args:
        path: a folder with ``config.yaml`` and ``results.json``; ``metrics.csv``, ``choices.csv``,
            ``episodes.csv`` and ``genotype.json`` are read if they are there.

    Raises:
        InputError: naming the file that is missing or damaged and what is wrong with it.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"report: {path} is not a run directory; give a folder that training/run_experiment.py wrote")
    results = read_results(path / "results.json")
    config_text = read_text(path / "config.yaml")
    run = Run(
        path=path,
        results=results,
        config=_parse_config(path / "config.yaml", config_text),
        config_text=config_text,
        metrics=_read_metrics(path / "metrics.csv"),
        episodes=_read_episodes(path / "episodes.csv"),
        genotype=Genotype.load(path / "genotype.json") if (path / "genotype.json").exists() else None,
        choices=_read_metrics(path / "choices.csv"),
    )
    _check_agreement(run)
    return run


def _parse_config(path: Path, text: str) -> dict[str, Any]:
    try:
        config = yaml.load(text, Loader=_Flat)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise damaged(path, f"not YAML ({' '.join(str(error).split())[:120]})") from None
    if not isinstance(config, dict):
        raise damaged(path, "it must hold flags, one per line")
    for name, value in config.items():
        if any(isinstance(item, dict | list) for item in (value if isinstance(value, list) else [value])):
            raise damaged(path, f"{name!r:.40} holds nested keys")
    return config


class _Flat(yaml.SafeLoader):
    """Plain values; merge keys, which can multiply a small file without end, are an error."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Leave ``<<`` as a key, which no constructor takes."""


def _read_rows(path: Path, needed: tuple[str, ...]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of a CSV file; every row as long as the header."""
    try:
        rows = [row for row in csv.reader(read_text(path).splitlines()) if row]
    except csv.Error as error:
        raise damaged(path, f"it is no table ({error})") from None
    header = rows[0] if rows else []
    for column in needed:
        if column not in header:
            raise damaged(path, f"the column {column} is missing")
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise damaged(path, f"line {number} has {len(row)} cells where the header has {len(header)}")
    return header, rows[1:]


def _number(path: Path, line: int, column: str, cell: str) -> float:
    if not cell.strip():
        return math.nan
    try:
        return float(cell)
    except ValueError:
        raise damaged(path, f"line {line}, column {column} holds {cell!r} where a number is needed") from None


def _read_metrics(path: Path) -> dict[str, np.ndarray]:
    if not path.exists():
        return {}
    header, rows = _read_rows(path, needed=("meta_step",))
    return {
        column: np.array([_number(path, line, column, row[place]) for line, row in enumerate(rows, start=2)])
        for place, column in enumerate(header)
    }


def _read_episodes(path: Path) -> dict[str, Episodes]:
    if not path.exists():
        return {}
    header, rows = _read_rows(path, needed=("task_id", "bn_mode", "accuracy"))
    found: dict[str, list[_Row]] = {}
    for line, row in enumerate(rows, start=2):
        cells = dict(zip(header, row, strict=True))
        accuracy = _number(path, line, "accuracy", cells["accuracy"])
        task_id = _number(path, line, "task_id", cells["task_id"])
        if not 0 <= accuracy <= 1:
            raise damaged(path, f"line {line} has accuracy {cells['accuracy']!r}, a fraction from 0 to 1 is needed")
        if not task_id.is_integer() or abs(task_id) > 2**53:
            raise damaged(path, f"line {line} has task_id {cells['task_id']!r}, a whole number is needed")
        loss = _number(path, line, "loss", cells.get("loss", ""))
        classes = _classes(path, line, cells.get("classes", ""))
        found.setdefault(cells["bn_mode"], []).append(_Row(int(task_id), accuracy, loss, classes))
    return {mode: _sorted_episodes(path, mode, rows) for mode, rows in found.items()}


def _classes(path: Path, line: int, cell: str) -> tuple[int, ...]:
    words = cell.split()
    if not all(word.isdecimal() for word in words):
        raise damaged(path, f"line {line}, column classes holds {cell!r} where whole numbers are needed")
    return tuple(map(int, words))


def _sorted_episodes(path: Path, mode: str, found: list[_Row]) -> Episodes:
    found.sort(key=lambda row: row.task_id)
    task_id = np.array([row.task_id for row in found], dtype=np.int64)
    twice = task_id[1:][task_id[1:] == task_id[:-1]]
    if twice.size:
        raise damaged(path, f"task {twice[0]} occurs twice with bn_mode {mode}")
    ways = {len(row.classes) for row in found}
    if len(ways) > 1:
        raise damaged(path, f"the column classes has {min(ways)} and {max(ways)} numbers for tasks of one shape")
    classes = None if ways == {0} else np.array([row.classes for row in found], dtype=np.int64)
    accuracy, loss = (np.array([getattr(row, name) for row in found]) for name in ("accuracy", "loss"))
    return Episodes(task_id, accuracy, loss, classes)


def _check_agreement(run: Run) -> None:
    """Two files that tell different accuracies come from two runs; a report of them would be fiction."""
    for mode, score in run.results["test"].items():
        if mode in run.episodes:
            mean = float(run.episodes[mode].accuracy.mean())
            if abs(mean - score["accuracy"]) > _TOLERANCE:
                raise InputError(
                    f"report: {run.path}: results.json has {mode} accuracy {score['accuracy']:.4f}, but the mean of "
                    f"episodes.csv is {mean:.4f}; the files are of different runs, repeat the test"
                )
