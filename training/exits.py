"""How a command of this folder ends: 0, or one line on standard error, with code 2 for what the user can mend."""

import argparse
import errno
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from few_shot_nas.errors import InputError
from few_shot_nas.ranges import Range, check, ranges_of, without_ranges
from few_shot_nas.runtime.stop_signals import STOP, Stopped
from training.run_directory import is_first_rank


_LONGEST = 1000  # characters of a line for the user, whatever was typed


def one_line(text: str) -> str:
    """Return a text as one line that is safe to print: no control characters, and not endless.

    >>> one_line("a\\n b\x1b[31m")
    'a b\\\\x1b[31m'
    """
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(text.split()))
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST // 2]} ... {shown[-_LONGEST // 2 :]}"


def fail(line: str) -> NoReturn:
    """Print one line and exit with code 2."""
    print(f"error: {one_line(line)}", file=sys.stderr, flush=True)
    raise SystemExit(2)


def _mendable(error: OSError) -> str | None:
    """Return what to say of an error of the system that the user can mend; None for any other."""
    if error.errno == errno.ENAMETOOLONG:
        return f"{error.filename}: the name is longer than this file system takes; give a shorter one"
    if error.errno == errno.ENOSPC:
        place = f" while writing {error.filename}" if error.filename else ""
        return f"no space left on a disk{place}; free some in the run directory, the cache and the temporary folder"
    return None


def guarded(work: Callable[[], None]) -> int:
    """Call ``work`` and return 0.

    Raises:
        SystemExit: with code 2 after one line, for a mistake of the user or a full disk; with 128 plus the signal's
            number after one line, for a process that was asked to stop. Everything else that escapes is a defect and
            keeps its traceback.
    """
    try:
        with STOP.listening():
            work()
    except Stopped as stop:
        if not is_first_rank():
            # The launcher of the ranks takes any other code for a crash, and kills the first rank in mid-sentence.
            raise SystemExit(0 if stop.agreed else stop.exit_code) from None
        print(f"{stop.name}: stopped{stop.advice and '; '}{stop.advice}", file=sys.stderr, flush=True)
        raise SystemExit(stop.exit_code) from None
    except InputError as error:
        fail(str(error))
    except OSError as error:
        line = _mendable(error)
        if line is None:
            raise
        fail(line)
    except MemoryError as error:
        fail(f"out of memory ({error or 'a single array was too large'}); use smaller images, networks or tasks")
    except RuntimeError as error:
        if type(error).__name__ == "OutOfMemoryError":
            fail(
                "out of GPU memory: it grows with inner_steps x (k_shot + n_query) x n_way; try --first_order, fewer "
                "--inner_steps or a smaller --n_query"
            )
        if "can't allocate memory" in str(error):
            fail("out of memory; use smaller images, networks or tasks")
        # torch.save does not pass the operating system's error on.
        if "PytorchStreamWriter failed" not in str(error) and "file write failed" not in str(error):
            raise
        fail("a checkpoint could not be written: the disk of the run directory is full; free some space and resume")
    except Exception as error:
        # Lightning says so of flags that do not fit, in fit and test too. Importing the class would take seconds.
        if type(error).__name__ != "MisconfigurationException":
            raise
        fail(f"Trainer: {error}")
    return 0


def output_folder(path: Path, flag: str = "--output") -> Path:
    """Make a folder for what a command writes, before the work whose result would be lost.

    Raises:
        InputError: naming the flag, if the folder cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InputError(f"{flag}={path}: cannot be written to ({error.strerror}); give another folder") from error
    return path


def output_file(path: Path, flag: str = "--output") -> Path:
    """Make the folder of a file that a command writes, before the work whose result would be lost.

    Raises:
        InputError: naming the flag, if the path is a folder, or its folder cannot be made or written to.
    """
    if path.is_dir():
        raise InputError(f"{flag}={path}: is a folder; give the name of a file")
    output_folder(path.parent, flag)
    return path


class OneLineParser(argparse.ArgumentParser):
    """argparse that complains in one line, and whose types may carry the range of a number, such as ``Count``."""

    def __init__(self, **settings: Any) -> None:
        self._ranges: dict[str, tuple[str, tuple[Range, ...]]] = {}
        super().__init__(**settings)

    def add_argument(self, *names: str, **settings: Any) -> argparse.Action:
        """Add an argument, of a type that may carry a range."""
        kind = settings.get("type")
        if ranges_of(kind):
            settings["type"] = without_ranges(kind)
        action = super().add_argument(*names, **settings)
        self._ranges[action.dest] = (names[-1], ranges_of(kind))
        return action

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, and check the ranges of what was given; numbers without a range must be finite."""
        found, rest = super().parse_known_args(args, namespace)
        try:
            for dest, (name, ranges) in self._ranges.items():
                value = getattr(found, dest, None)
                check(f"{name}={value}:", value, ranges)
        except InputError as error:
            fail(str(error))
        return found, rest

    def error(self, message: str) -> NoReturn:
        """Print ``message`` and exit with code 2."""
        fail(message)
