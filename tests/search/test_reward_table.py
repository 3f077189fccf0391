"""The file of a reward table: whole, plain arrays, and one line for what cannot be used."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from few_shot_nas.errors import InputError
from few_shot_nas.search.reward_table import empty_table, load_table


def test_a_table_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    table = empty_table(np.arange(6).reshape(3, 2), 4, 2, 5, {"run": "a", "tasks": 4})
    table.accuracy[:] = 0.5
    table = dataclasses.replace(table, done=4)
    table.save(tmp_path / "t.npz")
    back = load_table(tmp_path / "t.npz")
    assert back.shape == (3, 4, 2) and back.done == 4 and back.facts == {"run": "a", "tasks": 4}
    for name in ("decisions", "accuracy", "loss", "embedding", "source"):
        np.testing.assert_array_equal(getattr(back, name), getattr(table, name))
    assert [path.name for path in tmp_path.iterdir()] == ["t.npz"]


def test_an_unusable_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gone.npz does not exist"):
        load_table(tmp_path / "gone.npz")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(InputError, match="bad.npz cannot be read"):
        load_table(tmp_path / "bad.npz")
    empty_table(np.zeros((1, 1), np.int64), 9, 1, 1, {}).save(tmp_path / "part.npz")
    with pytest.raises(InputError, match="0 of 9 tasks are filled"):
        load_table(tmp_path / "part.npz")
    assert load_table(tmp_path / "part.npz", complete=False).done == 0
