"""The one data contract: a meta-batch of N-way K-shot episodes.

Shapes: M meta-batch, N ways, K shots, S = N*K support images, Q = N*n_query query images, C, H, W image.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class SupportSet(NamedTuple):
    """What a learner may see of one task before it is judged: an :class:`Episode` without its queries.

    Attributes:
        support_x: images, ``[S, C, H, W]`` float32.
        support_y: their labels, ``[S]`` int64 in 0..N-1.
        task_id: identity of the task within its split, a scalar; None for tasks made by hand.
    """

    support_x: Tensor
    support_y: Tensor
    task_id: Tensor | None = None


class Episode(NamedTuple):
    """Support and query sets of M tasks.

    Attributes:
        support_x: images the inner loop adapts on, ``[M, S, C, H, W]`` float32, normalised as the source says.
        support_y: their labels, ``[M, S]`` int64 in 0..N-1, permuted afresh for every task.
        query_x: images the outer loss and the accuracy are taken on, ``[M, Q, C, H, W]`` float32.
        query_y: their labels, ``[M, Q]`` int64 in 0..N-1.
        task_id: identity of each task within its split, ``[M]`` int64; None for episodes made by hand.

    One task of a meta-batch (see :func:`tasks`) has the same fields without the leading axis.
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor
    task_id: Tensor | None = None

    def support_set(self) -> SupportSet:
        """Return the fields of one task that do not come from its queries."""
        return SupportSet(self.support_x, self.support_y, self.task_id)


def check_episode(episode: Episode, n_way: int) -> None:
    """Raise where ``episode`` breaks the contract.

    Args:
        episode: a meta-batch with its leading axis M.
        n_way: number of classes N in every task.

    Raises:
        ValueError: naming the field and what is wrong with it: shapes that do not agree, labels outside 0..N-1,
            a support set that does not hold the same number of images of each class.
    """
    for name in ("support", "query"):
        images: Tensor = getattr(episode, f"{name}_x")
        labels: Tensor = getattr(episode, f"{name}_y")
        if images.ndim != 5 or not images.is_floating_point():
            raise ValueError(f"{name}_x must be float [M, B, C, H, W], got {images.dtype} {list(images.shape)}")
        if labels.dtype != torch.int64 or labels.shape != images.shape[:2]:
            raise ValueError(
                f"{name}_y must be int64 {list(images.shape[:2])} as {name}_x has it, "
                f"got {labels.dtype} {list(labels.shape)}"
            )
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < n_way:
            raise ValueError(f"{name}_y must lie in 0..{n_way - 1}, got {int(labels.min())}..{int(labels.max())}")
    if episode.support_x.shape[0] != episode.query_x.shape[0]:
        raise ValueError(
            f"support has {episode.support_x.shape[0]} tasks and query {episode.query_x.shape[0]}; they must agree"
        )
    counts = torch.nn.functional.one_hot(episode.support_y, n_way).sum(dim=1)
    if not bool((counts == counts[:, :1]).all()):
        raise ValueError(f"support must hold as many images of each class, got counts {counts.tolist()}")


def tasks(episode: Episode) -> Iterator[Episode]:
    """Split a meta-batch into its M single tasks: the same fields without the leading axis."""
    for index in range(episode.support_x.shape[0]):
        support_x, support_y, query_x, query_y, task_id = episode
        yield Episode(
            support_x[index],
            support_y[index],
            query_x[index],
            query_y[index],
            None if task_id is None else task_id[index],
        )
