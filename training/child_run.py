"""A run of run_experiment.py as a process of its own, which ends with the command that started it."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PROGRAM = Path(__file__).with_name("run_experiment.py")
#: Seconds that a run gets to write its checkpoint when it is stopped.
GRACE = 60.0


@contextmanager
def terminated(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Let a run end with the block: one that still goes on gets SIGTERM and the time to write its checkpoint."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def run_to_its_end(words: Sequence[str]) -> int:
    """Run ``run_experiment.py`` with these flags and return its exit status; its output goes where ours goes."""
    process = subprocess.Popen([sys.executable, str(PROGRAM), *words])
    with terminated(process):
        return process.wait()
