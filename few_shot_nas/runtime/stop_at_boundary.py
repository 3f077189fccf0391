"""A run that is asked to stop ends between two meta-steps, on all ranks at the same one, with a checkpoint."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from few_shot_nas.runtime.checkpoint import MetaCheckpoint
from few_shot_nas.runtime.ranks import largest
from few_shot_nas.runtime.stop_signals import STOP, Stopped


class StopAtBoundary(Checkpoint):
    """Obeys the signals of :data:`STOP` when a meta-step, a validation or a test meta-batch has ended.

    A stop during a validation, or in the meta-step before one, waits for its end: its outcome decides ``best.ckpt`` and
    belongs to the state that is continued. Any rank may get the signal; all of them stop.

    It is a ``Checkpoint`` so that Lightning calls it after the others, and has to be the last of them.

    Args:
        checkpoint: what writes ``last.ckpt``; None where a run keeps no checkpoints.
    """

    def __init__(self, checkpoint: MetaCheckpoint | None) -> None:
        self.checkpoint = checkpoint
        self._holding = False
        self._common_batches = 0

    def _hold(self) -> None:
        # Lightning registers handlers of its own just before; one of them communicates between ranks, and may hang.
        STOP.install()
        if not self._holding:
            STOP.hold()
            self._holding = True

    def _release(self) -> None:
        if self._holding:
            STOP.release()
            self._holding = False

    def _obey(self, trainer: pl.Trainer, save: bool) -> None:
        """Stop if any rank was asked to. A collective.

        Raises:
            Stopped: after ``last.ckpt`` has been written.
        """
        signum = largest(STOP.noted or 0)
        if not signum:
            return
        if save and self.checkpoint is not None:
            self.checkpoint.write_last(trainer)
        self._release()
        raise Stopped(signum, agreed=True)

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Take the signals."""
        STOP.install()

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Note signals from now on."""
        self._hold()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop after a meta-step, unless a validation follows."""
        if not (trainer.is_last_batch and trainer.enable_validation):
            self._obey(trainer, save=True)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Stop after a validation."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._obey(trainer, save=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Stop where training has ended; its last checkpoint has been written."""
        self._obey(trainer, save=False)
        self._release()

    def on_test_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Note signals; ranks may have one meta-batch more than others, which none of them can wait at."""
        self._hold()
        batches = trainer.num_test_batches
        self._common_batches = -largest(-int(sum(batches)))

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Stop within a test: nothing is lost, ``last.ckpt`` is that of the end of training."""
        if batch_idx < self._common_batches:
            self._obey(trainer, save=False)

    def on_test_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Raise at once again."""
        self._release()

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Raise at once again."""
        self._release()
