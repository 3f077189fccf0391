"""Classifying by comparison in feature space: prototypes, distances, attention. Nothing here has parameters.

Shapes: S support images, Q query images, D features, N ways. Prototypes and squared distances take further leading
axes, such as one of many feature extractors.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def ways(labels: Tensor) -> int:
    """Number of classes N of a task whose support ``labels`` hold every class 0..N-1.

    Example:
        >>> ways(torch.tensor([0, 2, 1, 0]))
        3
    """
    return int(labels.max()) + 1


def prototypes(features: Tensor, labels: Tensor, n_way: int) -> Tensor:
    """Mean feature vector of every class (Snell et al., NeurIPS 2017, arXiv:1703.05175, equation 1).

    Args:
        features: ``[..., S, D]``.
        labels: ``[S]`` int64, every class 0..N-1 at least once.
        n_way: number of classes N.

    Returns:
        ``[..., N, D]``.

    Example:
        >>> prototypes(torch.tensor([[0.0, 1.0], [2.0, 1.0], [5.0, 5.0]]), torch.tensor([0, 0, 1]), 2).tolist()
        [[1.0, 1.0], [5.0, 5.0]]
    """
    sums = features.new_zeros(*features.shape[:-2], n_way, features.shape[-1]).index_add(-2, labels, features)
    return sums / torch.bincount(labels, minlength=n_way).to(features.dtype).unsqueeze(1)


def squared_euclidean_logits(query: Tensor, centres: Tensor) -> Tensor:
    """Minus the squared distance of every ``query [..., Q, D]`` to each of ``centres [..., N, D]``: ``[..., Q, N]``.

    The distance is squared, as in Snell et al. (equation 2 with the Bregman divergence of section 2.4). Differences are
    taken before squaring, so that close features in low precision do not cancel. All differences ``[..., Q, N, D]`` are
    held at once.

    Example:
        >>> squared_euclidean_logits(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0], [1.0, 0.0]])).tolist()
        [[-25.0, -1.0]]
    """
    return -(query.unsqueeze(-2) - centres.unsqueeze(-3)).pow(2).sum(dim=-1)


def cosine_logits(query: Tensor, centres: Tensor, scale: float | Tensor = 1.0) -> Tensor:
    """``scale`` times the cosine between every ``query [Q, D]`` and each of ``centres [N, D]``: ``[Q, N]``.

    Example:
        >>> cosine_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([[5.0, 0.0], [0.0, 3.0]]), scale=10.0).tolist()
        [[10.0, 0.0]]
    """
    return scale * F.normalize(query, dim=-1) @ F.normalize(centres, dim=-1).T


def attention_logits(
    query: Tensor,
    support: Tensor,
    labels: Tensor,
    n_way: int,
    scale: float | Tensor = 1.0,
    *,
    rectified: bool = False,
    floor: float = 0.0,
) -> Tensor:
    """Logarithm of the label that cosine attention over the support set gives each query.

    ``p(class c | query) = sum over support images i of c of softmax_i(scale * cos(query, support_i))``: equations 1 and
    2 of Matching Networks (Vinyals et al., NeurIPS 2016, arXiv:1606.04080). Summed in log space, so that a large scale
    does not underflow.

    Args:
        query: ``[Q, D]``.
        support: ``[S, D]``.
        labels: of the support images, ``[S]`` int64 in 0..N-1.
        n_way: number of classes N.
        scale: factor on the cosines; 1 in the paper.
        rectified: count negative cosines as 0, as the code of "A Closer Look at Few-shot Classification" does.
        floor: added to each probability before the logarithm, 1e-6 in that code; it bounds the loss of one query.

    Returns:
        ``log(p + floor)``, ``[Q, N]``. With a floor of 0 the exponentials sum to 1, and cross-entropy on them is the
        log-likelihood.

    Example:
        >>> support, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0]]), torch.tensor([0, 1, 1])
        >>> probabilities = attention_logits(torch.tensor([[1.0, 1.0]]), support, labels, 2).exp()
        >>> [round(p, 4) for p in probabilities[0].tolist()]
        [0.3333, 0.6667]
    """
    cosines = cosine_logits(query, support)
    attention = F.log_softmax((cosines.relu() if rectified else cosines) * scale, dim=-1)
    is_class = F.one_hot(labels, n_way).T.bool()
    log_p = attention.unsqueeze(1).masked_fill(~is_class, -torch.inf).logsumexp(dim=-1)
    return torch.logaddexp(log_p, log_p.new_tensor(floor).log()) if floor else log_p
