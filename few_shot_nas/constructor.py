"""What the constructor of a class takes, and keyword arguments for it from flat values."""

import dataclasses
import inspect
import typing
from collections.abc import Collection, Mapping
from typing import Any


#: What no flag says of a network: the first two come from the source of its images, and a menu is made by a search.
FROM_SOURCE = ("in_channels", "image_size", "menu")


class _Required:
    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED: Any = _Required()


def parameters(cls: type) -> dict[str, tuple[Any, Any]]:
    """Return ``name -> (annotation, default)``; ``**kwargs`` stands for the parameters of the next base class.

    Args:
        cls: class with typed parameters, which may carry ranges. The default is ``REQUIRED`` where there is none.
    """
    found: dict[str, tuple[Any, Any]] = {}
    for base in cls.__mro__:
        if "__init__" not in base.__dict__:
            continue
        init: Any = base.__dict__["__init__"]
        hints = typing.get_type_hints(init, include_extras=True)
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


def flat_names(cls: type, skip: Collection[str] = ()) -> list[str]:
    """Return the names of the flat values that :func:`arguments` takes for ``cls``.

    Args:
        cls: class with typed parameters; a dataclass of settings counts by its fields.
        skip: parameters that the caller fills in itself.
    """
    names: list[str] = []
    for name, (annotation, _) in parameters(cls).items():
        if name not in skip:
            fields = dataclasses.fields(annotation) if dataclasses.is_dataclass(annotation) else ()
            names += [field.name for field in fields] or [name]
    return names


def arguments(
    cls: type, values: Mapping[str, Any], skip: Collection[str] = (), *, defaults: bool = False
) -> dict[str, Any]:
    """Return keyword arguments for ``cls`` from flat values; a dataclass of settings is made from its fields.

    Args:
        cls: class with flat typed parameters.
        values: value of every name of :func:`flat_names`.
        skip: parameters that the caller fills in itself.
        defaults: whether a missing value is that of the class, as for what an earlier version wrote.

    Raises:
        KeyError: if a value is missing.
    """
    made: dict[str, Any] = {}
    for name, (annotation, default) in parameters(cls).items():
        if name in skip:
            continue
        if dataclasses.is_dataclass(annotation):
            own = vars(default) if defaults and default is not REQUIRED else {}
            known = {**own, **values}
            fields = {field.name: known[field.name] for field in dataclasses.fields(annotation)}
            made[name] = annotation(**fields)  # type: ignore[operator]
        elif name not in values and defaults and default is not REQUIRED:
            made[name] = default
        else:
            made[name] = values[name]
    return made
