"""Read a third-party pickle without running what it says."""

import pickle
import pickletools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy._core import multiarray, numeric

from few_shot_nas.errors import InputError


def _encode(text: str, encoding: str = "latin1") -> bytes:
    # How pickles of protocol 2 and below spell bytes; no other codec is ever needed.
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"codec {encoding}")
    return text.encode("latin1")


def _admitted() -> dict[tuple[str, str], Any]:
    table: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _encode,
    }
    for core in ("numpy.core", "numpy._core"):
        table[f"{core}.multiarray", "_reconstruct"] = getattr(multiarray, "_reconstruct")  # noqa: B009 (not in stubs)
        table[f"{core}.multiarray", "scalar"] = getattr(multiarray, "scalar")  # noqa: B009 (not in stubs)
        table[f"{core}.numeric", "_frombuffer"] = getattr(numeric, "_frombuffer")  # noqa: B009 (not in stubs)
    plain = {"bytes": bytes, "str": str, "int": int, "float": float, "list": list, "dict": dict, "tuple": tuple}
    for module in ("builtins", "__builtin__"):
        table.update({(module, name): kind for name, kind in plain.items()})
    return table


_ADMITTED = _admitted()


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: Any, path: Path) -> None:
        # latin1 is what numpy arrays pickled by Python 2 need, and changes nothing for later pickles.
        super().__init__(stream, encoding="latin1")
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise InputError(
                f"{self._path}: refused, this pickle wants {module}.{name}; only numpy arrays, bytes, str, int, float, "
                "list, dict and tuple are read. Do not use this file unless you know why it holds that"
            )
        return _ADMITTED[module, name]


def stream_bytes(path: Path, magic: bytes) -> Iterator[bytes]:
    """Yield the byte strings in a pickle that begin with ``magic``, in the order of the file.

    Nothing is built and nothing is run: the file is only taken apart, and one string is held at a time, so a list or an
    array of many encoded images takes no memory, whatever it is wrapped in. A string that the pickle refers to twice is
    yielded once.

    Args:
        path: the file, of pickle protocol 1 or later, also from Python 2.
        magic: what the wanted strings begin with.

    Raises:
        InputError: if the pickle is damaged.
    """
    prefix = magic.decode("latin1")
    with open(path, "rb") as stream:
        try:
            for _, argument, _ in pickletools.genops(stream):
                if isinstance(argument, str) and argument.startswith(prefix):
                    yield argument.encode("latin1")  # a str of Python 2
                elif isinstance(argument, bytes | bytearray) and argument.startswith(magic):
                    yield bytes(argument)
        except Exception as error:  # a damaged pickle can raise nearly anything
            raise InputError(f"{path}: this pickle is damaged ({error}); get it again") from error


def load_pickle(path: Path) -> Any:
    """Return the content of a pickle of numpy arrays and plain containers.

    Args:
        path: the file. Pickles of Python 2 are read with encoding latin1.

    Raises:
        InputError: if it asks for anything but numpy arrays, dtypes and scalars, bytes, str, int, float, list, dict or
            tuple, naming the file and what it asked for (nothing of it is run); or if it is damaged.
    """
    with open(path, "rb") as stream:
        try:
            return _Unpickler(stream, path).load()
        except InputError:
            raise
        except Exception as error:  # a damaged pickle can raise nearly anything
            raise InputError(
                f"{path}: this pickle is damaged ({type(error).__name__}: {error}); get it again"
            ) from error
