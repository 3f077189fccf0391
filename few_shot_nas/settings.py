"""The base of the frozen dataclasses of settings, and the checks that settings and constructors share."""

import dataclasses
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from few_shot_nas.errors import InputError
from few_shot_nas.ranges import check_fields
from few_shot_nas.registry import lookup


def require_choice(name: str, value: Any, annotation: Any) -> None:
    """Raise InputError if ``annotation`` is a ``Literal``, or one or None, and ``value`` is none of its choices.

    Args:
        name: the flag, for the message.
        value: what was given.
        annotation: a type; one that is no Literal allows everything.

    Raises:
        InputError: with the closest choice and all of them.

    Example:
        >>> require_choice("speed", "slow", Literal["slow", "fast"])
        >>> require_choice("speed", "fats", Literal["slow", "fast"] | None)
        Traceback (most recent call last):
        few_shot_nas.errors.InputError: speed=fats: unknown. Did you mean fast? Choices: fast, slow
    """
    members = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    choices = [choice for member in members if get_origin(member) is Literal for choice in get_args(member)]
    if choices and not (value is None and type(None) in members) and value not in choices:
        lookup({str(choice): choice for choice in choices}, str(value), name)
        raise InputError(f"{name}={value}: must be written as {', '.join(map(repr, choices))}")


class Settings:
    """Base of the frozen dataclasses of settings, which checks the fields by their types.

    A field whose type is a ``Literal`` takes its choices alone, and one whose type carries a range
    (:mod:`few_shot_nas.ranges`) the numbers within it. A subclass with a ``__post_init__`` of its own calls this one.

    Raises:
        InputError: naming the field, the value and what it must be.
    """

    def __post_init__(self) -> None:
        check_fields(self)
        annotations = get_type_hints(type(self))
        for field in dataclasses.fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            require_choice(field.name, getattr(self, field.name), annotations[field.name])
