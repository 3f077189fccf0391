"""Progress of a run: a bar on a terminal, else one plain line every few seconds."""

import logging
import sys
import time
import warnings
from typing import Any, TextIO

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

#: Lightning's adverts, and lines about what this framework has decided on purpose.
NOISE = (
    "litlogger",
    "litmodels",
    "Tip:",
    "TPU available",
    "HPU available",
    "GPU available",
    "IPU available",
    "`weights_only` was not set",
    "Loaded model weights from",
    "Restored all states from",
    "`Trainer.fit` stopped",
    "`Trainer already configured with model summary",
    "All `DDP` processes registered",
    "distributed_backend=",
    "Starting with ",
    "Initializing distributed",
    "GLOBAL_RANK",
    "----------",
)
NOISY_LOGGERS = (
    "pytorch_lightning.utilities.rank_zero",
    "pytorch_lightning.trainer.connectors.checkpoint_connector",
    "lightning_fabric.utilities.rank_zero",
    "lightning_fabric.utilities.distributed",
    "lightning_fabric.utilities.seed",
)
QUIET_WARNINGS = (
    r".*isinstance\(treespec, LeafSpec\).*",
    r".*does not have many workers.*",
    r".*Checkpoint directory .* exists and is not empty.*",
    r".*is smaller than the logging interval.*",
    r".*callbacks used to create the checkpoint need to be provided.*",
    r".*recommended to use `self.log\(.*sync_dist=True\)`.*",
    r".*Trying to infer the `batch_size`.*",
)


def _is_wanted(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return bool(message.strip()) and not any(noise in message for noise in NOISE)


def quiet_lightning() -> None:
    """Drop Lightning's adverts and the warnings that do not apply to episodes; every other message stays."""
    for name in NOISY_LOGGERS:
        logger = logging.getLogger(name)
        if _is_wanted not in logger.filters:
            logger.addFilter(_is_wanted)
    for pattern in QUIET_WARNINGS:
        warnings.filterwarnings("ignore", message=pattern)


def clock(seconds: float) -> str:
    """Return seconds as 1:05 or 2:01:05."""
    whole = int(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Pace:
    """Says when the next line is due: every few seconds, later ever more rarely, so that logs stay short."""

    #: A line may come after this fraction of the time since the start, even if that is longer than ``every``.
    SHARE = 0.005

    def __init__(self, every: float) -> None:
        self.every = every
        self.started = self.last = time.monotonic()

    def due(self) -> bool:
        """Return whether to write a line now; a yes starts the wait for the next."""
        now = time.monotonic()
        if now - self.last < max(self.every, self.SHARE * (now - self.started)):
            return False
        self.last = now
        return True


class EpisodeProgress(Callback):
    """Progress in meta-steps.

    Use it with ``Trainer(enable_progress_bar=False)``. Reads ``module.meta_step``, ``module.progress()`` and
    ``module.stopped_early``, and ``val/accuracy`` with ``val/ci95`` of the latest validation. Only rank 0 writes.

    Args:
        every_seconds: shortest time between two plain lines; long runs print more rarely, so that the log of a run of
            any length stays below 200 kB.
        stream: where to write; standard error by default.
    """

    def __init__(self, every_seconds: float = 5.0, stream: TextIO | None = None) -> None:
        super().__init__()
        self.every_seconds = every_seconds
        self._stream = stream
        self._enabled = True
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._pace = Pace(every_seconds)
        self._validations = Pace(every_seconds)
        self._rate = 0.0
        self._seen = (0, time.monotonic())
        self._phase_started = time.monotonic()

    # ---- what is said -------------------------------------------------------------------------------------------

    def line(self, trainer: pl.Trainer, module: Any) -> str:
        """Return the state of a training run in one line."""
        step, (total, state) = int(module.meta_step), module.progress()
        parts = [f"meta_step {step}/{total}", f"{self._rate:{'.1f' if self._rate >= 1 else '.2g'}} steps/s", state]
        accuracy = self._accuracy(trainer)
        if accuracy:
            parts.append(f"val {accuracy}")
        if module.stopped_early:
            parts.append(f"stopped early at meta_step {step}")
        elif self._rate > 0:
            parts.append(f"ETA {clock((total - step) / self._rate)}")
        return " | ".join(parts)

    @staticmethod
    def _accuracy(trainer: pl.Trainer) -> str:
        metrics = trainer.callback_metrics
        if "val/accuracy" not in metrics:
            return ""
        half = f" +- {100 * float(metrics['val/ci95']):.1f}" if "val/ci95" in metrics else ""
        return f"{100 * float(metrics['val/accuracy']):.1f}{half} %"

    def _measure(self, step: int) -> None:
        before, then = self._seen
        now = time.monotonic()
        if step > before and now > then:
            self._rate = (step - before) / (now - then)
        self._seen = (step, now)

    def _say(self, text: str) -> None:
        if not self._enabled:
            return
        if self._bar is not None:
            self._bar.console.print(text, highlight=False)
        else:
            print(text, file=self._stream or sys.stderr, flush=True)

    def _start_bar(self, total: int | None, done: int = 0) -> None:
        stream = self._stream or sys.stderr
        if self._enabled and self._bar is None and stream.isatty():
            self._bar = Progress(
                BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=Console(file=stream)
            )
            self._task = self._bar.add_task("starting", total=total, completed=done)
            self._bar.start()

    def _advance(self, done: int, text: str) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, description=text)

    def _stop_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None

    # ---- training -----------------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Silence every rank but the first."""
        self._enabled = trainer.is_global_zero

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Start the clock, at the meta-step that a resumed run begins with."""
        self._seen = (int(pl_module.meta_step), time.monotonic())
        self._pace, self._validations = Pace(self.every_seconds), Pace(0.0)
        self._start_bar(pl_module.progress()[0], int(pl_module.meta_step))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any, **kwargs: Any) -> None:
        """Say where the run is, if a line is due."""
        if not self._enabled:
            return
        if self._bar is not None:
            if time.monotonic() - self._seen[1] > 0.5:
                self._measure(int(pl_module.meta_step))
                self._advance(int(pl_module.meta_step), self.line(trainer, pl_module))
        elif self._pace.due():
            self._measure(int(pl_module.meta_step))
            self._say(self.line(trainer, pl_module))

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Say where the run ended."""
        self._measure(int(pl_module.meta_step))
        self._advance(int(pl_module.meta_step), self.line(trainer, pl_module))
        self._stop_bar()
        self._say(self.line(trainer, pl_module))

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Leave the terminal usable."""
        self._stop_bar()

    # ---- validation and test --------------------------------------------------------------------------------------

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Start the clock of one validation."""
        self._phase_started = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Say how the validation went; not more often than every few seconds."""
        seconds = time.monotonic() - self._phase_started
        then = self._seen[1]
        self._seen = (self._seen[0], then + seconds)  # validation is not part of the training rate
        if not trainer.sanity_checking and self._validations.due():
            self._validations.every = self.every_seconds
            self._say(f"meta_step {int(pl_module.meta_step)} | validation {self._accuracy(trainer)} | {seconds:.1f} s")

    def on_test_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Start the clock of the test."""
        self._phase_started = time.monotonic()
        self._pace = Pace(self.every_seconds)
        self._start_bar(self._test_batches(trainer))

    @staticmethod
    def _test_batches(trainer: pl.Trainer) -> int | None:
        counts = [float(count) for count in trainer.num_test_batches]
        return int(sum(counts)) if counts and sum(counts) < float("inf") else None

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Say how far the test is, if a line is due."""
        total = self._test_batches(trainer)
        text = f"test meta-batch {batch_idx + 1}/{total if total is not None else '?'}"
        self._advance(batch_idx + 1, text)
        if self._bar is None and self._pace.due():
            self._say(text)

    def on_test_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Say how long the test took."""
        self._stop_bar()
        self._say(f"test finished in {time.monotonic() - self._phase_started:.1f} s")
