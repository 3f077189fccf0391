"""The episode contract: what is let through and what is named when it breaks."""

import pytest
import torch

from few_shot_nas.episode import Episode, Task, UnlabelledTask, check_episode, fitted, query_labels, tasks


def episode(**changes):
    fields = {
        "support_x": torch.zeros(2, 6, 1, 4, 4),
        "support_y": torch.tensor([[0, 1, 2, 0, 1, 2], [2, 1, 0, 0, 1, 2]]),
        "query_x": torch.zeros(2, 3, 1, 4, 4),
        "query_y": torch.tensor([[0, 1, 2], [2, 0, 1]]),
    }
    return Episode(**{**fields, **changes})


def test_a_sound_episode_passes():
    check_episode(episode(), n_way=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"support_x": torch.zeros(6, 1, 4, 4)}, r"support_x must be float .* got torch.float32 \[6, 1, 4, 4\]"),
        ({"query_x": torch.zeros(2, 3, 1, 4, 4, dtype=torch.uint8)}, "query_x must be float .* got torch.uint8"),
        ({"query_y": torch.zeros(2, 4, dtype=torch.int64)}, r"query_y must be int64 \[2, 3\] .* \[2, 4\]"),
        ({"query_y": torch.full((2, 3), 7)}, r"query_y must lie in 0\.\.2, got 7\.\.7"),
        (
            {"support_y": torch.zeros(2, 6, dtype=torch.int64)},
            r"as many images of each class, got counts \[\[6, 0, 0\]",
        ),
        (
            {"query_x": torch.zeros(1, 3, 1, 4, 4), "query_y": torch.zeros(1, 3, dtype=torch.int64)},
            "2 tasks and query 1",
        ),
    ],
)
def test_each_breach_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        check_episode(episode(**changes), n_way=3)


def test_tasks_drops_the_leading_axis_and_keeps_ids():
    parts = list(tasks(episode(task_id=torch.tensor([5, 9]))))
    assert [int(part.task_id) for part in parts] == [5, 9]
    assert parts[1].support_y.tolist() == [2, 1, 0, 0, 1, 2]
    assert parts[0].query_x.shape == (3, 1, 4, 4)
    assert next(tasks(episode())).task_id is None


def test_a_task_without_labels_has_the_same_images_and_refuses_to_say_them():
    task = next(tasks(episode(task_id=torch.tensor([5, 9]))))
    asked = task.unlabelled()
    assert isinstance(task, Task) and isinstance(asked, UnlabelledTask) and not hasattr(asked, "query_y")
    assert asked.query_x is task.query_x and asked.support_set() == task.support_set()
    assert query_labels(task) is task.query_y
    with pytest.raises(ValueError, match="have no labels"):
        query_labels(asked)


def test_copies_keep_the_images_that_they_were_made_of():
    whole = episode(originals=torch.arange(2.0).view(2, 1, 1, 1, 1).expand(2, 3, 1, 4, 4), task_id=torch.tensor([5, 9]))
    assert [float(part.originals.mean()) for part in tasks(whole)] == [0.0, 1.0]
    assert next(tasks(episode())).originals is None
    moved = fitted(whole, torch.zeros(1, dtype=torch.float64))
    assert moved.originals.dtype == moved.query_x.dtype == torch.float64 and moved.task_id.tolist() == [5, 9]
    assert fitted(episode(), torch.zeros(1)).originals is None
