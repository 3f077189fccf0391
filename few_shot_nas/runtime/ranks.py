"""What the processes of one run do together, and which of them does not answer."""

import re
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from few_shot_nas.errors import InputError

#: The group of :func:`_control_group`. torch owns it: one that outlives ``destroy_process_group`` crashes the process.
_control: Callable[[], Any] = lambda: None  # noqa: E731
_timeout = timedelta(minutes=30)


def world() -> tuple[int, int]:
    """Return (rank, world size) of this process; (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def set_timeout(timeout: timedelta) -> None:
    """Set how long :func:`meet` waits, before its first call."""
    global _timeout
    _timeout = timeout


def _control_group() -> "dist.ProcessGroup":
    """Return the group of all ranks that talks over the CPU, whatever the gradients use; made at the first meeting."""
    global _control
    group = _control()
    if group is None:
        group = dist.new_group(backend="gloo", timeout=_timeout)
        _control = weakref.ref(group)
    return group


def meet() -> None:
    """Wait for all ranks. A collective: every rank must call it.

    Raises:
        InputError: naming the ranks that have not come in time, or have ended.
    """
    rank, size = world()
    if size == 1:
        return
    group = _control_group()
    # Rank 0 collects the others: with the shorter wait it is the first to give up, and names those that are missing.
    patience = _timeout if rank == 0 else 1.5 * _timeout
    with _named(rank):
        dist.monitored_barrier(group=group, timeout=patience, wait_all_ranks=rank == 0)


def silence(rank: int, report: str) -> str:
    """Say in one line which ranks a failed barrier has missed, from the report of torch."""
    listed = re.findall(r"Ranks? ([\d, ]+) failed to pass", report)
    missing = sorted({int(number) for text in listed for number in re.findall(r"\d+", text)})
    if missing:
        who = ("rank " if len(missing) == 1 else "ranks ") + ", ".join(map(str, missing))
    else:
        who = "rank 0" if rank else "another rank"
    return (
        f"rank {rank} has had no answer from {who}: it has ended, or was silent for {_timeout.total_seconds():g} s "
        f"(--rank_timeout); its own output says why, and --ckpt_path=last continues the run"
    )


@contextmanager
def _named(rank: int) -> Iterator[None]:
    """Turn what torch says of a rank that does not answer into one line."""
    try:
        yield
    except RuntimeError as error:
        raise InputError(silence(rank, str(error))) from error


def largest(value: int) -> int:
    """Return the largest value of all ranks. A collective: every rank must call it."""
    rank, size = world()
    if size == 1:
        return value
    shared = torch.tensor([value])
    with _named(rank):
        dist.all_reduce(shared, op=dist.ReduceOp.MAX, group=_control_group())
    return int(shared)
