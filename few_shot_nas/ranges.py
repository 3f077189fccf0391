"""Types of numbers that carry their range: one annotation for the command line, the constructor and ``--help``.

``width: Count = 32`` says that a width is a whole number from 1. The command line checks every flag that is annotated
so, settings dataclasses check their fields, and other constructors call :func:`check_arguments`. Numbers without a
range must be finite all the same: nan passes every comparison that should refuse it.
"""

import dataclasses
import math
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, NamedTuple

from few_shot_nas.errors import InputError

#: Whole numbers end where int64 ends, in which they are kept.
LARGEST = 2**63 - 1
#: Classes, images, channels, layers: more would not fit into any memory.
LARGEST_SIZE = 100_000


class Range(NamedTuple):
    """Which numbers are meant.

    Attributes:
        low: the smallest.
        high: the largest.
        above: ``low`` itself is not meant.
        below: ``high`` itself is not meant.
    """

    low: float = -LARGEST
    high: float = LARGEST
    above: bool = False
    below: bool = False

    def complaint(self, value: float) -> str | None:
        """Return what a number that is not meant must be; nan and infinity never are. None for one that is.

        >>> Range(0, 1, below=True).complaint(0.0), Range(0, 1, below=True).complaint(1.0), Range().complaint(math.nan)
        (None, 'must be less than 1', 'must be a finite number')
        >>> Range(1).complaint(0), Range(0, above=True).complaint(0), Range(0).complaint(-1)
        ('must be at least 1', 'must be greater than 0', 'must not be negative')
        """
        if isinstance(value, float) and not math.isfinite(value):
            return "must be a finite number"
        if value < self.low or (self.above and value == self.low):
            if self.low == 0 and not self.above:
                return "must not be negative"
            return f"must be {'greater than' if self.above else 'at least'} {self.low}"
        if value > self.high or (self.below and value == self.high):
            return f"must be {'less than' if self.below else 'at most'} {self.high}"
        return None

    def words(self) -> str:
        """Return the range for ``--help``.

        >>> Range(0, 1, below=True).words(), Range(0, above=True).words()
        ('at least 0 and less than 1', 'greater than 0')
        """
        low = f"{'greater than' if self.above else 'at least'} {self.low}"
        high = f"{'less than' if self.below else 'at most'} {self.high}"
        return " and ".join([low] * (self.low > -LARGEST) + [high] * (self.high < LARGEST))


#: A number of things of which there must be one.
Count = Annotated[int, Range(1)]
#: A number of things that may be none.
Number = Annotated[int, Range(0)]
#: A number of things that are all in memory at once, such as channels or images of an episode.
Size = Annotated[int, Range(1, LARGEST_SIZE)]
#: Channels of a layer, and layers.
Width = Annotated[int, Range(1, 4096)]
#: Cells of a network, or layers of a chain.
Cells = Annotated[int, Range(1, 256)]
#: Nodes of a cell, each of which may read all earlier ones.
Nodes = Annotated[int, Range(1, 64)]
#: Height and width of images, in pixels.
ImageSize = Annotated[int, Range(1, 4096)]
#: Classes of a task: with one there is nothing to tell apart.
Ways = Annotated[int, Range(2, LARGEST_SIZE)]
#: Processes beside the training; each one takes memory and a core.
Workers = Annotated[int, Range(0, 256)]
#: A seed, as numpy and Lightning take it.
Seed = Annotated[int, Range(0, 2**32 - 1)]
#: A rate, a scale or a duration.
Positive = Annotated[float, Range(0, above=True)]
#: A weight or a penalty that may be left out.
NonNegative = Annotated[float, Range(0)]
#: A share of which something must be left.
Share = Annotated[float, Range(0, 1, below=True)]
#: A probability that is neither no nor yes.
Between = Annotated[float, Range(0, 1, above=True, below=True)]
#: A part of a whole, from nothing to all.
Fraction = Annotated[float, Range(0, 1)]

_ANY = Range()


def ranges_of(annotation: Any) -> tuple[Range, ...]:
    """Return the ranges in an annotation, also inside of unions and tuples.

    >>> ranges_of(Count | None)[0].low, ranges_of(tuple[Number, ...])[0].low, ranges_of(int)
    (1, 0, ())
    """
    found = [word for word in getattr(annotation, "__metadata__", ()) if isinstance(word, Range)]
    for part in typing.get_args(annotation):
        found += ranges_of(part)
    return tuple(dict.fromkeys(found))


def without_ranges(annotation: Any) -> Any:
    """Return the type of an annotation, without the ranges in it.

    >>> without_ranges(Count | None)
    typing.Optional[int]
    """

    def holder() -> None:
        """Carry an annotation, which is what typing can strip."""

    holder.__annotations__ = {"held": annotation}
    return typing.get_type_hints(holder)["held"]


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, tuple | list):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def check(given: str, value: Any, ranges: tuple[Range, ...]) -> None:
    """Refuse a number, or one in a tuple, that is not finite or outside of a range; anything else passes.

    Args:
        given: name and value as the user gave them, for the message.
        value: the value.
        ranges: of its annotation.

    Raises:
        InputError: saying what it must be.

    >>> check("n_way=1", 1, ranges_of(Ways))
    Traceback (most recent call last):
    few_shot_nas.errors.InputError: n_way=1 must be at least 2
    """
    for number in _numbers(value):
        for wanted in (*ranges, _ANY):
            complaint = wanted.complaint(number)
            if complaint is not None:
                raise InputError(f"{given} {complaint}")


def check_arguments(function: Callable[..., Any], given: Mapping[str, Any], owner: str = "") -> None:
    """Check the arguments of a call by the annotations of their parameters.

    Args:
        function: usually a class's ``__init__``.
        given: argument by name, such as ``locals()`` at the top of the function.
        owner: begins the message.

    Raises:
        InputError: for the first that is outside of its range.
    """
    for name, annotation in typing.get_type_hints(function, include_extras=True).items():
        if name in given:
            check(f"{owner}{': ' if owner else ''}{name}={given[name]}", given[name], ranges_of(annotation))


def check_fields(settings: Any) -> None:
    """Check the fields of a dataclass by their annotations.

    Raises:
        InputError: for the first that is outside of its range.
    """
    hints = typing.get_type_hints(type(settings), include_extras=True)
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        check(f"{field.name}={value}", value, ranges_of(hints[field.name]))
