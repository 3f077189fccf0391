"""Flags are read from constructors, and constructor arguments are made from flags."""

from typing import Any, Literal

import pytest

from few_shot_nas.constructor import REQUIRED, arguments
from training.class_tables import Tables
from training.flags import describe, flags_of


def flags(tables: Tables) -> dict[str, Any]:
    return {flag.name: flag for flag in flags_of(tables.algorithms["Learner"], "Algorithm", skip=("net",))}


def test_a_settings_dataclass_gives_one_flag_per_field(tables: Tables) -> None:
    found = flags(tables)
    assert "inner" not in found
    assert found["inner_steps"].type is int
    assert found["first_order"].default is False


def test_the_default_of_a_field_is_that_of_the_constructors_own_settings(tables: Tables) -> None:
    assert flags(tables)["inner_lr"].default == 0.1


def test_keyword_arguments_of_a_base_class_are_flags_too(tables: Tables) -> None:
    found = flags(tables)
    assert found["log_grad_norm"].help == "order of the norm to log"
    assert list(found) == [
        "inner_lr", "inner_steps", "first_order", "order", "log_grad_norm", "max_meta_steps", "seed",
    ]  # fmt: skip


def test_help_joins_the_lines_of_the_docstring(tables: Tables) -> None:
    assert flags(tables)["inner_lr"].help == "step size of the inner loop"


def test_a_parameter_without_default_is_required(tables: Tables) -> None:
    (flag,) = flags_of(tables.models["Fixed"], "Model", skip=("n_way", "in_channels", "image_size"))
    assert flag.default is REQUIRED


def test_arguments_invert_flags(tables: Tables) -> None:
    values = {flag.name: flag.default for flag in flags_of(tables.algorithms["Learner"], "A", skip=("net",))}
    values |= {"inner_steps": 7, "order": "first", "log_grad_norm": 2.0, "unrelated": 1}
    learner = tables.algorithms["Learner"](None, **arguments(tables.algorithms["Learner"], values, skip=("net",)))
    assert (learner.inner.inner_steps, learner.inner.inner_lr) == (7, 0.1)
    assert (learner.order, learner.log_grad_norm) == ("first", 2.0)


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int, "an int"),
        (float | None, "a float or null"),
        (bool, "true or false"),
        (int | str, "an int or text"),
        (Literal["a", "b"], "one of a, b"),
        (Literal["a", "b"] | None, "one of a, b or null"),
    ],
)
def test_types_are_described_in_words(annotation: Any, words: str) -> None:
    assert describe(annotation) == words
