"""What a network that is being built will need, known before its tensors are filled: a refusal, no killed process."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from few_shot_nas.errors import InputError

#: Bytes of Python objects that a layer takes for each of its tensors.
OBJECTS = 5_000
#: A network of more tensors would take minutes to build, and longer to run. DARTS' mixture of 20 cells has 8,000.
MOST_TENSORS = 50_000
_SMALLER = "give a smaller network: fewer channels, cells or nodes, or a smaller width"
#: Files with the memory that a container may take.
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def free_memory() -> int | None:
    """Return how many bytes of memory a process can still take, or None where the system does not say.

    Example:
        >>> available = free_memory()
        >>> available is None or available > 0
        True
    """
    found = []
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]))
    for limit in _LIMITS:
        with suppress(OSError, ValueError):  # "max" is no limit
            found.append(int(Path(limit).read_text(encoding="ascii")))
    return min(found, default=None)


@contextmanager
def weights_within(available: int | None, copies: int, needed_by: str) -> Iterator[None]:
    """Refuse a network that is built in the block, as soon as its parameters exceed the memory, or are too many.

    A layer registers a parameter before it fills it, and the system gives no memory to what is not filled: so the sum
    is known before the memory is taken, whatever flags or architecture it comes from.

    Args:
        available: free memory in bytes; None does not check.
        copies: how often the weights are in memory at least, such as 4 for weights, gradient and two moments of Adam.
        needed_by: what is built, for the message.

    Raises:
        InputError: naming both numbers.

    Example:
        >>> with weights_within(10_000, 4, "a layer"):
        ...     _ = nn.Linear(100, 100)
        Traceback (most recent call last):
        few_shot_nas.errors.InputError: a layer: has 10,000 parameters or more, which take at least 0.000165 GB, and ...
    """
    total = count = tensors = 0

    def add(layer: nn.Module, name: str, parameter: Any) -> None:
        nonlocal total, count, tensors
        if not isinstance(parameter, Tensor):
            return
        total += copies * parameter.numel() * parameter.element_size() + OBJECTS
        count, tensors = count + parameter.numel(), tensors + 1
        if available is not None and total > available:
            raise InputError(
                f"{needed_by}: has {count:,} parameters or more, which take at least {total / 1e9:.3g} GB, and "
                f"{available / 1e9:.3g} GB are free; {_SMALLER}"
            )
        if tensors > MOST_TENSORS:
            raise InputError(f"{needed_by}: has more than {MOST_TENSORS:,} tensors; {_SMALLER}")

    hook = register_module_parameter_registration_hook(add)
    try:
        yield
    finally:
        hook.remove()
