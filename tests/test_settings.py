"""Settings take the choices of their types and nothing else. Truth: the annotations, read field by field here."""

import dataclasses
import math
from typing import Literal, Union, get_args, get_origin, get_type_hints

import pytest

from few_shot_nas.algorithms import ALGORITHMS
from few_shot_nas.errors import InputError
from few_shot_nas.ranges import Count
from few_shot_nas.settings import Settings, require_choice


def below(settings: type) -> set[type]:
    return {one for child in settings.__subclasses__() for one in {child, *below(child)}}


OURS = [one for one in below(Settings) if one.__module__.startswith("few_shot_nas")]
EVERY = sorted(OURS, key=lambda one: one.__name__)


def literal_fields(settings: type) -> list[str]:
    hints = get_type_hints(settings)
    members = {name: get_args(hint) if get_origin(hint) is not Literal else (hint,) for name, hint in hints.items()}
    return [name for name, types in members.items() if any(get_origin(one) is Literal for one in types)]


FIELDS = [(settings, name) for settings in EVERY for name in literal_fields(settings)]


def test_all_settings_of_the_algorithms_are_seen() -> None:
    assert ALGORITHMS and len(EVERY) >= 10 and len(FIELDS) >= 12


@pytest.mark.parametrize(("settings", "name"), FIELDS, ids=lambda value: getattr(value, "__name__", value))
def test_a_field_with_choices_refuses_others(settings: type, name: str) -> None:
    with pytest.raises(InputError, match=f"{name}=nonsense.*Choices: |{name}=nonsense: must be"):
        settings(**{name: "nonsense"})


@dataclasses.dataclass(frozen=True)
class Example(Settings):
    mode: Literal["slow", "fast"] = "slow"
    maybe: Literal["one"] | None = None
    older: Union[Literal["two"], None] = None  # noqa: UP007
    size: Count = 3


def test_other_fields_take_what_they_are_given() -> None:
    assert Example("fast", "one", "two", size=7).size == 7
    with pytest.raises(InputError, match="mode=fats: unknown. Did you mean fast"):
        Example("fats")
    with pytest.raises(InputError, match="maybe=two"):
        Example(maybe="two")
    with pytest.raises(InputError, match="older=one"):
        Example(older="one")
    with pytest.raises(InputError, match="mode=None"):
        Example(None)


def test_a_choice_of_another_type_is_refused_although_it_is_written_alike() -> None:
    with pytest.raises(InputError, match="size=4: must be written as 4, 8"):
        require_choice("size", "4", Literal[4, 8])


@pytest.mark.parametrize(
    ("size", "must"), [(0, "at least 1"), (math.nan, "a finite number"), (2**70, f"at most {2**63 - 1}")]
)
def test_a_field_takes_the_numbers_of_its_range(size: float, must: str) -> None:
    with pytest.raises(InputError, match=f"size={size} must be {must}"):
        Example(size=size)
