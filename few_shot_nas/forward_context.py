"""What a normalisation layer must know of the forward pass it runs in, without threading it through every module.

Four facts reach the layers this way: the inner step (per-step BatchNorm), how many leading rows of the batch give
the batch statistics (inductive evaluation: the queries are normalised by the support set), whether the running
statistics of training take the place of the batch's, and how many tasks the batch holds. ``meta.functional.call``
sets them; ``nn.norm`` reads them. A context variable, so that nested and concurrent passes do not mix.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple


class ForwardContext(NamedTuple):
    """Facts about the current forward pass.

    Attributes:
        step: index of the inner step, counted from 0.
        stat_rows: number of leading rows of the batch whose statistics normalise all rows; None means every row.
        running: whether layers that keep running statistics normalise by these.
        tasks: number of tasks G whose images follow each other in the batch ``[G*B, ...]``; each is normalised on its
            own, and ``stat_rows`` counts the rows of one.
    """

    step: int = 0
    stat_rows: int | None = None
    running: bool = False
    tasks: int = 1


_ORDINARY = ForwardContext()
_CURRENT: ContextVar[ForwardContext] = ContextVar("forward_context")


def current() -> ForwardContext:
    """Return the facts of the pass that is running."""
    return _CURRENT.get(_ORDINARY)


@contextmanager
def forward_context(
    step: int = 0, stat_rows: int | None = None, running: bool = False, tasks: int = 1
) -> Iterator[None]:
    """Set the facts for the forward passes inside the ``with`` block."""
    token = _CURRENT.set(ForwardContext(step, stat_rows, running, tasks))
    try:
        yield
    finally:
        _CURRENT.reset(token)
