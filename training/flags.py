"""Flags read from the typed constructors of classes; :mod:`few_shot_nas.constructor` makes arguments of them again."""

import dataclasses
import typing
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import docstring_parser

from few_shot_nas.constructor import REQUIRED, parameters
from few_shot_nas.ranges import Range, ranges_of, without_ranges
from training.flag_values import members


class Flag(NamedTuple):
    """One flag of the command line.

    Attributes:
        name: without dashes, as the constructor spells it.
        type: a type that :func:`training.flag_values.from_text` reads.
        default: value when nothing is given; ``REQUIRED`` where the constructor has none.
        help: one sentence.
        group: heading in ``--help``.
        ranges: which numbers are meant, of every class that takes the flag.
    """

    name: str
    type: Any
    default: Any
    help: str
    group: str
    ranges: tuple[Range, ...] = ()


def made_flag(name: str, annotation: Any, default: Any, text: str, group: str) -> Flag:
    """Return a flag of an annotation that may carry the range of its numbers, such as ``Count | None``."""
    return Flag(name, without_ranges(annotation), default, text, group, ranges_of(annotation))


def describe(annotation: Any) -> str:
    """Write a type as a user reads it: ``int``, ``true or false``, ``one of first, second``, ``float or null``."""
    names: list[str] = []
    for one in members(annotation):
        if typing.get_origin(one) is Literal:
            names.append("one of " + ", ".join(str(choice) for choice in typing.get_args(one)))
        elif one is type(None):
            names.append("null")
        elif one is bool:
            names.append("true or false")
        else:
            names.append({int: "an int", float: "a float", str: "text"}.get(one) or str(one).replace("typing.", ""))
    return " or ".join(names)


@lru_cache(maxsize=None)
def _argument_docs(cls: type) -> dict[str, str]:
    """Return the ``Args:`` entries of a class and its bases, the class's own first."""
    docs: dict[str, str] = {}
    for base in cls.__mro__:
        for text in (base.__dict__.get("__doc__"), getattr(base.__dict__.get("__init__"), "__doc__", None)):
            if not text or base.__module__.split(".")[0] in ("builtins", "torch", "pytorch_lightning", "abc"):
                continue
            for entry in docstring_parser.parse(text).params:
                description = " ".join((entry.description or "").split()).rstrip(".")
                docs.setdefault(entry.arg_name, description)
    return docs


def _expand(name: str, annotation: Any, default: Any, docs: Mapping[str, str], group: str) -> list[Flag]:
    """Return the flag of one parameter, or the flags of its fields where it is a settings dataclass."""
    if not dataclasses.is_dataclass(annotation):
        return [made_flag(name, annotation, default, docs.get(name, ""), group)]
    hints = typing.get_type_hints(annotation, include_extras=True)
    field_docs = _argument_docs(typing.cast(type, annotation))
    settings = annotation() if default is REQUIRED else default  # type: ignore[operator]
    return [
        made_flag(field.name, hints[field.name], getattr(settings, field.name), field_docs.get(field.name, ""), group)
        for field in dataclasses.fields(annotation)
    ]


def flags_of(cls: type, group: str, skip: Collection[str] = ()) -> list[Flag]:
    """Return one flag per constructor parameter, with its type, default and the docstring's words.

    A parameter whose type is a dataclass of settings gives one flag per field.

    Args:
        cls: class with flat typed parameters.
        group: heading in ``--help``.
        skip: parameters that the shell fills in itself.
    """
    docs = _argument_docs(cls)
    return [
        flag
        for name, (annotation, default) in parameters(cls).items()
        if name not in skip
        for flag in _expand(name, annotation, default, docs, group)
    ]
