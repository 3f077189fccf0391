"""How well tasks were answered: a row per task and bn_mode, gathered from all ranks, and what is logged of the rows."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from few_shot_nas.episode import Task
from few_shot_nas.runtime.gradients import gather_rows
from few_shot_nas.stats.confusion import confusion
from few_shot_nas.stats.statistics import accuracy, mean_ci

logger = logging.getLogger(__name__)

#: task_id, bn_mode, accuracy, loss, finite, ways and confusion (counts by label, truth by answer) of one task in one
#: bn_mode; ``watched`` where scalars were watched.
ScoreRow = dict[str, Any]
#: A mean loss of so many times that of guessing is out of bounds.
FAR = 1000.0


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
                    "ways": logits.shape[1],
                    "confusion": confusion(logits, task.query_y),
                    **({"watched": dict(watched[mode])} if watched.get(mode) else {}),
                }
            )

    def take(self) -> list[ScoreRow]:
        """Return the rows of all ranks by bn_mode and task, and forget them. A collective: every rank must call it."""
        rows = gather_rows(self.rows)
        self.rows = []
        return sorted(rows, key=lambda row: (row["bn_mode"], row["task_id"]))


def mean_of(rows: Sequence[Mapping[str, Any]], name: str) -> float:
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


def out_of_bounds(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether the rows of one bn_mode come from a network that has diverged, but to finite weights.

    Its mean loss is over :data:`FAR` times ``ln(ways)``, which is the loss of guessing, and its accuracy is no better
    than that of guessing. A network that is only too sure of itself answers better. Rows of earlier versions do not
    say their ways.

    >>> row = {"accuracy": 0.5, "loss": 1e9, "finite": True, "ways": 2}
    >>> out_of_bounds([row] * 2), out_of_bounds([{**row, "loss": 9.0}] * 2), out_of_bounds([{**row, "accuracy": 1}] * 2)
    (True, False, False)
    """
    if not rows or not all(row.get("ways") and row["finite"] for row in rows):
        return False
    ways, score = rows[0]["ways"], mean_ci([row["accuracy"] for row in rows])
    half = score.ci95 if math.isfinite(score.ci95) else math.inf
    guessed = score.mean <= 1.0 / ways or score.mean - half <= 1.0 / ways
    return guessed and mean_of(rows, "loss") > FAR * math.log(ways)


def warn_of_divergence(learner: str, meta_step: int, stage: str, rows: Sequence[ScoreRow]) -> None:
    """Warn if answers to the tasks of a validation or a test, rows of one bn_mode, show that training has diverged."""
    diverged = sum(not row["finite"] for row in rows)
    if diverged:
        logger.warning(
            "%s, meta-step %d: the answers to %d of %d %s tasks are not finite: training has diverged, "
            "or the inner loop does on them",
            learner, meta_step, diverged, len(rows), stage,
        )  # fmt: skip
    elif out_of_bounds(rows):
        logger.warning(
            "%s, meta-step %d: the mean loss of the %s, %.3g, is over %d times that of guessing, and the accuracy no "
            "better: training has diverged, or the inner loop does; lower outer_lr or inner_lr, or set meta_grad_clip",
            learner, meta_step, stage, mean_of(rows, "loss"), FAR,
        )  # fmt: skip
