"""What one column of a reward table holds: the scores of every architecture on one replicate of a task."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from few_shot_nas.episode import Task
from few_shot_nas.forward_context import forward_context
from few_shot_nas.meta.prototype_scores import Scores, leave_one_out_scores, query_scores
from few_shot_nas.spaces.supernet import Supernet
from few_shot_nas.tabular.prefix_tree import every_architecture

#: Differences of features to prototypes that are held at once; holding more takes memory and saves no time.
_ELEMENTS = 2**20


class Entries(NamedTuple):
    """Scores of A architectures on one task.

    Attributes:
        query: of the queries.
        support: of the support images, each under the prototypes of the others; None with one shot.
    """

    query: Scores
    support: Scores | None


def prototype_entries(supernet: Supernet, task: Task, bn_mode: str, n_way: int) -> Entries:
    """Score every architecture of the space under a prototype head, with the shared weights as they are.

    Args:
        supernet: the shared weights.
        task: one task.
        bn_mode: ``transductive`` normalises support set and queries separately, ``support`` both by the support set.
        n_way: number of classes.
    """
    has_pairs = int(torch.bincount(task.support_y, minlength=n_way).min()) >= 2
    query: list[Scores] = []
    support: list[Scores] = []
    size = max(1, _ELEMENTS // ((len(task.support_y) + len(task.query_y)) * n_way * supernet.feature_dim))
    rows = len(task.support_y) if bn_mode == "support" else None
    with torch.no_grad(), forward_context(stat_rows=rows):
        for support_x, query_x in _batches(_features(supernet, task, bn_mode), size):
            query.append(query_scores(support_x, task.support_y, query_x, task.query_y, n_way))
            if has_pairs:
                support.append(leave_one_out_scores(support_x, task.support_y, n_way))
    return Entries(_joined(query), _joined(support) if has_pairs else None)


def _features(supernet: Supernet, task: Task, bn_mode: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the support and query features of each architecture."""
    if bn_mode == "support":
        rows = len(task.support_y)
        for leaf in every_architecture(supernet, torch.cat([task.support_x, task.query_x])):
            yield leaf.features[:rows], leaf.features[rows:]
        return
    walks = (every_architecture(supernet, x) for x in (task.support_x, task.query_x))
    for first, second in zip(*walks, strict=True):
        yield first.features, second.features


def _batches(pairs: Iterator[tuple[Tensor, Tensor]], size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Stack up to ``size`` pairs of features."""
    held: list[tuple[Tensor, Tensor]] = []
    for pair in pairs:
        held.append(pair)
        if len(held) == size:
            yield torch.stack([s for s, _ in held]), torch.stack([q for _, q in held])
            held = []
    if held:
        yield torch.stack([s for s, _ in held]), torch.stack([q for _, q in held])


def _joined(parts: list[Scores]) -> Scores:
    return Scores(torch.cat([p.accuracy for p in parts]), torch.cat([p.loss for p in parts]))
