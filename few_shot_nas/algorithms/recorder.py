"""What a learner notes between two rows of training metrics, and the checks that it is finite."""

import logging
import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from few_shot_nas.errors import InputError
from few_shot_nas.runtime.gradients import world

logger = logging.getLogger(__name__)

#: A training loss of so many nats, the mean of a row, is out of bounds: guessing among 1,000 classes costs 7.
FAR_LOSS = 1000.0
REMEDY = "set meta_grad_clip, or leave such steps out with on_nonfinite=skip"


class Recorder:
    """The scalars of the meta-steps since the latest row, and the norms of their gradients.

    A scalar may stay on its device as a tensor ``[]``. It is waited for when a row is made or a checkpoint is written.

    Args:
        learner: name of the class that trains, for messages.
        on_nonfinite: ``stop`` refuses a training loss that is not finite; ``skip`` lets it pass.

    Attributes:
        last_loss: the latest ``train/loss``; NaN before the first.
        far_rows: rows whose mean training loss is over :data:`FAR_LOSS`.
    """

    def __init__(self, learner: str, on_nonfinite: str) -> None:
        self.learner = learner
        self.on_nonfinite = on_nonfinite
        self.last_loss: float | Tensor = float("nan")
        self.far_rows = 0
        self._window: dict[str, list[float | Tensor]] = {}
        self._norms: list[tuple[int, Tensor]] = []
        self._started = time.monotonic()
        self._train_accuracy: tuple[float | Tensor, int] = (0.0, 0)

    def add(self, scalars: Mapping[str, float | Tensor]) -> None:
        """Add scalars of one meta-step to the window."""
        for name, value in scalars.items():
            self._window.setdefault(name, []).append(value)

    def add_step(self, scalars: Mapping[str, float | Tensor], meta_step: int) -> None:
        """Add all scalars of the meta-step that ended at ``meta_step``; its loss and accuracy count elsewhere too.

        Raises:
            InputError: if the loss is a number that is not finite.
        """
        self.last_loss = scalars.get("train/loss", self.last_loss)
        if "train/loss" in scalars:
            self._check_loss(self.last_loss, meta_step)
        self.add(scalars)
        if "train/accuracy" in scalars:
            total, steps = self._train_accuracy
            self._train_accuracy = (total + scalars["train/accuracy"], steps + 1)

    def add_norm(self, norm: Tensor, meta_step: int) -> None:
        """Note the norm of a meta-step's gradient.

        Raises:
            InputError: if it is not finite and lies on the CPU. Other devices would have to be waited for.
        """
        self._norms.append((meta_step, norm))
        if norm.device.type == "cpu":
            self.check_norms()

    def check_norms(self) -> None:
        """Raise InputError for the first meta-step since the last call whose gradient was not finite."""
        noted, self._norms = self._norms, []
        if not noted:
            return
        finite = torch.stack([norm for _, norm in noted]).isfinite().tolist()
        for (step, _), fine in zip(noted, finite, strict=True):
            if not fine:
                raise InputError(
                    f"{self.learner}: the meta-gradient of meta-step {step} is not finite; "
                    f"lower inner_lr or outer_lr, {REMEDY}"
                )

    def _check_loss(self, loss: float | Tensor, meta_step: int) -> None:
        if self.on_nonfinite == "stop" and isinstance(loss, float) and not math.isfinite(loss):
            raise InputError(
                f"{self.learner}: the training loss at meta-step {meta_step} is not finite; "
                f"lower inner_lr or outer_lr, {REMEDY}"
            )

    def close(self, meta_step: int) -> tuple[dict[str, float], float]:
        """Return the means of the window and how many seconds it took, and start the next one.

        Raises:
            InputError: if a gradient or the mean loss of the window is not finite.
        """
        self.check_norms()
        means = {name: sum(values) / len(values) for name, values in self._numbers().items()}
        self._check_loss(means.get("train/loss", 0.0), meta_step)
        self._count_far(means.get("train/loss", 0.0), meta_step)
        now = time.monotonic()
        seconds, self._window, self._started = now - self._started, {}, now
        return means, seconds

    def _count_far(self, loss: float, meta_step: int) -> None:
        """Count a row whose loss is out of bounds, and warn of the first."""
        if not FAR_LOSS < loss < math.inf:
            return
        self.far_rows += 1
        if self.far_rows == 1 and world()[0] == 0:
            logger.warning(
                "%s: the mean training loss of the row at meta-step %d is %.3g: training diverges, or the inner loop "
                "does on some tasks; lower inner_lr or outer_lr, or set meta_grad_clip",
                self.learner, meta_step, loss,
            )  # fmt: skip

    def _numbers(self) -> dict[str, list[float]]:
        """Return the window's scalars as numbers; waits for the device that has them, once."""
        kept = [value for values in self._window.values() for value in values if isinstance(value, Tensor)]
        numbers = iter(torch.stack([value.float() for value in kept]).tolist() if kept else [])
        return {
            name: [next(numbers) if isinstance(value, Tensor) else value for value in values]
            for name, values in self._window.items()
        }

    def take_train_accuracy(self) -> tuple[float | Tensor, int]:
        """Return the sum of ``train/accuracy`` and the number of its meta-steps, and count from 0 again."""
        taken, self._train_accuracy = self._train_accuracy, (0.0, 0)
        return taken

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds of this, plain Python only.

        Raises:
            InputError: if a gradient noted since the last row is not finite.
        """
        self.check_norms()
        total, steps = self._train_accuracy
        return {"window": self._numbers(), "train_accuracy": [float(total), steps], "far_rows": self.far_rows}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state` returned."""
        self._window = {name: list(values) for name, values in state["window"].items()}
        # Checkpoints of versions without these begin to count where they are continued.
        self.far_rows = state.get("far_rows", 0)
        total, steps = state.get("train_accuracy", (0.0, 0))
        self._train_accuracy = (total, steps)
