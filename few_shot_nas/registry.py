"""Find a class by name in an explicit table, and say what was meant when the name is wrong."""

import difflib
from collections.abc import Mapping
from typing import TypeVar

from few_shot_nas.errors import InputError

T = TypeVar("T")


def lookup(table: Mapping[str, T], name: str, what: str) -> T:
    """Return ``table[name]``.

    Args:
        table: one of the explicit dicts, such as ``ALGORITHMS``.
        name: the key the user gave.
        what: the flag or field the name came from, for the message.

    Raises:
        InputError: if the name is unknown, with the closest names and all choices.
    """
    if name in table:
        return table[name]
    by_folded = {key.casefold(): key for key in table}
    close = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.5)
    hint = f" Did you mean {by_folded[close[0]]}?" if close else ""
    raise InputError(f"{what}={name}: unknown.{hint} Choices: {', '.join(sorted(table))}")
