"""ProMP: several outer steps on one batch of rewards.

Rewards of architectures cost children, log-probabilities cost next to nothing. Once theta has moved away from the
theta_o that drew the architectures, likelihood ratios reweigh them, clipping bounds the ratios, and a KL penalty holds
theta near theta_o. Source: Rothfuss et al. 2019, arXiv:1810.06784, equations 11 to 13.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from few_shot_nas.meta.entropy import kl_estimate
from few_shot_nas.meta.estimators import PolicyLogProbs
from few_shot_nas.meta.functional import Params
from few_shot_nas.meta.inner_loop import adapt


def ratio_loss(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor) -> Tensor:
    """``-(1/K) sum_k A_k sum_t pi(a_kt) / pi_o(a_kt)``; at ``pi = pi_o`` all derivatives are those of LVC.

    Example:
        >>> old = torch.tensor([[0.5], [0.5]]).log()
        >>> ratio_loss(torch.tensor([[0.75], [0.25]]).log(), old, torch.tensor([1.0, -1.0])).item()
        -0.5
    """
    ratios = torch.exp(log_probs - old_log_probs.detach())
    return -(advantages.detach().unsqueeze(-1) * ratios).sum(1).mean()


def clipped_ratio_loss(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """:func:`ratio_loss` with the pessimistic clipping of PPO: a ratio earns nothing beyond ``1 +- clip``.

    Example:
        >>> old = torch.tensor([[0.5], [0.5]]).log()
        >>> clipped_ratio_loss(torch.tensor([[0.75], [0.25]]).log(), old, torch.tensor([1.0, -1.0]), clip=0.25).item()
        -0.25
    """
    ratios = torch.exp(log_probs - old_log_probs.detach())
    weights = advantages.detach().unsqueeze(-1)
    return -torch.minimum(weights * ratios, weights * ratios.clamp(1 - clip, 1 + clip)).sum(1).mean()


def promp_clone(
    policy: PolicyLogProbs,
    params: Mapping[str, Tensor],
    old: Params,
    tried: Sequence[Any],
    advantages: Tensor,
    *,
    lr: float,
) -> Params:
    """Return ``params`` after one step on :func:`ratio_loss` with architectures that ``old`` drew.

    Example:
        >>> def policy(params, archs):  # one decision between two choices
        ...     return params["logits"].log_softmax(0)[torch.tensor(archs)].unsqueeze(1)
        >>> theta = {"logits": torch.zeros(2, requires_grad=True)}
        >>> promp_clone(policy, theta, theta, [0, 1], torch.tensor([1.0, -1.0]), lr=2.0)["logits"].tolist()
        [1.0, -1.0]
    """
    with torch.no_grad():
        old_log_probs = policy(old, tried)
    return adapt(
        lambda current, step: ratio_loss(policy(current, tried), old_log_probs, advantages),
        params,
        lr=lambda name, step: lr,
        num_steps=1,
    )[-1]


def promp(
    policy: PolicyLogProbs,
    params: Mapping[str, Tensor],
    old: Mapping[str, Tensor],
    inner: tuple[Sequence[Any], Tensor],
    outer: tuple[Sequence[Any], Tensor],
    *,
    lr: float,
    clip: float = 0.3,
    kl_weight: float = 5e-4,
) -> Tensor:
    """Return the surrogate loss of one task, to be minimised repeatedly over ``params`` with everything else fixed.

    Args:
        policy: log-probabilities of architectures.
        params: theta, where the loss is taken.
        old: theta_o, which drew the inner architectures and whose clone drew the outer ones.
        inner: K architectures of theta_o and their advantages ``[K]``.
        outer: M architectures of theta_o's clone and their advantages ``[M]`` (reward - baseline).
        lr: the inner step size.
        clip: largest distance of a decision's ratio from 1 that is still rewarded.
        kl_weight: weight of ``KL(pi_old || pi_params)`` on the inner architectures, in reward units per nat. The
            first outer step, at ``params = old``, does not feel it.

    Returns:
        A scalar. At ``params = old`` its gradient is that of the ``lvc`` estimator with the same baselines.

    Example:
        >>> def policy(params, archs):  # one decision between two choices
        ...     return params["logits"].log_softmax(0)[torch.tensor(archs)].unsqueeze(1)
        >>> theta = {"logits": torch.zeros(2, requires_grad=True)}
        >>> inner = outer = ([0, 1], torch.tensor([1.0, -1.0]))
        >>> loss = promp(policy, theta, theta, inner, outer, lr=2.0)
        >>> loss.item(), bool(torch.autograd.grad(loss, theta["logits"])[0][0] < 0)
        (0.0, True)
    """
    frozen = {name: value.detach() for name, value in old.items()}
    old_clone = promp_clone(policy, frozen, frozen, *inner, lr=lr)
    clone = promp_clone(policy, params, frozen, *inner, lr=lr)
    with torch.no_grad():
        old_outer, old_inner = policy(old_clone, outer[0]), policy(frozen, inner[0])
    loss = clipped_ratio_loss(policy(clone, outer[0]), old_outer, outer[1], clip)
    return loss + kl_weight * kl_estimate(old_inner, policy(dict(params), inner[0]))
