"""A prior on how many skip connections a policy makes, differentiated directly."""

from collections.abc import Sequence

import torch
from torch import Tensor

from few_shot_nas.meta.entropy import bernoulli_kl, skip_log_probs


def skip_prior_kl(log_probs: Tensor, decisions: Tensor, kinds: Sequence[str], target: float) -> Tensor:
    """Divergence of the policy's skip decisions from independent coins that say yes with probability ``target``.

    ENAS' skip penalty (Pham et al. 2018, section 2.4): ``sum_j KL((1 - p_j, p_j) || (1 - target, target))`` over the
    skips of a layer, averaged over the layers that have any. Deviation: p is the probability with which the skip is
    sampled; the authors' code takes the sigmoid of one of the two logits, so that a target of 0.4 is met by a rate of
    0.308.

    Args:
        log_probs: log-probability of each decision taken, ``[L]``.
        decisions: the decisions, ``[L]``.
        kinds: kind of each, L of them; a layer's skips are a run of ``skip``.
        target: probability in (0, 1).

    Returns:
        A scalar in nats, differentiable; 0 without skips.

    Example:
        >>> kinds, decisions = ("op", "skip", "skip"), torch.tensor([3, 1, 0])
        >>> log_probs = torch.tensor([0.2, 0.4, 0.6]).log()
        >>> round(abs(skip_prior_kl(log_probs, decisions, kinds, 0.4).item()), 4)
        0.0
    """
    places = [place for place, kind in enumerate(kinds) if kind == "skip"]
    if not places:
        return log_probs.new_zeros(())
    layers = sum(kind == "skip" and (place == 0 or kinds[place - 1] != "skip") for place, kind in enumerate(kinds))
    skips = skip_log_probs(log_probs[places], decisions.to(log_probs.device)[places])
    return bernoulli_kl(skips, target).sum() / layers


def mean_skip_prior_kl(
    log_probs: Tensor, decisions: Sequence[Sequence[int]], kinds: Sequence[str], target: float
) -> Tensor:
    """Mean of :func:`skip_prior_kl` over n architectures.

    Args:
        log_probs: of their decisions, ``[n, L]``.
        decisions: n architectures of L choices each.
        kinds: as above.
        target: as above.

    Example:
        >>> log_probs = torch.tensor([[0.4], [0.5]]).log()
        >>> round(mean_skip_prior_kl(log_probs, [(1,), (1,)], ("skip",), 0.4).item(), 4)
        0.0102
    """
    each = [skip_prior_kl(own, torch.tensor(a), kinds, target) for own, a in zip(log_probs, decisions, strict=True)]
    return torch.stack(each).mean()
