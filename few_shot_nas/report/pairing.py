"""Which runs were tested on the same tasks, and their differences on them."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from few_shot_nas.data.sources import SOURCES
from few_shot_nas.report.run import Run
from few_shot_nas.stats.statistics import MeanCI, mean_ci

# What makes two runs draw the same task for the same id, apart from the flags of the data source.
_TASK_KEYS = ("data_class", "n_way", "k_shot", "n_query", "seed", "split")
# Flags of a source that change where images lie or how large they are, not which ones a task holds.
_SAME_TASKS = {"data_dir", "cache_dir", "image_size", "download"}


@dataclass(frozen=True)
class PairedDifference:
    """Accuracy of one run minus that of another on the same episodes.

    Attributes:
        first: index of the run that is subtracted from.
        second: index of the run that is subtracted.
        difference: mean over episodes of the differences, a fraction, with its interval.
    """

    first: int
    second: int
    difference: MeanCI

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return abs(self.difference.mean) > self.difference.ci95


def task_settings(run: Run) -> dict[str, Any]:
    """Return every setting that decides which images the test task of a given id holds."""
    settings = {key: run.results.get(key, run.config.get(key)) for key in _TASK_KEYS}
    # evaluate.py may have drawn the tasks by another seed than the network was trained with.
    settings["seed"] = run.results.get("test_seed", settings["seed"])
    source = SOURCES.get(str(run.results["data_class"]))
    if source is not None:
        own = set(inspect.signature(source.__init__).parameters) - _SAME_TASKS
        settings.update({key: run.config[key] for key in sorted(own & set(run.config))})
    return settings


def other_table(first: Run, second: Run) -> list[str]:
    """Return in what the reward tables that two runs were scored on differ: their seed, weights, tasks and so on.

    A run without a table, or from before tables were recorded, differs in nothing.
    """
    one, other = first.results["table"], second.results["table"]
    return [key for key in one if key in other and one[key] != other[key]]


def paired_differences(runs: Sequence[Run], mode: str) -> list[PairedDifference]:
    """Compare every two runs whose tests held the same tasks, episode by episode.

    Args:
        runs: the runs; indices in the result refer to this order.
        mode: the ``bn_mode`` of the scores.

    Returns:
        One entry per pair with equal task settings, seeds, reward tables and task ids, and at least two episodes.
    """
    found = []
    for first, second in combinations(range(len(runs)), 2):
        one, other = runs[first].episodes.get(mode), runs[second].episodes.get(mode)
        if one is None or other is None or one.task_id.size < 2 or not np.array_equal(one.task_id, other.task_id):
            continue
        if other_table(runs[first], runs[second]):
            continue
        if task_settings(runs[first]) == task_settings(runs[second]):
            found.append(PairedDifference(first, second, mean_ci(one.accuracy - other.accuracy)))
    return found
