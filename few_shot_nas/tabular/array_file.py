"""Files of arrays with the facts they were made from: written whole or not at all, read without unpickling."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any
from zipfile import BadZipFile
from zlib import error as ZlibError

import numpy as np

from few_shot_nas.errors import InputError
from few_shot_nas.whole_file import replacing


def write_arrays(path: Path, arrays: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write arrays by name and the facts, plain JSON values, whole or not at all."""
    with replacing(path) as part, part.open("wb") as file:
        np.savez(file, **arrays, facts=np.array(json.dumps(dict(facts))))


@contextmanager
def _readable(path: Path, what: str, command: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{what} {path} does not exist; {command} makes one") from error
    except (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, BadZipFile, ZlibError) as error:
        raise InputError(f"{what} {path} cannot be read: {error}; make it again with {command}") from error


def read_arrays(
    path: Path, names: Iterable[str], what: str, command: str, earlier: Mapping[str, str] = MappingProxyType({})
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arrays of a file and its facts.

    Args:
        path: a file of :func:`write_arrays`.
        names: the arrays it must hold.
        what: what the file is, for messages.
        command: what makes such a file.
        earlier: an array's name today -> its name in files of earlier versions.

    Raises:
        InputError: if there is no such file, or it is damaged.
    """
    with _readable(path, what, command), np.load(path, allow_pickle=False) as content:
        stored = {name: name if earlier.get(name) not in content else earlier[name] for name in names}
        return {name: content[key] for name, key in stored.items()}, json.loads(str(content["facts"]))


class KeptRows:
    """Rows of numbers that take long to make, kept in a file, so that a killed command goes on where it stopped.

    Args:
        path: the file. If there is none, or it is damaged or has other facts, there are no rows yet.
        facts: plain JSON values that decide the rows.

    Attributes:
        rows: the rows so far, in order.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "rows.npz"
        >>> KeptRows(path, {"seed": 0}).add([1, 2], save=True)
        >>> KeptRows(path, {"seed": 0}).rows, KeptRows(path, {"seed": 1}).rows
        ([[1, 2]], [])
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self.path, self.facts = path, dict(facts)
        self.rows: list[Any] = []
        try:
            arrays, there = read_arrays(path, ["rows"], "rows", "the same command")
        except InputError:
            return
        if there == json.loads(json.dumps(self.facts)):
            self.rows = arrays["rows"].tolist()

    def add(self, row: Any, save: bool) -> None:
        """Add a row; write the file if ``save``."""
        self.rows.append(row)
        if save:
            write_arrays(self.path, {"rows": np.array(self.rows)}, self.facts)
