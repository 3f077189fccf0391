"""Checkpoints of an episodic run: last and best, written atomically, readable with ``weights_only=True``."""

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint

from few_shot_nas.errors import InputError
from few_shot_nas.runtime.seal import damage, is_sealed, seal
from few_shot_nas.whole_file import replacing

KEY = "few_shot_nas"
_SEALED = "few_shot_nas_sealed"
_OTHER = "give another checkpoint of the run, such as checkpoints/best.ckpt, or a copy of this one"


def named_checkpoint(folder: Path, wanted: str) -> Path:
    """Return the checkpoint of a run that best, last or a path names.

    Raises:
        InputError: if it does not exist.
    """
    path = folder / "checkpoints" / f"{wanted}.ckpt" if wanted in ("best", "last") else Path(wanted)
    if not path.is_file():
        raise InputError(f"--checkpoint={wanted}: {path} does not exist; give best, last or the path of a checkpoint")
    return path


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint as plain data.

    Raises:
        InputError: if the file is missing, damaged, holds code, or was not written by this framework.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"checkpoint {path} does not exist; give the path of a run's checkpoints/last.ckpt")
    try:
        broken = damage(path)
    except OSError as error:
        raise InputError(f"checkpoint {path} cannot be read: {error.strerror or error}") from error
    if broken:
        raise InputError(f"checkpoint {path} is damaged: {broken}; {_OTHER}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a different type for each kind of damage
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"checkpoint {path} cannot be read as plain tensors and data: {reason}; {_OTHER}") from error
    if not isinstance(content, dict) or KEY not in content:
        raise InputError(f"checkpoint {path} was not written by few_shot_nas: it has no {KEY!r} entry")
    odd = _odd_entry(content)
    if odd:
        raise InputError(f"checkpoint {path} is not one of a run: {odd}; {_OTHER}")
    if content.get(_SEALED, False) and not is_sealed(path):
        raise InputError(f"checkpoint {path} is damaged: its digest is missing; {_OTHER}")
    return content


def _odd_entry(content: dict[str, Any]) -> str:
    """Return what is missing or of another kind in the entries that every reader needs; empty if nothing is."""
    own = content[KEY]
    if not isinstance(own, dict):
        return f"its entry {KEY} is a {type(own).__name__} where a mapping is needed"
    step = own.get("meta_step")
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        return f"its meta_step is {step!r} where a number of meta-steps is needed"
    if not isinstance(own.get("identity"), dict):
        return "it does not say what kind of run it is of (identity)"
    weights = content.get("state_dict")
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in weights.items()
    ):
        return "its state_dict does not hold tensors by name"
    return ""


def read_identity(path: str | Path) -> dict[str, str | int]:
    """Return what the run in a checkpoint was: algorithm, model_class, n_way and so on."""
    return dict(load_checkpoint(path)[KEY]["identity"])


def check_identity(path: str | Path, expected: dict[str, str | int]) -> None:
    """Refuse a checkpoint of another kind of run.

    Args:
        path: the checkpoint.
        expected: what the run at hand is; only keys that both sides have are compared.

    Raises:
        InputError: naming every key that differs and both values.
    """
    saved = read_identity(path)
    wrong = [
        f"{key}={saved[key]} there, {value} here" for key, value in expected.items() if saved.get(key, value) != value
    ]
    if wrong:
        raise InputError(
            f"checkpoint {path} belongs to another run: {'; '.join(wrong)}; give the flags it was made with"
        )


class MetaCheckpoint(Checkpoint):
    """Keep ``last.ckpt`` and ``best.ckpt`` (highest ``val/accuracy``) of a run.

    Lightning's own ModelCheckpoint counts optimizer steps, which under manual optimisation are not outer updates, and
    ignores its time trigger there. This one counts ``meta_step``. A file is written beside its target, sealed with its
    digest, flushed to the disk and renamed, so a process killed at any moment leaves the previous checkpoint whole.
    Where a validation follows the meta-step, ``last.ckpt`` is written after it: a run that continues there does not
    repeat the validation, so its outcome has to be in the file.

    Args:
        dirpath: folder for the two files.
        save_every: write ``last.ckpt`` whenever ``meta_step`` is a multiple of this.
        save_minutes: and when so many minutes have passed since the last write.
    """

    #: With several ranks the clock of rank 0 decides; asking it costs a broadcast, so only every so many steps.
    CLOCK_EVERY = 20

    def __init__(self, dirpath: str, save_every: int = 500, save_minutes: float = 10.0) -> None:
        self.last_path = Path(dirpath) / "last.ckpt"
        self.best_path = Path(dirpath) / "best.ckpt"
        self.save_every = save_every
        self.save_seconds = 60.0 * save_minutes
        self.best_accuracy = float("-inf")
        self._written_at = time.monotonic()
        self._owes_last = False

    def state_dict(self) -> dict[str, Any]:
        """Return the best validation accuracy so far."""
        return {"best_accuracy": self.best_accuracy}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best validation accuracy."""
        self.best_accuracy = state_dict["best_accuracy"]

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say in the file that it carries a digest, so that one without is seen to have lost it."""
        checkpoint[_SEALED] = True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write ``last.ckpt`` if it is time, or leave it to the end of the validation that follows."""
        meta_step: int = pl_module.meta_step  # type: ignore[assignment]
        if meta_step % self.save_every == 0 or self._clock_says_so(trainer, meta_step):
            self._owes_last = bool(trainer.is_last_batch and trainer.enable_validation)
            if not self._owes_last:
                self.write_last(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write ``best.ckpt`` if the validation accuracy is higher than ever before, and ``last.ckpt`` if it is due."""
        accuracy = trainer.callback_metrics.get("val/accuracy")
        # The check before training scores a few of the tasks: its accuracy is not that of a validation.
        # A network whose answers are not numbers has an accuracy too: that of always saying the first class.
        finite = not float(trainer.callback_metrics.get("val/non_finite", 0.0))
        counts = trainer.state.fn == "fit" and not trainer.sanity_checking and finite
        if counts and accuracy is not None and float(accuracy) > self.best_accuracy:
            self.best_accuracy = float(accuracy)
            self._write(trainer, self.best_path)
        if self._owes_last:
            self.write_last(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write ``last.ckpt`` of the finished run."""
        self._write(trainer, self.last_path)

    def write_last(self, trainer: pl.Trainer) -> None:
        """Write ``last.ckpt``, between two meta-steps. A collective: every rank must call it."""
        self._write(trainer, self.last_path)
        self._written_at = time.monotonic()
        self._owes_last = False

    def _clock_says_so(self, trainer: pl.Trainer, meta_step: int) -> bool:
        due = time.monotonic() - self._written_at > self.save_seconds
        if trainer.world_size == 1:
            return due
        return meta_step % self.CLOCK_EVERY == 0 and trainer.strategy.broadcast(due)

    def _write(self, trainer: pl.Trainer, path: Path) -> None:
        if getattr(trainer, "fast_dev_run", False):
            return
        # False: not the weights alone, the optimizer's state too. Every rank calls it, and the first one writes.
        if not trainer.is_global_zero:
            trainer.save_checkpoint(path, False)
            return
        with replacing(path) as part:
            trainer.save_checkpoint(part, False)
            seal(part)
