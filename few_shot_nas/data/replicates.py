"""The same task several times over: its classes, other support images, disjoint query images."""

import numpy as np
import torch
from torch import Tensor

from few_shot_nas.data.sampler import TaskPlan, check_task, draw_task
from few_shot_nas.data.source import Source


def draw_replicates(
    source: Source, split_name: str, *, seed: int, task_id: int, n_way: int, k_shot: int, n_query: int, replicates: int
) -> list[TaskPlan]:
    """Draw one task ``replicates`` times: one draw of R (K + n_query) images per class, cut into R tasks.

    The classes, their quarter turns and their labels are the same in all R; no image occurs twice. The classes are
    those of the ordinary task with this id, the images are not.

    Args:
        source: the images.
        split_name: train, val or test.
        seed: of the whole stream of tasks.
        task_id: which task of the stream.
        n_way: number of classes N.
        k_shot: support images per class and replicate K.
        n_query: query images per class and replicate.
        replicates: number of replicates R.

    Returns:
        R plans of ``N (K + n_query)`` images each, support first.
    """
    whole = draw_task(
        source.split(split_name),
        seed=seed,
        split_name=split_name,
        task_id=task_id,
        n_way=n_way,
        k_shot=replicates * k_shot,
        n_query=replicates * n_query,
        rotation=source.rotation(split_name),
    )
    support = _nth_of_class(whole.label[: whole.n_support]) // k_shot
    query = _nth_of_class(whole.label[whole.n_support :]) // n_query
    part = torch.cat([support, query])
    return [
        whole._replace(
            index=whole.index[part == replicate],
            label=whole.label[part == replicate],
            rotation=whole.rotation[part == replicate],
            n_support=n_way * k_shot,
        )
        for replicate in range(replicates)
    ]


def check_replicates(
    source: Source, split_name: str, *, n_way: int, k_shot: int, n_query: int, replicates: int
) -> None:
    """Raise InputError if a split has too few classes, or too few images of one, for :func:`draw_replicates`."""
    check_task(
        source.split(split_name),
        label=f"{source.name}, split {split_name}, {replicates} replicates of {k_shot} + {n_query} images per class",
        n_way=n_way,
        k_shot=replicates * k_shot,
        n_query=replicates * n_query,
        rotation=source.rotation(split_name),
    )


def _nth_of_class(label: Tensor) -> Tensor:
    """Return, for each entry, how many entries before it have the same label."""
    values = label.numpy()
    nth = np.empty_like(values)
    for value in np.unique(values):
        rows = values == value
        nth[rows] = np.arange(rows.sum())
    return torch.from_numpy(nth)
