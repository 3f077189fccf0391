"""Names are found exactly, and a wrong one says what was meant."""

import pytest

from few_shot_nas.errors import InputError
from few_shot_nas.registry import lookup

TABLE = {"MAML": 1, "MAMLENAS": 2, "RandomSearch": 3}


def test_a_known_name_is_found():
    assert lookup(TABLE, "MAMLENAS", "--algorithm") == 2


@pytest.mark.parametrize(("name", "meant"), [("MALM", "MAML"), ("randomsearch", "RandomSearch"), ("maml", "MAML")])
def test_a_near_miss_is_corrected_whatever_its_case(name, meant):
    with pytest.raises(InputError, match=f"--algorithm={name}: unknown. Did you mean {meant}"):
        lookup(TABLE, name, "--algorithm")


def test_a_far_miss_lists_the_choices_only():
    with pytest.raises(InputError, match="--algorithm=zzz: unknown. Choices: MAML, MAMLENAS, RandomSearch"):
        lookup(TABLE, "zzz", "--algorithm")
