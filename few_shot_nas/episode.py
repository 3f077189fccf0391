"""The one data contract: a meta-batch of N-way K-shot episodes.

Shapes: M meta-batch, N ways, K shots, S = N*K support images, Q = N*n_query query images, C, H, W image.
"""

from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor


class SupportSet(NamedTuple):
    """The labelled images of one task: what a learner adapts to before it sees a query.

    Attributes:
        support_x: images, ``[S, C, H, W]`` float32, normalised as the source says.
        support_y: their labels, ``[S]`` int64 in 0..N-1.
        task_id: identity of the task within its split, a scalar; None for tasks made by hand.
    """

    support_x: Tensor
    support_y: Tensor
    task_id: Tensor | None = None


class UnlabelledTask(NamedTuple):
    """A task whose queries have no labels: what a learner is asked once it is deployed.

    Attributes:
        support_x: as in :class:`SupportSet`.
        support_y: as in :class:`SupportSet`.
        query_x: the images to classify, ``[Q, C, H, W]`` float32.
        task_id: as in :class:`SupportSet`.
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    task_id: Tensor | None = None

    def support_set(self) -> SupportSet:
        """Return the fields that do not come from the queries."""
        return SupportSet(self.support_x, self.support_y, self.task_id)


class Task(NamedTuple):
    """One task with the labels of its queries: what a learner is trained and scored on.

    Attributes:
        support_x: as in :class:`SupportSet`.
        support_y: as in :class:`SupportSet`.
        query_x: images the outer loss and the accuracy are taken on, ``[Q, C, H, W]`` float32.
        query_y: their labels, ``[Q]`` int64 in 0..N-1.
        task_id: as in :class:`SupportSet`.
        originals: the images that support_x holds augmented copies of, ``[S', C, H, W]``, with the labels
            ``support_y[:S']``; None where support_x holds the images themselves.
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor
    task_id: Tensor | None = None
    originals: Tensor | None = None

    def support_set(self) -> SupportSet:
        """Return the fields that do not come from the queries."""
        return SupportSet(self.support_x, self.support_y, self.task_id)

    def unlabelled(self) -> UnlabelledTask:
        """Return the task without the labels of its queries."""
        return UnlabelledTask(self.support_x, self.support_y, self.query_x, self.task_id)


class Episode(NamedTuple):
    """A meta-batch: support and query sets of M tasks.

    Attributes:
        support_x: images the inner loop adapts on, ``[M, S, C, H, W]`` float32, normalised as the source says.
        support_y: their labels, ``[M, S]`` int64 in 0..N-1, permuted afresh for every task.
        query_x: images the outer loss and the accuracy are taken on, ``[M, Q, C, H, W]`` float32.
        query_y: their labels, ``[M, Q]`` int64 in 0..N-1.
        task_id: identity of each task within its split, ``[M]`` int64; None for episodes made by hand.
        originals: as in :class:`Task`, ``[M, S', C, H, W]``.

    :func:`tasks` gives its single tasks.
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor
    task_id: Tensor | None = None
    originals: Tensor | None = None


#: One task, for functions that do not read the labels of its queries.
SingleTask = Task | UnlabelledTask
#: What has queries, for functions that do not read their labels.
HasQueries = SingleTask | Episode
#: What has a support set, for functions that read nothing else.
HasSupport = SupportSet | HasQueries


def query_labels(task: HasQueries) -> Tensor:
    """Return the labels of the queries.

    Raises:
        ValueError: if they are not known.
    """
    if isinstance(task, UnlabelledTask):
        raise ValueError("the queries of this task have no labels; a loss or an oracle needs them")
    return task.query_y


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


def _changed(episode: Episode, change: Callable[[Tensor], Tensor]) -> tuple[Any, ...]:
    """Return the fields of an episode after a change of those that are there."""
    return tuple(None if value is None else change(value) for value in episode)


def fitted(episode: Episode, like: Tensor) -> Episode:
    """Return an episode on the device of ``like``, a parameter of a network, with images of the same precision."""

    def moved(value: Tensor) -> Tensor:
        return value.to(like.device, like.dtype if value.is_floating_point() else value.dtype)

    return Episode(*_changed(episode, moved))


def tasks(episode: Episode) -> Iterator[Task]:
    """Split a meta-batch into its M single tasks: the same fields without the leading axis."""
    for index in range(episode.support_x.shape[0]):
        yield Task(*_changed(episode, itemgetter(index)))
