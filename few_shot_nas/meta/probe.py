"""Linear classifiers fitted to the support features of one task. Pure: features in, weights out.

Shapes: S support images, Q query images, D features, N ways.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor

#: Added to the length of a feature vector before dividing by it, as "A Closer Look at Few-shot Classification" does.
_TINY = 1e-5
_NARROW_SCALE, _WIDE_SCALE, _WIDE = 2.0, 10.0, 200


class LinearHead(NamedTuple):
    """A linear classifier.

    Attributes:
        weight: ``[N, D]``.
        bias: ``[N]``.
    """

    weight: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """Return ``features [Q, D]`` as logits ``[Q, N]``."""
        return features.to(self.weight.dtype) @ self.weight.T + self.bias


class CosineHead(NamedTuple):
    """A cosine classifier with weight normalisation.

    Attributes:
        direction: ``[N, D]``; only the directions of its rows matter.
        length: factor of each class's cosine, ``[N, 1]``.
        scale: factor of all cosines.
    """

    direction: Tensor
    length: Tensor
    scale: float

    def logits(self, features: Tensor) -> Tensor:
        """Return ``features [Q, D]`` as logits ``[Q, N]``: scale times length times cosine."""
        cosines = unit(features) @ F.normalize(self.direction, dim=1).T
        return self.scale * self.length.T * cosines


def cosine_scale(n_way: int) -> float:
    """Return the factor on the cosines of a head for ``n_way`` classes in the authors' code: 2, or 10 above 200.

    Example:
        >>> cosine_scale(5), cosine_scale(351)
        (2.0, 10.0)
    """
    return _NARROW_SCALE if n_way <= _WIDE else _WIDE_SCALE


def unit(features: Tensor) -> Tensor:
    """Return ``features [B, D]`` divided by their lengths plus 1e-5, as the authors of Baseline++ do.

    Example:
        >>> unit(torch.tensor([[3.0, 4.0]])).round(decimals=4).tolist()
        [[0.6000000238418579, 0.800000011920929]]
    """
    return features / (features.norm(dim=1, keepdim=True) + _TINY)


def logistic_regression(features: Tensor, labels: Tensor, *, c: float = 1.0) -> LinearHead:
    """Fit multinomial logistic regression on L2-normalised features, as RFS does (Tian et al., ECCV 2020).

    The minimum of ``||W||^2 / 2 + c * sum of cross-entropies``, the bias unpenalised, by scikit-learn's L-BFGS in
    float64. Deviation: it is stopped at a gradient 1e4 times smaller than scikit-learn's default, so that the optimum
    does not depend on the stopping rule (RFS takes the default).

    Args:
        features: ``[S, D]``, any lengths.
        labels: ``[S]``; every class 0..N-1 occurs, N >= 2.
        c: inverse strength of the penalty.

    Returns:
        Weights in float64 for *normalised* features, on the device of ``features``.

    Example:
        >>> features, labels = torch.tensor([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.1]]), torch.tensor([0, 0, 1])
        >>> logistic_regression(features, labels).logits(torch.tensor([[0.9, 0.0], [-0.9, 0.0]])).argmax(1).tolist()
        [0, 1]
    """
    x = F.normalize(features.detach().double(), dim=1).cpu().numpy()
    n_way = int(labels.max()) + 1
    if not np.isfinite(x).all():  # a network that has diverged: its answers are no numbers either
        nothing = torch.full((n_way, x.shape[1] + 1), math.nan, dtype=torch.float64, device=features.device)
        return LinearHead(nothing[:, :-1], nothing[:, -1])
    # For two classes scikit-learn fits one weight vector w = w_1 - w_0. The multinomial model has two, -w/2 and w/2,
    # whose penalty is half that of w. Twice the inverse strength halves the penalty of w.
    strength = 2 * c if n_way == 2 else c
    model = LogisticRegression(C=strength, max_iter=1000, tol=1e-8).fit(x, labels.cpu().numpy())
    weight, bias = torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)
    if n_way == 2:
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    return LinearHead(weight.to(features.device), bias.to(features.device))


class HeadSGD(NamedTuple):
    """How a head is fitted by gradient descent; see :func:`fit_linear`.

    Attributes:
        lr: learning rate.
        momentum: of the velocity.
        dampening: 1 minus the weight of a new gradient in the velocity; the first one counts in full.
        weight_decay: L2 penalty on everything that is fitted.
        epochs: passes over the support set.
        batch_size: images per step; the last batch of an epoch may be smaller.
    """

    lr: float
    momentum: float
    dampening: float
    weight_decay: float
    epochs: int
    batch_size: int


def fit_linear(
    features: Tensor, labels: Tensor, n_way: int, how: HeadSGD, generator: torch.Generator
) -> LinearHead:
    """Fit a linear head by SGD on the mean cross-entropy of small batches.

    The start is :class:`torch.nn.Linear`'s, uniform in +-1/sqrt(D). The gradient is written out, which is several times
    faster than a tape for a head this small.

    Args:
        features: ``[S, D]``; constants.
        labels: ``[S]`` int64 in 0..N-1.
        n_way: number of classes N.
        how: the optimiser.
        generator: CPU generator of the start and of the order of the images.

    Example:
        >>> features, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
        >>> how = HeadSGD(lr=0.5, momentum=0.9, dampening=0.0, weight_decay=0.0, epochs=20, batch_size=2)
        >>> head = fit_linear(features, labels, 2, how, torch.Generator().manual_seed(0))
        >>> head.logits(features).argmax(1).tolist()
        [0, 1]
    """
    features = features.detach()
    bound = features.shape[1] ** -0.5
    weight = _uniform(bound, (n_way, features.shape[1]), features, generator)
    bias = _uniform(bound, (n_way,), features, generator)
    targets = F.one_hot(labels, n_way).to(features.dtype)

    def gradient(rows: Tensor) -> list[Tensor]:
        x = features[rows]
        delta = (LinearHead(weight, bias).logits(x).softmax(1) - targets[rows]) / len(rows)
        return [delta.T @ x, delta.sum(0)]

    _descend([weight, bias], gradient, len(labels), how, generator)
    return LinearHead(weight, bias)


def fit_cosine(
    features: Tensor, labels: Tensor, n_way: int, how: HeadSGD, generator: torch.Generator
) -> CosineHead:
    """Fit a cosine head by SGD on the mean cross-entropy of small batches; arguments as :func:`fit_linear`.

    Directions and lengths are both fitted, as under :func:`torch.nn.utils.weight_norm`: the lengths start as those of
    the rows of a linear layer's start.

    Example:
        >>> features, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
        >>> how = HeadSGD(lr=0.5, momentum=0.9, dampening=0.0, weight_decay=0.0, epochs=20, batch_size=2)
        >>> head = fit_cosine(features, labels, 2, how, torch.Generator().manual_seed(0))
        >>> head.logits(features).argmax(1).tolist()
        [0, 1]
    """
    features = features.detach()
    direction = _uniform(features.shape[1] ** -0.5, (n_way, features.shape[1]), features, generator)
    length = direction.norm(dim=1, keepdim=True)
    scale = cosine_scale(n_way)
    x_unit, targets = unit(features), F.one_hot(labels, n_way).to(features.dtype)

    def gradient(rows: Tensor) -> list[Tensor]:
        x, norms = x_unit[rows], direction.norm(dim=1, keepdim=True)
        towards = direction / norms
        cosines = x @ towards.T
        delta = scale * ((scale * length.T * cosines).softmax(1) - targets[rows]) / len(rows)
        along = (delta * length.T).T @ x
        tangent = along - towards * (along * towards).sum(dim=1, keepdim=True)
        return [tangent / norms, (delta * cosines).sum(0).unsqueeze(1)]

    _descend([direction, length], gradient, len(labels), how, generator)
    return CosineHead(direction, length, scale)


def _uniform(bound: float, shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    return ((2 * torch.rand(shape, generator=generator) - 1) * bound).to(like)


def _descend(
    params: Sequence[Tensor],
    gradient: Callable[[Tensor], list[Tensor]],
    count: int,
    how: HeadSGD,
    generator: torch.Generator,
) -> None:
    """Update ``params`` in place as :class:`torch.optim.SGD` does, in epochs over ``count`` shuffled rows."""
    velocity: list[Tensor] = []
    for _ in range(how.epochs):
        order = torch.randperm(count, generator=generator).to(params[0].device)
        for rows in order.split(how.batch_size):
            grads = [g.add_(p, alpha=how.weight_decay) for g, p in zip(gradient(rows), params, strict=True)]
            if not velocity:
                velocity = grads
            else:
                for v, g in zip(velocity, grads, strict=True):
                    v.mul_(how.momentum).add_(g, alpha=1 - how.dampening)
            for p, v in zip(params, velocity, strict=True):
                p.sub_(v, alpha=how.lr)
