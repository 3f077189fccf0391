"""Scores of many feature extractors on one task under a prototype head; the support set can be scored too.

Shapes: A extractors, S support images (K of each class), Q query images, D features, N ways.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Scores(NamedTuple):
    """Accuracy (a fraction) and mean cross-entropy (nats) of each of A extractors, ``[A]`` each."""

    accuracy: Tensor
    loss: Tensor


def _distances(x: Tensor, centres: Tensor) -> Tensor:
    """Squared distances over D of ``x [A, B, D]`` to ``centres [A, N, D]``: ``[A, B, N]``.

    Differences before squares, and one class at a time, so that no ``[A, B, N, D]`` is held.
    """
    own = [(x - centre.unsqueeze(1)).pow(2).mean(-1) for centre in centres.unbind(1)]
    return torch.stack(own, dim=-1)


def _scores(logits: Tensor, labels: Tensor) -> Scores:
    rows = labels.expand(logits.shape[:-1])
    loss = F.cross_entropy(logits.flatten(0, 1), rows.flatten(), reduction="none").view(rows.shape)
    return Scores((logits.argmax(-1) == rows).to(logits.dtype).mean(-1), loss.mean(-1))


def _prototypes(features: Tensor, labels: Tensor, n_way: int) -> Tensor:
    """Mean feature vectors per class, ``[A, N, D]``; :func:`few_shot_nas.meta.metric.prototypes` for A at once."""
    weights = F.one_hot(labels, n_way).to(features.dtype)
    return (weights / weights.sum(0)).T @ features


def query_scores(support: Tensor, support_y: Tensor, query: Tensor, query_y: Tensor, n_way: int) -> Scores:
    """Classify queries by the nearest prototype (Snell et al. 2017, equations 1 and 2).

    The logits are minus the squared Euclidean distances divided by D: a mean over features, so that the softmax is not
    sharper where an architecture has more of them.

    Args:
        support: ``[A, S, D]``.
        support_y: ``[S]``, every class at least once.
        query: ``[A, Q, D]``.
        query_y: ``[Q]``.
        n_way: number of classes.
    """
    return _scores(-_distances(query, _prototypes(support, support_y, n_way)), query_y)


def leave_one_out_scores(support: Tensor, support_y: Tensor, n_way: int) -> Scores:
    """Classify each support image by the prototypes of the *others*: a score that needs no query.

    The prototype of its own class without image i is ``(K p - x_i) / (K - 1)``, so the difference to it is
    ``K / (K - 1)`` times that to the whole prototype p: one factor instead of S fits. Batch statistics within the
    features still contain the image.

    Args:
        support: ``[A, S, D]``.
        support_y: ``[S]``, every class at least twice.
        n_way: number of classes.

    Raises:
        ValueError: if a class has a single image.
    """
    count = torch.bincount(support_y, minlength=n_way).to(support.dtype)
    if int(count.min()) < 2:
        raise ValueError("leave-one-out needs two support images of every class")
    distances = _distances(support, _prototypes(support, support_y, n_way))
    factor = (count / (count - 1)).pow(2)
    scale = torch.where(F.one_hot(support_y, n_way).bool(), factor, torch.ones_like(factor))
    return _scores(-distances * scale, support_y)
