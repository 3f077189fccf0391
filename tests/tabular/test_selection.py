"""The file of a selection: whole, plain arrays, and one line for what does not fit a table."""

from pathlib import Path

import numpy as np
import pytest

from few_shot_nas.errors import InputError
from few_shot_nas.tabular.array_file import write_arrays
from few_shot_nas.tabular.selection import SAME, Selection, check_same_tasks, load_selection

FACTS = {**{key: 1 for key in SAME}, "method": "meta_alphas", "label_free": True}


def test_a_selection_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    own = Selection(np.arange(6).reshape(3, 2), FACTS)
    own.save(tmp_path / "c.npz")
    back = load_selection(tmp_path / "c.npz")
    np.testing.assert_array_equal(back.places, own.places)
    assert back.facts == FACTS and back.arm == "H_meta_alphas"
    assert Selection(own.places, {**FACTS, "method": "naswot"}).arm == "I_naswot"
    assert [path.name for path in tmp_path.iterdir()] == ["c.npz"]


def test_a_file_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    write_arrays(tmp_path / "c.npz", {"choices": np.arange(6).reshape(3, 2)}, FACTS)
    np.testing.assert_array_equal(load_selection(tmp_path / "c.npz").places, np.arange(6).reshape(3, 2))


def test_an_unusable_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"selection .*gone.npz does not exist; training/tabular/choose.py makes one"):
        load_selection(tmp_path / "gone.npz")
    np.savez(tmp_path / "other.npz", accuracy=np.zeros(3))
    with pytest.raises(InputError, match="other.npz cannot be read: .*places"):
        load_selection(tmp_path / "other.npz")


@pytest.mark.parametrize("key", SAME)
def test_every_fact_that_decides_the_rewards_must_agree(key: str) -> None:
    check_same_tasks(Path("c.npz"), FACTS, {**FACTS, "run": "another"})
    with pytest.raises(InputError, match=rf"selection c.npz does not fit .* \({key}=7 there, 1 here\); run training/"):
        check_same_tasks(Path("c.npz"), FACTS, {**FACTS, key: 7})
