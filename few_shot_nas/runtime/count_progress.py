"""Progress of work that is counted, outside a Trainer: a bar on a terminal, else one plain line every few seconds."""

import sys
import time
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from few_shot_nas.runtime.progress import Pace, clock


class CountProgress:
    """Says how much of a piece of work is done; a context manager.

    Args:
        what: name of the things counted, in the plural.
        total: how many there are.
        done: how many were done before.
        every_seconds: shortest time between two plain lines.
        stream: where to write; standard error by default.
    """

    def __init__(
        self, what: str, total: int, done: int = 0, every_seconds: float = 5.0, stream: TextIO | None = None
    ) -> None:
        self._what, self._total, self._first = what, total, done
        self._stream = stream or sys.stderr
        self._pace = Pace(every_seconds)
        self._started = time.monotonic()
        self._bar: Progress | None = None
        if self._stream.isatty():
            self._bar = Progress(
                BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=Console(file=self._stream)
            )
            self._bar.add_task(self.line(done), total=total, completed=done)

    def line(self, done: int) -> str:
        """Return where the work is, in one line."""
        parts = [f"{self._what} {done}/{self._total}"]
        elapsed = time.monotonic() - self._started
        if done > self._first and elapsed > 0:
            rate = (done - self._first) / elapsed
            parts += [f"{rate:.2f} {self._what}/s", f"ETA {clock((self._total - done) / rate)}"]
        return " | ".join(parts)

    def update(self, done: int) -> None:
        """Say that ``done`` are done, if a line is due."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, description=self.line(done))
        elif self._pace.due() or done == self._total:
            print(self.line(done), file=self._stream, flush=True)

    def __enter__(self) -> "CountProgress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
