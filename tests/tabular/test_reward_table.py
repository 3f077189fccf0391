"""The file of a reward table: whole, plain arrays, and one line for what cannot be used."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from few_shot_nas.errors import InputError
from few_shot_nas.tabular.reward_table import SCORES, RewardTable, empty_table, load_table, planted


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


def two_sources() -> RewardTable:
    rng = np.random.default_rng(0)
    table = empty_table(np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), 6, 2, 3, {"run": "a"})
    rewards = {name: rng.random((4, 6, 2)).astype(np.float32) for name in SCORES}
    return dataclasses.replace(table, done=6, source=np.array([0, 1, 2, 0, 1, 2]), **rewards)


def test_a_planted_preference_moves_every_reward_by_the_same_multiple_of_its_spread() -> None:
    table = two_sources()
    changed = planted(table, 5.0)
    for name in SCORES:
        before, after = getattr(table, name), getattr(changed, name)
        share = 0.05 * before.mean((1, 2)).std() / table.accuracy.mean((1, 2)).std()
        for architecture, (choice, _) in enumerate(table.decisions):
            for task, source in enumerate(table.source):
                fits = float(choice == source % 2)
                old = before[architecture, task]
                wanted = old - share * fits if name.endswith("loss") else (1 - share) * old + share * fits
                np.testing.assert_allclose(after[architecture, task], wanted, atol=1e-6)
    assert changed.accuracy.min() >= 0 and changed.accuracy.max() <= 1
    assert changed.facts == {"run": "a", "planted_points": 5.0, "planted_per": "source"}
    assert planted(table, 0.0) is table


def test_a_preference_of_each_task_is_hidden_from_its_source() -> None:
    source = np.arange(6000) % 3
    empty = empty_table(np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), 6000, 2, 3, {"split": "val"})
    rewards = {name: np.full(empty.shape, 0.5, np.float32) for name in SCORES}
    for name in SCORES:
        rewards[name][3] += 0.1  # a spread to scale by
    table = dataclasses.replace(empty, done=6000, source=source, **rewards)
    changed = planted(table, 10.0, "task")
    moved = changed.accuracy - table.accuracy
    likes_first = moved[0, :, 0] > 0
    np.testing.assert_allclose(moved[0, likes_first, 0], 0.1 * 0.5, atol=1e-6)
    np.testing.assert_allclose(moved[2, ~likes_first, 1], 0.1 * 0.5, atol=1e-6)
    for kind in range(3):
        assert likes_first[source == kind].mean() == pytest.approx(0.5, abs=0.04)
    assert changed.facts["planted_per"] == "task"
    longer = dataclasses.replace(table, facts={"split": "test"})
    assert (planted(longer, 10.0, "task").accuracy != changed.accuracy).any()
    one_source = dataclasses.replace(table, source=np.zeros_like(source))
    np.testing.assert_array_equal(planted(one_source, 10.0, "task").loss, changed.loss)


def test_a_preference_cannot_be_planted_in_one_source_or_be_negative() -> None:
    table = dataclasses.replace(two_sources(), source=np.full(6, 2))
    with pytest.raises(InputError, match=r"preference of 3\.0 points per source needs tasks from two sources"):
        planted(table, 3.0)
    for points in (-1.0, 50.0):
        with pytest.raises(InputError, match=rf"preference of {points} points given"):
            planted(two_sources(), points)
    with pytest.raises(InputError, match="preference per class given. Choices: source, task"):
        planted(two_sources(), 3.0, "class")  # type: ignore[arg-type]
