"""Flags read from the typed constructors of classes, and constructor arguments made from flags again."""

import dataclasses
import inspect
import types
import typing
from collections.abc import Collection, Mapping
from typing import Any, Literal, NamedTuple, Union

import docstring_parser


class Flag(NamedTuple):
    """One flag of the command line.

    Attributes:
        name: without dashes, as the constructor spells it.
        type: a type that jsonargparse can check.
        default: value when nothing is given; ``REQUIRED`` where the constructor has none.
        help: one sentence.
        group: heading in ``--help``.
    """

    name: str
    type: Any
    default: Any
    help: str
    group: str


class _Required:
    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED: Any = _Required()


def members(annotation: Any) -> tuple[Any, ...]:
    """Return the alternatives of a union, or the one type itself."""
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


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


def _parameters(cls: type) -> dict[str, tuple[Any, Any]]:
    """Return ``name -> (type, default)``; ``**kwargs`` stands for the parameters of the next base class."""
    found: dict[str, tuple[Any, Any]] = {}
    for base in cls.__mro__:
        if "__init__" not in base.__dict__:
            continue
        init: Any = base.__dict__["__init__"]
        hints = typing.get_type_hints(init)
        passes_on = False
        for name, parameter in list(inspect.signature(init).parameters.items())[1:]:
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                passes_on = True
            elif parameter.kind is not inspect.Parameter.VAR_POSITIONAL and name not in found:
                default = REQUIRED if parameter.default is inspect.Parameter.empty else parameter.default
                found[name] = (hints.get(name, Any), default)
        if not passes_on:
            break
    return found


def _expand(name: str, annotation: Any, default: Any, docs: Mapping[str, str], group: str) -> list[Flag]:
    """Return the flag of one parameter, or the flags of its fields where it is a settings dataclass."""
    if not dataclasses.is_dataclass(annotation):
        return [Flag(name, annotation, default, docs.get(name, ""), group)]
    hints = typing.get_type_hints(annotation)
    field_docs = _argument_docs(typing.cast(type, annotation))
    settings = annotation() if default is REQUIRED else default  # type: ignore[operator]
    return [
        Flag(field.name, hints[field.name], getattr(settings, field.name), field_docs.get(field.name, ""), group)
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
        for name, (annotation, default) in _parameters(cls).items()
        if name not in skip
        for flag in _expand(name, annotation, default, docs, group)
    ]


def arguments(cls: type, values: Mapping[str, Any], skip: Collection[str] = ()) -> dict[str, Any]:
    """Return keyword arguments for ``cls`` from flat flag values: the inverse of :func:`flags_of`.

    Args:
        cls: class with flat typed parameters.
        values: value of every flag by name.
        skip: parameters that the shell fills in itself.
    """
    made: dict[str, Any] = {}
    for name, (annotation, _) in _parameters(cls).items():
        if name in skip:
            continue
        if dataclasses.is_dataclass(annotation):
            fields = {field.name: values[field.name] for field in dataclasses.fields(annotation)}
            made[name] = annotation(**fields)  # type: ignore[operator]
        else:
            made[name] = values[name]
    return made
