"""How well tasks were answered: a row per task and bn_mode, gathered from all ranks, and what is logged of the rows."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from few_shot_nas.episode import Task
from few_shot_nas.runtime.gradients import gather_rows
from few_shot_nas.stats.statistics import accuracy, mean_ci

logger = logging.getLogger(__name__)

#: task_id, bn_mode, accuracy, loss and finite of one task in one bn_mode; ``watched`` where scalars were watched.
ScoreRow = dict[str, Any]


class TaskScores:
    """The rows of this rank's tasks since they were last taken.

    Attributes:
        rows: the rows, in the order in which the tasks were scored.
    """

    def __init__(self) -> None:
        self.rows: list[ScoreRow] = []

    def add(self, task: Task, by_mode: Mapping[str, Tensor], watched: Mapping[str, Mapping[str, float]]) -> None:
        """Add a row for every bn_mode.

        Args:
            task: the task, with the labels of its queries.
            by_mode: query logits ``[Q, N]`` by bn_mode.
            watched: scalars of the task by the bn_mode that they belong to.
        """
        for mode, logits in by_mode.items():
            self.rows.append(
                {
                    "task_id": -1 if task.task_id is None else int(task.task_id),
                    "bn_mode": mode,
                    "accuracy": float(accuracy(logits, task.query_y)),
                    "loss": float(F.cross_entropy(logits, task.query_y)),
                    "finite": bool(logits.isfinite().all()),
                    **({"watched": dict(watched[mode])} if watched.get(mode) else {}),
                }
            )

    def take(self) -> list[ScoreRow]:
        """Return the rows of all ranks by bn_mode and task, and forget them. A collective: every rank must call it."""
        rows = gather_rows(self.rows)
        self.rows = []
        return sorted(rows, key=lambda row: (row["bn_mode"], row["task_id"]))


def mean_of(rows: Sequence[ScoreRow], name: str) -> float:
    """Return the mean of one column."""
    return mean_ci([row[name] for row in rows]).mean


def in_mode(rows: Sequence[ScoreRow], bn_mode: str) -> list[ScoreRow]:
    """Return the rows of one bn_mode."""
    return [row for row in rows if row["bn_mode"] == bn_mode]


def validation_metrics(rows: Sequence[ScoreRow], bn_modes: Sequence[str], chosen: str) -> dict[str, float]:
    """Return what a validation logs of its rows.

    Args:
        rows: the rows of all its tasks.
        bn_modes: the bn_modes whose accuracies are logged.
        chosen: the bn_mode of ``val/accuracy``, ``val/ci95``, ``val/loss`` and of the watched scalars.

    Returns:
        The columns by name. ``val/non_finite``, the number of tasks whose answers are not finite, is there only if
        there are any.
    """
    own = in_mode(rows, chosen)
    score = mean_ci([row["accuracy"] for row in own])
    metrics = {"val/accuracy": score.mean, "val/ci95": score.ci95, "val/loss": mean_of(own, "loss")}
    for mode in bn_modes:
        metrics[f"val/accuracy_{mode}"] = mean_of(in_mode(rows, mode), "accuracy")
    for name in own[0].get("watched", ()):
        metrics[f"val/{name}"] = mean_ci([row["watched"][name] for row in own]).mean
    diverged = sum(not row["finite"] for row in own)
    return {**metrics, "val/non_finite": float(diverged)} if diverged else metrics


def warn_of_divergence(learner: str, meta_step: int, diverged: int, scored: int) -> None:
    """Warn that the answers to some of the validation tasks are not finite."""
    logger.warning(
        "%s, meta-step %d: the answers to %d of %d validation tasks are not finite: training has diverged, "
        "or the inner loop does on them",
        learner, meta_step, diverged, scored,
    )  # fmt: skip
