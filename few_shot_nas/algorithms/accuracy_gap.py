"""How much better a learner is on training classes than on validation classes: ``val/gap``."""

from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from few_shot_nas.algorithms.task_scores import ScoreRow, mean_of
from few_shot_nas.episode import Episode


def score_gap_episodes(trainer: pl.Trainer, data: Any, score: Callable[[Episode], None]) -> None:
    """Score the gap episodes of a data module in the precision and on the device of the trainer's validations."""
    plugin = trainer.precision_plugin
    for batch in data.gap_loader():
        ready = trainer.strategy.batch_to_device(plugin.convert_input(batch))
        with plugin.val_step_context():
            score(ready)


def gap_by_episodes(rows: Sequence[ScoreRow], val_accuracy: float) -> dict[str, float]:
    """Return what is logged of the gap episodes: tasks of training classes, made as the validation's are."""
    right, loss = mean_of(rows, "accuracy"), mean_of(rows, "loss")
    return {"train/eval_accuracy": right, "train/eval_loss": loss, "val/gap": right - val_accuracy}


def gap_by_training(total: float | Tensor, steps: int, val_accuracy: float) -> dict[str, float]:
    """Return the gap by the training tasks since the last validation; nothing if there were none.

    Training tasks have other numbers of inner steps and queries. A learner that is trained on other tasks than it is
    scored on has no such gap.

    Args:
        total: sum of ``train/accuracy`` over the meta-steps.
        steps: how many meta-steps.
        val_accuracy: accuracy of the validation.
    """
    return {"val/gap": float(total) / steps - val_accuracy} if steps else {}
