"""Closed-form classifiers on the features of one task: no inner loop, no parameters, differentiable in the features.

A head maps (support features ``[S, D]``, labels ``[S]``, query features ``[Q, D]``, N) to logits ``[Q, N]``. It also
scores every support image by the head of the other support images, at the cost of one fit. The prototype head takes
further leading axes, the same for support and query features: many feature extractors on one task.

Both heads measure features in units of ``sqrt(D)``: inner products and squared distances are means over the D features
instead of sums, so that neither temperature nor regularisation depends on how wide the network is.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from few_shot_nas.meta.metric import prototypes, squared_euclidean_logits

#: Regularisation of ridge regression, on features in units of sqrt(D).
RIDGE_LAMBDA = 1.0
#: Factor on the regressed one-hot labels, which lie near 0..1: cross-entropy needs logits further apart.
RIDGE_SCALE = 10.0

Logits = Callable[[Tensor, Tensor, Tensor, int], Tensor]
LeaveOneOut = Callable[[Tensor, Tensor, int], Tensor]


def prototype_logits(support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
    """Minus the squared distance to the class means over D, ``-|q - c_n|^2 / D``, ``[..., Q, N]``.

    Source: Snell et al., NeurIPS 2017, arXiv:1703.05175, equations 1 and 2. Deviation: the division by the number of
    features D, a fixed temperature. Without it the logits of a freshly initialised network grow with D, and the
    cross-entropy of its confident mistakes is large and hardly differentiable.

    Example:
        >>> support, labels = torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1])
        >>> prototype_logits(support, labels, torch.tensor([[2.0, 2.0]]), 2).tolist()
        [[-4.0, -2.0]]
    """
    return squared_euclidean_logits(query, prototypes(support, labels, n_way)) / support.shape[-1]


def prototype_left_out(support: Tensor, labels: Tensor, n_way: int) -> Tensor:
    """Logits ``[..., S, N]`` of every support image by the :func:`prototype_logits` of the other S - 1.

    Taking image i out of its class of n images moves the mean c of this class to ``(n c - x_i) / (n - 1)`` and no other
    mean. So the squared distance to the image's own class grows by ``(n / (n - 1))^2``. Every class needs two images.
    Batch statistics within the features still contain the image.

    Example:
        >>> support, labels = torch.tensor([[0.0], [2.0], [4.0], [6.0]]), torch.tensor([0, 0, 1, 1])
        >>> prototype_left_out(support, labels, 2)[0].tolist()
        [-4.0, -25.0]
        >>> prototype_logits(support[1:], labels[1:], support[:1], 2)[0].tolist()
        [-4.0, -25.0]
    """
    logits = prototype_logits(support, labels, support, n_way)
    counts = torch.bincount(labels, minlength=n_way).to(logits.dtype)
    growth = (counts / (counts - 1)).square()
    own = F.one_hot(labels, n_way).bool()
    return torch.where(own, logits * growth, logits)


def ridge_logits(support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
    """Ridge regression on one-hot labels Y, ``[Q, N]``: ``scale * Q X^T (X X^T + lambda I)^-1 Y``.

    X and Q are support and query features over ``sqrt(D)``. Source: R2D2, Bertinetto et al., ICLR 2019,
    arXiv:1805.08136, equations 4 and 6: the Woodbury form inverts an S x S instead of a D x D matrix. Deviations:
    lambda = 1 and scale = 10 are constants. The authors learn both, and a bias on the logits, which no softmax sees.

    Example:
        >>> support, labels = torch.eye(2) * 2, torch.tensor([0, 1])
        >>> ridge_logits(support, labels, torch.tensor([[3.0, 0.0]]), 2).round(decimals=3).tolist()
        [[10.0, 0.0]]
    """
    with torch.autocast(support.device.type, enabled=False):  # a linear system in half precision is not solved
        x, q, gram = _scaled(support, query)
        targets = F.one_hot(labels, n_way).to(x.dtype)
        return RIDGE_SCALE * (q @ x.T) @ torch.linalg.solve(gram, targets)


def ridge_left_out(support: Tensor, labels: Tensor, n_way: int) -> Tensor:
    """Logits ``[S, N]`` of every support image by the :func:`ridge_logits` of the other S - 1.

    With ``P = (X X^T + lambda I)^-1`` the left-out prediction is ``y_i - (P Y)_i / P_ii``, the hat-matrix identity
    ``(yhat_i - H_ii y_i) / (1 - H_ii)`` with ``H = I - lambda P`` (Golub, Heath and Wahba 1979).

    Example:
        >>> support, labels = torch.tensor([[2.0, 0.0], [2.0, 1.0], [0.0, 2.0]]), torch.tensor([0, 0, 1])
        >>> alone = ridge_logits(support[1:], labels[1:], support[:1], 2)
        >>> torch.allclose(ridge_left_out(support, labels, 2)[:1], alone)
        True
    """
    with torch.autocast(support.device.type, enabled=False):
        x, _, gram = _scaled(support, support)
        targets = F.one_hot(labels, n_way).to(x.dtype)
        precision = torch.linalg.inv(gram)
        return RIDGE_SCALE * (targets - precision @ targets / precision.diagonal().unsqueeze(1))


def _scaled(support: Tensor, query: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    unit = support.shape[1] ** -0.5
    x, q = support * unit, query * unit
    return x, q, x @ x.T + RIDGE_LAMBDA * torch.eye(len(x), dtype=x.dtype, device=x.device)


class Head(NamedTuple):
    """A closed-form head.

    Attributes:
        logits: (support features, labels, query features, N) -> logits of the queries ``[Q, N]``.
        left_out: (support features, labels, N) -> logits ``[S, N]`` of each support image by the head of the others.
    """

    logits: Logits
    left_out: LeaveOneOut


HEADS: dict[str, Head] = {
    "prototype": Head(prototype_logits, prototype_left_out),
    "ridge": Head(ridge_logits, ridge_left_out),
}
