"""Text into the value of a flag, by its type alone: nothing else is understood, so nothing else can be reached."""

import re
import types
import typing
from typing import Any, Literal

NULL = ("null", "None", "~")
_INT = re.compile(r"[+-]?[0-9]{1,30}")
_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?|[+-]?\.?(inf|nan)", re.IGNORECASE)
_LONGEST = 400  # characters of a number


def members(annotation: Any) -> tuple[Any, ...]:
    """Return the alternatives of a union, or the one type itself."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def from_text(kind: Any, text: str) -> Any:
    """Return the value that a text stands for.

    Args:
        kind: int, float, bool, str, None, a Literal, a tuple of any number of these, or a union; of a union the first
            type that fits is taken, and null stands for None before all others.
        text: as typed.

    Raises:
        ValueError: if it fits no type.

    >>> from_text(int | str, "2"), from_text(int | str, "0,1"), from_text(tuple[int, ...], "[1, 2]")
    (2, '0,1', (1, 2))
    """
    kinds = members(kind)
    if type(None) in kinds and text.strip() in NULL:
        return None
    for one in kinds:
        try:
            return _one(one, text)
        except ValueError:
            continue
    raise ValueError(f"{text!r:.40} is no {kind}")


def _one(kind: Any, text: str) -> Any:
    if kind is str:
        return text
    if typing.get_origin(kind) is Literal:
        return _choice(typing.get_args(kind), text)
    if typing.get_origin(kind) is tuple:
        if not re.fullmatch(r"\s*\[.*\]\s*|[^\[\]]*\S[^\[\]]*", text) or len(text) > _LONGEST:
            raise ValueError(text)
        items = [item for item in text.strip(" []").split(",") if item.strip()]
        return tuple(from_text(typing.get_args(kind)[0], item.strip()) for item in items)
    text = text.strip()
    if kind is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind is int and _INT.fullmatch(text):
        return int(text)
    if kind is float and len(text) <= _LONGEST and _FLOAT.fullmatch(text):
        return float(re.sub(r"\.(?=[in])", "", text.lower()))
    raise ValueError(text)


def _choice(choices: tuple[Any, ...], text: str) -> Any:
    for choice in choices:
        if str(choice) == text:
            return choice
    raise ValueError(text)
