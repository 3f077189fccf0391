"""Gradient estimators for meta-learning a policy over architectures, as pure functions.

A policy is any function of (parameters, architectures) that returns the log-probability of every decision,
``[n, L]``; a row sums to the log-probability of the architecture. Per task the policy's parameters theta take one
step of policy gradient on K rewarded architectures, and M architectures of the resulting clone are rewarded:

    theta' = theta + alpha * (1/K) sum_k A_k grad log pi_theta(a_k),    a_k ~ pi_theta,  a'_m ~ pi_theta'

An estimator answers three questions:

- Which surrogate has the inner step? All have the same first derivative; their second derivatives differ.
- Does the outer gradient pass through the gradient of the inner step?
- How does the effect of theta on *which* a_k are drawn enter, if it does?

docs/estimators.md has the formulas, says what each estimator is unbiased for, and has exact numbers.

Sources: Williams 1992 (REINFORCE); Finn et al. 2017, arXiv:1703.03400 (MAML); Stadie et al. 2018, arXiv:1803.01118
(E-MAML); Foerster et al. 2018, arXiv:1802.05098 (DiCE); Farquhar et al. 2019, arXiv:1909.10549 (Loaded DiCE); Rothfuss
et al. 2019, arXiv:1810.06784 (LVC, ProMP).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from few_shot_nas.errors import InputError
from few_shot_nas.meta.functional import Params
from few_shot_nas.meta.inner_loop import adapt
from few_shot_nas.meta.policy_gradient import policy_loss

#: (parameters, n architectures, in the form that the policy takes) -> log-probability of each decision, ``[n, L]``.
PolicyLogProbs = Callable[[Params, Any], Tensor]
#: (log-probabilities ``[K, L]``, advantages ``[K]`` or ``[K, L]``) -> a scalar to minimise.
Surrogate = Callable[[Tensor, Tensor], Tensor]


def magic_box(x: Tensor) -> Tensor:
    """Return 1 with the derivatives of ``exp(x - stop(x))``, of any order (DiCE, equation 6).

    Example:
        >>> x = torch.tensor(3.0, requires_grad=True)
        >>> box = magic_box(x)
        >>> box.item(), torch.autograd.grad(box, x)[0].item()
        (1.0, 1.0)
    """
    return torch.exp(x - x.detach())


# ---- surrogates of rewarded architectures: the gradient of each is minus the REINFORCE estimate ---------------------


def plain(log_probs: Tensor, advantages: Tensor) -> Tensor:
    """``-(1/K) sum_k A_k log pi(a_k)``: second derivative ``A Hess log pi``, without the outer product of scores.

    Example:
        >>> log_probs = torch.tensor([[0.5, 0.5], [0.25, 1.0]]).log().requires_grad_()
        >>> loss = plain(log_probs, torch.tensor([1.0, -0.5]))
        >>> round(loss.item(), 4), torch.autograd.grad(loss, log_probs)[0].tolist()
        (0.3466, [[-0.5, -0.5], [0.25, 0.25]])
    """
    return policy_loss(log_probs.sum(1), advantages)


def dice(log_probs: Tensor, advantages: Tensor) -> Tensor:
    """``-(1/K) sum_k A_k box(log pi(a_k))``: every derivative is, in expectation, that of the expected reward.

    With one reward per architecture the baseline term of Mao et al. 2019, ``(1 - box) b``, is the baseline within
    ``A = r - b`` up to a constant.

    Example:
        >>> log_probs = torch.tensor([[0.5, 0.5], [0.25, 1.0]]).log().requires_grad_()
        >>> loss = dice(log_probs, torch.tensor([1.0, -0.5]))
        >>> round(loss.item(), 4), torch.autograd.grad(loss, log_probs)[0].tolist()
        (-0.25, [[-0.5, -0.5], [0.25, 0.25]])
    """
    return -(advantages.detach() * magic_box(log_probs.sum(1))).mean()


def loaded_dice(log_probs: Tensor, advantages: Tensor, lam: float) -> Tensor:
    """Loaded DiCE: products of the scores of two decisions decay by ``lam`` per decision between them.

    ``lam=1`` is :func:`dice`, ``lam=0`` is :func:`lvc`. Advantages ``[K, L]`` allow a baseline per decision that may
    depend on the decisions before it; at ``lam=1`` it leaves all derivatives unbiased.

    Example:
        >>> log_probs = torch.tensor([[0.5, 0.5], [0.25, 1.0]]).log().requires_grad_()
        >>> loss = loaded_dice(log_probs, torch.tensor([1.0, -0.5]), lam=1.0)
        >>> round(loss.item(), 4), torch.autograd.grad(loss, log_probs)[0].tolist()
        (-0.0, [[-0.5, -0.5], [0.25, 0.25]])
    """
    per_decision = advantages.detach().unsqueeze(-1) if advantages.dim() == 1 else advantages.detach()
    per_decision = per_decision.expand_as(log_probs)
    total: Tensor = log_probs.new_zeros(())
    load = torch.zeros_like(log_probs[:, 0])
    for own, advantage in zip(log_probs.unbind(1), per_decision.unbind(1), strict=True):
        before = lam * load
        load = before + own
        total = total + ((magic_box(load) - magic_box(before)) * advantage).mean()
    return -total


def lvc(log_probs: Tensor, advantages: Tensor) -> Tensor:
    """``-(1/K) sum_k sum_t A_k box(log pi(a_kt))``: low variance curvature, no products of different decisions.

    Its second derivative is exact where the reward is a sum of terms of one decision each and the decisions are
    independent; otherwise it lacks ``E[A sum_{t != u} s_t s_u^T]``.

    Example:
        >>> log_probs = torch.tensor([[0.5, 0.5], [0.25, 1.0]]).log().requires_grad_()
        >>> loss = lvc(log_probs, torch.tensor([1.0, -0.5]))
        >>> round(loss.item(), 4), torch.autograd.grad(loss, log_probs)[0].tolist()
        (-0.5, [[-0.5, -0.5], [0.25, 0.25]])
    """
    per_decision = advantages.detach().unsqueeze(-1) if advantages.dim() == 1 else advantages.detach()
    return -(per_decision * magic_box(log_probs)).sum(1).mean()


# ---- estimators -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimator:
    """How the meta-gradient of a policy is estimated.

    Attributes:
        target: what the expectation of the estimate is meant to be, ``J_I`` (the objective with K sampled
            architectures) or ``J_II`` (MAML with the expected inner gradient); docs/estimators.md.
        surrogate: surrogate of the inner step.
        second_order: differentiate through the gradient of the inner step.
        correction: how the effect of theta on which architectures are tried enters: not at all, by a score term
            (E-MAML), or by a magic box over the whole graph (DiCE). The last two have the same first derivative.

    Raises:
        InputError: if a correction is combined with a surrogate that has products of scores in its second derivative.
            These products are the first-order Taylor expansion of the correction, which would count twice.
    """

    target: Literal["J_I", "J_II"]
    surrogate: Surrogate = plain
    second_order: bool = True
    correction: Literal["none", "score", "dice"] = "none"

    def __post_init__(self) -> None:
        if self.correction != "none" and self.surrogate is not plain:
            raise InputError(
                f"estimator: the {self.correction} correction next to {surrogate_name(self.surrogate)} in the inner "
                "step counts the sampling of the inner architectures twice; use the plain surrogate or no correction"
            )

    @property
    def corrected(self) -> bool:
        """Whether :meth:`loss` needs the inner architectures' log-probabilities and a baseline for them."""
        return self.correction != "none"

    def adapt(
        self,
        policy: PolicyLogProbs,
        params: Mapping[str, Tensor],
        tried: Sequence[Any],
        advantages: Tensor,
        *,
        lr: float,
    ) -> Params:
        """Return the clone: ``params`` after one step of policy gradient on the architectures tried.

        Args:
            policy: log-probabilities of architectures.
            params: theta.
            tried: K architectures drawn from theta.
            advantages: reward - baseline of each, ``[K]``; used as numbers, no gradient flows through them.
            lr: the step size alpha.
        """
        return adapt(
            lambda current, step: self.surrogate(policy(current, tried), advantages),
            params,
            lr=lambda name, step: lr,
            num_steps=1,
            second_order=self.second_order,
        )[-1]

    def loss(
        self,
        log_probs: Tensor,
        rewards: Tensor,
        baseline: Tensor | float,
        tried_log_probs: Tensor | None = None,
        tried_baseline: Tensor | float = 0.0,
    ) -> Tensor:
        """Return the surrogate loss of one task: its gradient with respect to theta is minus the estimate.

        Args:
            log_probs: of the clone's M architectures under the clone, ``[M, L]``, differentiable down to theta.
            rewards: of these M architectures, ``[M]``.
            baseline: what is subtracted from the rewards, ``[M]`` or a number; given the clone, entry m must not depend
                on architecture m.
            tried_log_probs: of the K inner architectures under theta, ``[K, L]``; needed by a correction.
            tried_baseline: what the correction subtracts, ``[K]`` or a number; given theta, entry k must not depend on
                architecture k. The leave-one-out mean of the inner rewards is allowed here, their mean is not.

        Raises:
            ValueError: if a correction lacks ``tried_log_probs``.
        """
        rewards = rewards.detach()
        outer = log_probs.sum(1)
        if self.correction == "none":
            return policy_loss(outer, rewards - baseline)
        if tried_log_probs is None:
            raise ValueError(f"the {self.correction} correction needs the log-probabilities of what was tried")
        tried = tried_log_probs.sum(1)
        if self.correction == "score":
            weights = rewards.mean() - torch.as_tensor(tried_baseline).detach()
            return policy_loss(outer, rewards - baseline) - (weights * tried).sum()
        return -(
            (magic_box(tried.sum() + outer) * rewards + (1 - magic_box(outer)) * baseline).mean()
            + ((1 - magic_box(tried)) * tried_baseline).sum()
        )

    def task_loss(
        self,
        policy: PolicyLogProbs,
        params: Mapping[str, Tensor],
        inner: tuple[Sequence[Any], Tensor],
        outer: tuple[Sequence[Any], Tensor],
        *,
        lr: float,
        baseline: Tensor | float = 0.0,
        tried_baseline: Tensor | float = 0.0,
    ) -> Tensor:
        """Return :meth:`loss` from architectures already drawn and rewarded.

        Args:
            policy: log-probabilities of architectures.
            params: theta.
            inner: K architectures and their advantages ``[K]``.
            outer: M architectures of the clone and their rewards ``[M]``.
            lr: the inner step size.
            baseline: see :meth:`loss`.
            tried_baseline: see :meth:`loss`.
        """
        clone = self.adapt(policy, params, *inner, lr=lr)
        tried = policy(dict(params), inner[0]) if self.corrected else None
        return self.loss(policy(clone, outer[0]), outer[1], baseline, tried, tried_baseline)


def surrogate_name(surrogate: Surrogate) -> str:
    """Return the name of an inner surrogate, for messages.

    Example:
        >>> surrogate_name(lvc), surrogate_name(loaded_dice_estimator(0.5).surrogate)
        ('lvc', 'loaded_dice')
    """
    return (surrogate.func if isinstance(surrogate, partial) else surrogate).__name__


def loaded_dice_estimator(lam: float) -> Estimator:
    """Return the estimator with :func:`loaded_dice` in the inner step.

    Raises:
        InputError: if ``lam`` is not in [0, 1].

    Example:
        >>> loaded_dice_estimator(0.5).target
        'J_II'
        >>> loaded_dice_estimator(2.0)
        Traceback (most recent call last):
        few_shot_nas.errors.InputError: dice_lambda=2.0: must lie in 0 (LVC) .. 1 (DiCE)
    """
    if not 0 <= lam <= 1:
        raise InputError(f"dice_lambda={lam}: must lie in 0 (LVC) .. 1 (DiCE)")
    return Estimator("J_II", partial(loaded_dice, lam=lam))


ESTIMATORS: dict[str, Estimator] = {
    "fomaml": Estimator("J_I", second_order=False),
    "naive": Estimator("J_I"),
    "emaml": Estimator("J_I", correction="score"),
    "fo_emaml": Estimator("J_I", second_order=False, correction="score"),
    "dice_full": Estimator("J_I", correction="dice"),
    "dice_inner": Estimator("J_II", dice),
    "loaded_dice": loaded_dice_estimator(1.0),
    "lvc": Estimator("J_II", lvc),
}
