"""REINFORCE over architectures: surrogate losses and baselines.

Sign: every function that ends in ``_loss`` is minimised. Sources: Williams 1992 (REINFORCE); Kool et al. 2019
(leave-one-out baseline); the objective and which baselines keep it unbiased are derived in docs/maml_enas.md.
"""

import torch
from torch import Tensor


def leave_one_out(rewards: Tensor) -> Tensor:
    """Baseline of every sample: the mean reward of the *other* samples of the same task.

    Args:
        rewards: ``[K]``. Each must not depend on the other samples (every child starts from the same weights),
            otherwise the baseline biases the gradient.

    Returns:
        ``[K]``; zeros for K = 1, where there is no other sample and thus no baseline (the published setting).

    Example:
        >>> leave_one_out(torch.tensor([1.0, 0.0, 0.5])).tolist(), leave_one_out(torch.tensor([1.0])).tolist()
        ([0.25, 0.75, 0.5], [0.0])
    """
    count = rewards.shape[0]
    if count == 1:
        return torch.zeros_like(rewards)
    return (rewards.sum() - rewards) / (count - 1)


def policy_loss(log_probs: Tensor, advantages: Tensor) -> Tensor:
    """Surrogate whose gradient is minus the REINFORCE estimate.

    Args:
        log_probs: log-probability of each sampled architecture, summed over its decisions, ``[K]``.
        advantages: reward - baseline of each, ``[K]``; used as numbers, no gradient flows through them.

    Returns:
        ``-(1/K) sum_k advantage_k * log_prob_k``, a scalar.

    Example:
        >>> policy_loss(torch.tensor([-1.0, -2.0]), torch.tensor([0.5, -0.5])).item()
        -0.25
    """
    return -(advantages.detach() * log_probs).mean()
