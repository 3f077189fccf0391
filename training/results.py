"""What a run leaves behind: results.json, episodes.csv, the weights, and a table on the screen."""

import csv
import io
import json
import math
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn

import few_shot_nas
from few_shot_nas.algorithms.task_scores import out_of_bounds
from few_shot_nas.meta.bn_mode import scored_beside
from few_shot_nas.nn.cost import count_macs, count_parameters
from few_shot_nas.report import Run, results_table
from few_shot_nas.spaces.mixed_supernet import MixedSupernet
from few_shot_nas.spaces.supernet import DerivedNetwork, Supernet
from few_shot_nas.stats.statistics import mean_ci
from few_shot_nas.whole_file import write_text

Rows = Sequence[Mapping[str, Any]]


def scores(rows: Rows) -> dict[str, dict[str, Any]]:
    """Return accuracy, half-width of its 95 % interval (None for one episode) and episodes of every bn_mode.

    A score beside that of a bn_mode (``tuned_running``, ``no_copies_running``) says in ``minus`` by how much it differs
    from it, with the interval of the difference on the same tasks.
    ``non_finite`` counts the episodes whose answers are no numbers: their accuracy is that of always the first class.
    ``diverged`` says that the answers are numbers, but of a network that has diverged (:func:`out_of_bounds`).
    """
    names = sorted({row["bn_mode"] for row in rows}, reverse=True)
    by_mode = {mode: [row for row in rows if row["bn_mode"] == mode] for mode in names}
    found: dict[str, dict[str, Any]] = {}
    for mode, own in by_mode.items():
        score = mean_ci([row["accuracy"] for row in own])
        found[mode] = {
            "accuracy": score.mean,
            "ci95": _known(score.ci95),
            "episodes": score.n,
            "non_finite": sum(not row.get("finite", True) for row in own),
            "diverged": out_of_bounds(own),
        }
        base = scored_beside(mode, names)
        if base is not None:
            pairs = zip(own, by_mode[base], strict=True)
            difference = mean_ci([row["accuracy"] - other["accuracy"] for row, other in pairs])
            found[mode]["minus"] = {base: {"accuracy": difference.mean, "ci95": _known(difference.ci95)}}
    return found


def _known(half_width: float) -> float | None:
    return None if math.isnan(half_width) else half_width


def cost(net: nn.Module, genotype: Any, n_way: int, in_channels: int, image_size: int) -> tuple[int, int | None]:
    """Return parameters and multiply-accumulates per image; of a supernet, those of the network of ``genotype``.

    Without a genotype a supernet computes nothing, and its MACs are None; one with alphas computes its mixture.
    """
    if isinstance(net, Supernet):
        if genotype is None and not isinstance(net, MixedSupernet):
            return count_parameters(net), None
        if genotype is not None:
            net = DerivedNetwork(n_way, in_channels, image_size, genotype)
    return count_parameters(net), count_macs(net, in_channels, image_size)


def versions() -> dict[str, str]:
    """Return the versions that decide what a run computes."""
    packages = ("torch", "torchvision", "pytorch-lightning", "numpy")
    return {
        "few_shot_nas": few_shot_nas.__version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
    }


def write_episodes(path: Path, rows: Rows, classes: Callable[[int], Sequence[int]]) -> None:
    """Write one row per test episode and bn_mode, with the numbers of its classes within the split."""
    text = io.StringIO()
    columns = ["task_id", "bn_mode", "accuracy", "loss", "classes"]
    known = {task: " ".join(map(str, sorted(classes(task)))) for task in {row["task_id"] for row in rows}}
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows({**row, "classes": known[row["task_id"]]} for row in rows)
    write_text(path, text.getvalue())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write indented JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def console() -> Console:
    """Return a console that is wide enough for the tables when the output goes to a file."""
    terminal = Console()
    return terminal if terminal.is_terminal or "COLUMNS" in os.environ else Console(width=150)


def show(contents: Sequence[tuple[Mapping[str, Any], Path]]) -> None:
    """Print the contents of results.json, each with the folder that names its row, as the table that reports use."""
    runs = [
        Run(path, {"search": {}, **content}, config={}, config_text="", metrics={}, episodes={}, genotype=None)
        for content, path in contents
    ]
    console().print(results_table(runs))
