"""Signals that ask a process to stop: noted at any moment, obeyed at a moment that leaves everything whole."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

#: What Ctrl-C, ``kill`` and a cluster's preemption, ``#SBATCH --signal=USR1@90``, and a terminal that closes send.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


class Stopped(BaseException):
    """The process was asked to stop, and has done what it must not leave undone.

    Args:
        signum: the signal.
        agreed: all ranks stop at the same step boundary, behind which nothing is lost.

    Attributes:
        advice: how to go on, for the user; empty where there is nothing to say.
    """

    def __init__(self, signum: int, agreed: bool = False) -> None:
        super().__init__(signum, agreed)
        self.signum, self.agreed = signum, agreed
        self.advice = ""

    @property
    def name(self) -> str:
        """The signal's name."""
        return signal.Signals(self.signum).name

    @property
    def exit_code(self) -> int:
        """What a shell reports of a process that the signal has ended: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.signum


class StopSignals:
    """Turns the first of the signals into :class:`Stopped`: at once or, while it is held, at the next good moment.

    A second Ctrl-C raises at once even then. Launchers pass on a signal that the terminal has already sent to every
    process, so what comes within half a second is the same Ctrl-C; every other repetition changes nothing.

    Attributes:
        noted: the signal that came while it was held, or None.
    """

    #: Seconds within which a second Ctrl-C is the first one again.
    SAME = 0.5

    def __init__(self) -> None:
        self.noted: int | None = None
        self._noted_at = 0.0
        self._held = 0
        self._before: dict[int, Any] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals within the block, and then put the earlier handlers back; only in the main thread."""
        if threading.current_thread() is not threading.main_thread() or self._before:
            yield
            return
        self.noted, self._held = None, 0
        earlier: dict[int, Any] = {signum: signal.getsignal(signum) for signum in SIGNALS}
        if earlier[signal.SIGHUP] is signal.SIG_IGN:  # as nohup has asked for
            del earlier[signal.SIGHUP]
        self._before = earlier
        self.install()
        try:
            yield
        finally:
            before, self._before = self._before, {}
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def install(self) -> None:
        """Take the signals (again: Lightning registers handlers of its own); only within :meth:`listening`."""
        if self._before and threading.current_thread() is threading.main_thread():
            for signum in self._before:
                signal.signal(signum, self._handle)

    def hold(self) -> None:
        """From now on note a signal instead of raising."""
        self._held += 1

    def release(self) -> None:
        """Undo one :meth:`hold`; a signal that was noted is still to be asked for."""
        self._held -= 1

    @contextmanager
    def held(self) -> Iterator[None]:
        """Note signals within the block, and raise when it has ended.

        Raises:
            Stopped: after the block, if a signal was noted.
        """
        self.hold()
        try:
            yield
        finally:
            self.release()
        if self.noted is not None and not self._held:
            raise Stopped(self.noted)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.noted is not None:
            if signum == signal.SIGINT and now - self._noted_at > self.SAME:
                raise Stopped(signum)
            return
        self.noted, self._noted_at = signum, now
        if not self._held:
            raise Stopped(signum)
        # Not print(): a handler may run in the middle of another one.
        name = signal.Signals(signum).name
        os.write(2, f"\n{name}: stopping when this step is done; Ctrl-C (again) stops at once\n".encode())


#: Handlers belong to the process, so there is one of these.
STOP = StopSignals()
