"""The file of choices: whole, plain arrays, and one line for what does not fit a table."""

from pathlib import Path

import numpy as np
import pytest

from few_shot_nas.errors import InputError
from few_shot_nas.tabular.choices import SAME, Choices, check_same_tasks, load_choices

FACTS = {**{key: 1 for key in SAME}, "method": "meta_alphas", "label_free": True}


def test_choices_come_back_as_they_were_saved(tmp_path: Path) -> None:
    own = Choices(np.arange(6).reshape(3, 2), FACTS)
    own.save(tmp_path / "c.npz")
    back = load_choices(tmp_path / "c.npz")
    np.testing.assert_array_equal(back.choices, own.choices)
    assert back.facts == FACTS and back.arm == "H_meta_alphas"
    assert Choices(own.choices, {**FACTS, "method": "naswot"}).arm == "I_naswot"
    assert [path.name for path in tmp_path.iterdir()] == ["c.npz"]


def test_an_unusable_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"choices .*gone.npz does not exist; training/tabular/choose.py makes one"):
        load_choices(tmp_path / "gone.npz")
    np.savez(tmp_path / "other.npz", accuracy=np.zeros(3))
    with pytest.raises(InputError, match="other.npz cannot be read: .*choices"):
        load_choices(tmp_path / "other.npz")


@pytest.mark.parametrize("key", SAME)
def test_every_fact_that_decides_the_rewards_must_agree(key: str) -> None:
    check_same_tasks(Path("c.npz"), FACTS, {**FACTS, "run": "another"})
    with pytest.raises(InputError, match=rf"choices c.npz do not fit .* \({key}=7 there, 1 here\); run training/"):
        check_same_tasks(Path("c.npz"), FACTS, {**FACTS, key: 7})
