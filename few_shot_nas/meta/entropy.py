"""How random a policy is, how far it moved, and the gradients that change it.

Log-probabilities and entropies are per decision, ``[n, L]``, as a controller's rollouts give them.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

EntropyGradient = Literal["exact", "direct", "score"]


def entropy_bonus(log_probs: Tensor, entropies: Tensor, gradient: EntropyGradient = "exact") -> Tensor:
    """Return the mean entropy of n sampled architectures, a scalar with an estimate of its gradient.

    The entropy of an autoregressive policy is the expectation of ``sum_t H_t`` over its own samples, where H_t depends
    on the choices before t. Its gradient is ``E[sum_t grad H_t + sum_t H_t sum_{u<t} s_u]``, with s_u the score of
    decision u. The first term is direct: the parameters change the entropies that are met. The second is the score
    term: they change which entropies are met.

    Args:
        log_probs: of the sampled decisions, ``[n, L]``.
        entropies: of the distributions they were drawn from, ``[n, L]``.
        gradient: ``exact`` has both terms. ``direct`` leaves the score term out: it adds no noise, and is biased
            unless the decisions are independent. ``score`` leaves the direct term out. ENAS does so, because it adds
            the entropy to the reward as a number. For independent decisions the score term is zero in expectation.

    Returns:
        A scalar in nats, the same number for every ``gradient``. Maximise it: its gradient has the sign of the ascent.

    Example:
        >>> logits = torch.zeros(2, requires_grad=True)
        >>> log_p = logits.log_softmax(0)
        >>> bonus = entropy_bonus(log_p[None, :1], -(log_p.exp() * log_p).sum().view(1, 1))
        >>> round(bonus.item(), 4), torch.autograd.grad(bonus, logits)[0].tolist()
        (0.6931, [0.0, 0.0])
    """
    value = entropies.detach().sum(1).mean()
    direct = entropies.sum(1).mean()
    if gradient == "direct":
        return direct
    before = log_probs.cumsum(1) - log_probs
    score = (entropies.detach() * before).sum(1).mean()
    score = score - score.detach()
    return direct + score if gradient == "exact" else value + score


def normalised_entropy(entropies: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return each decision's entropy as a fraction of the largest possible, ``[..., L]``, 0 for a single choice.

    Args:
        entropies: ``[..., L]`` in nats.
        sizes: number of choices of each decision, L of them.

    Example:
        >>> normalised_entropy(torch.tensor([math.log(2), math.log(2), 0.0]), sizes=(2, 4, 1)).tolist()
        [1.0, 0.5, 0.0]
    """
    largest = torch.tensor([math.log(size) if size > 1 else math.inf for size in sizes])
    return entropies / largest.to(entropies)


def kl_estimate(log_probs: Tensor, other_log_probs: Tensor) -> Tensor:
    """Estimate ``KL(p || q)`` in nats from architectures that p drew: the mean of ``ratio - 1 - log ratio``.

    Args:
        log_probs: of the samples' decisions under p, ``[n, L]``.
        other_log_probs: of the same decisions under q, ``[n, L]``.

    Returns:
        A scalar, unbiased and never negative. ``ratio`` is q / p of one decision; the terms of all decisions are added.

    Example:
        >>> p, q = torch.tensor([0.25, 0.75]), torch.tensor([0.5, 0.5])
        >>> each = [kl_estimate(p[k].log().view(1, 1), q[k].log().view(1, 1)) for k in range(2)]
        >>> round(float(p @ torch.stack(each)), 4), round(float(p @ (p / q).log()), 4)
        (0.1308, 0.1308)
    """
    log_ratio = other_log_probs - log_probs
    return (log_ratio.expm1() - log_ratio).sum(1).mean()


def skip_log_probs(log_probs: Tensor, decisions: Tensor) -> Tensor:
    """Return the log-probability of 1 (skip) of binary decisions from those of the choices taken, any shape.

    Example:
        >>> taken = torch.tensor([0.25, 0.25]).log()
        >>> skip_log_probs(taken, torch.tensor([1, 0])).exp().tolist()
        [0.25, 0.75]
    """
    taken = decisions.bool()
    # Both branches of where() are differentiated: keep the unused one away from log(0).
    other = torch.where(taken, -torch.ones_like(log_probs), log_probs)
    return torch.where(taken, log_probs, torch.log(-torch.expm1(other)))


def bernoulli_kl(log_p: Tensor, target: float) -> Tensor:
    """Return ``KL(Bernoulli(p) || Bernoulli(target))`` of each binary decision in nats, differentiable.

    Args:
        log_p: log-probability of each yes, any shape, below 0.
        target: the wanted rate, strictly between 0 and 1.

    Example:
        >>> [round(v, 4) for v in bernoulli_kl(torch.tensor([0.4, 0.5]).log(), 0.4).abs().tolist()]
        [0.0, 0.0204]
    """
    no_log_p = torch.log(-torch.expm1(log_p))
    return log_p.exp() * (log_p - math.log(target)) + no_log_p.exp() * (no_log_p - math.log1p(-target))
