"""Files of arrays with the facts they were made from: written whole or not at all, read without unpickling."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any
from zipfile import BadZipFile

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
    except (OSError, ValueError, KeyError, BadZipFile) as error:
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
        earlier: what files of earlier versions call an array, by its name.

    Raises:
        InputError: if there is no such file, or it is damaged.
    """
    with _readable(path, what, command), np.load(path, allow_pickle=False) as content:
        stored = {name: name if earlier.get(name) not in content else earlier[name] for name in names}
        return {name: content[key] for name, key in stored.items()}, json.loads(str(content["facts"]))
