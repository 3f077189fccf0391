"""Replicates of a task: the same classes and labels, no image twice."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from few_shot_nas.data.replicates import check_replicates, draw_replicates
from few_shot_nas.data.sampler import draw_task
from few_shot_nas.data.source import Source
from few_shot_nas.errors import InputError

SHAPE = {"n_way": 4, "k_shot": 2, "n_query": 3}


@pytest.fixture
def source(make_toy: Callable[..., Source]) -> Source:
    return make_toy(rotations={"val": "augment"})


def test_replicates_share_classes_and_labels_and_no_image(source: Source) -> None:
    split = source.split("val")
    plans = draw_replicates(source, "val", seed=3, task_id=5, replicates=3, **SHAPE)
    ordinary = draw_task(split, seed=3, split_name="val", task_id=5, rotation=source.rotation("val"), **SHAPE)

    def class_of(rows: torch.Tensor) -> np.ndarray:
        return np.searchsorted(split.starts, rows.numpy(), side="right") - 1

    labels_of = []
    for plan in plans:
        assert plan.n_support == 8 and int(plan.task_id) == 5
        assert torch.bincount(plan.label[:8]).tolist() == [2] * 4 and torch.bincount(plan.label[8:]).tolist() == [3] * 4
        labels_of.append(dict(zip(class_of(plan.index).tolist(), plan.label.tolist(), strict=True)))
        turns = dict(zip(plan.label.tolist(), plan.rotation.tolist(), strict=True))
        assert [turns[label] for label in plan.label.tolist()] == plan.rotation.tolist()
    assert labels_of[0] == labels_of[1] == labels_of[2] and len(labels_of[0]) == 4
    assert set(labels_of[0]) == set(class_of(ordinary.index).tolist())
    every = torch.cat([plan.index for plan in plans])
    assert len(every.unique()) == len(every) == 3 * 4 * 5


def test_the_order_of_the_queries_does_not_give_their_labels_away(source: Source) -> None:
    orders = {
        tuple(plan.label[plan.n_support :].tolist())
        for task_id in range(4)
        for plan in draw_replicates(source, "val", seed=0, task_id=task_id, replicates=2, **SHAPE)
    }
    assert len(orders) == 8


def test_too_few_images_are_an_error_that_names_the_replicates(source: Source) -> None:
    check_replicates(source, "val", replicates=2, **SHAPE)
    with pytest.raises(InputError, match="500 replicates of 2 \\+ 3 images per class: class .* has"):
        check_replicates(source, "val", replicates=500, **SHAPE)
