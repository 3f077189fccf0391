"""Scores of many feature extractors on one task under the prototype head; the support set can be scored too.

Shapes: A extractors, S support images, Q query images, D features, N ways.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from few_shot_nas.meta.heads import prototype_left_out, prototype_logits


class Scores(NamedTuple):
    """Accuracy (a fraction) and mean cross-entropy (nats) of each of A extractors, ``[A]`` each."""

    accuracy: Tensor
    loss: Tensor


def _scores(logits: Tensor, labels: Tensor) -> Scores:
    rows = labels.expand(logits.shape[:-1])
    loss = F.cross_entropy(logits.flatten(0, 1), rows.flatten(), reduction="none").view(rows.shape)
    return Scores((logits.argmax(-1) == rows).to(logits.dtype).mean(-1), loss.mean(-1))


def query_scores(support: Tensor, support_y: Tensor, query: Tensor, query_y: Tensor, n_way: int) -> Scores:
    """Classify queries by :func:`few_shot_nas.meta.heads.prototype_logits`.

    Args:
        support: ``[A, S, D]``.
        support_y: ``[S]``, every class at least once.
        query: ``[A, Q, D]``.
        query_y: ``[Q]``.
        n_way: number of classes.

    Example:
        >>> support, query = torch.tensor([[[0.0], [4.0]]]), torch.tensor([[[1.0], [3.0], [3.0], [5.0]]])
        >>> query_scores(support, torch.tensor([0, 1]), query, torch.tensor([0, 1, 0, 1]), 2).accuracy.tolist()
        [0.75]
    """
    return _scores(prototype_logits(support, support_y, query, n_way), query_y)


def leave_one_out_scores(support: Tensor, support_y: Tensor, n_way: int) -> Scores:
    """Classify each support image by the prototypes of the *others*: a score that needs no query.

    Args:
        support: ``[A, S, D]``.
        support_y: ``[S]``, every class at least twice.
        n_way: number of classes.

    Raises:
        ValueError: if a class has a single image.

    Example:
        >>> support = torch.tensor([[[0.0], [1.0], [8.0], [2.0]]])
        >>> leave_one_out_scores(support, torch.tensor([0, 0, 1, 1]), 2).accuracy.tolist()
        [0.75]
    """
    if int(torch.bincount(support_y, minlength=n_way).min()) < 2:
        raise ValueError("leave-one-out needs two support images of every class")
    return _scores(prototype_left_out(support, support_y, n_way), support_y)
