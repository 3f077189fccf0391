"""A policy over architectures that adapts to a task by one step, and the loss that meta-learns it.

MAML over a controller descends the outer loss of the architectures that the adapted clone drew. Searches over networks
and over tables of rewards share it. docs/maml_enas.md has the equations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from few_shot_nas.meta.control_variates import ControlVariate, legal_control_variate
from few_shot_nas.meta.entropy import EntropyGradient, entropy_bonus, kl_estimate
from few_shot_nas.meta.estimators import ESTIMATORS, Estimator, loaded_dice_estimator
from few_shot_nas.meta.functional import Params
from few_shot_nas.meta.skip_prior import mean_skip_prior_kl
from few_shot_nas.ranges import Count, Fraction, NonNegative, Positive, Share
from few_shot_nas.registry import lookup
from few_shot_nas.settings import Settings

#: n architectures: their decisions, as tuples or as a tensor ``[n, L]``.
Architectures = Any


class TaskPolicyLike(Protocol):
    """A policy in the context of one task, whose parameters come from outside."""

    def rollouts(self, params: Params, architectures: Architectures) -> tuple[Tensor, Tensor]:
        """Return log-probability and entropy of each decision of n architectures, ``[n, L]`` each."""

    def log_probs(self, params: Params, architectures: Architectures) -> Tensor:
        """Return the log-probability of each decision of n architectures, ``[n, L]``."""


@dataclass(frozen=True)
class PolicyGradient(Settings):
    """How a policy is adapted to a task by one step, and how it is meta-learned.

    Attributes:
        controller_inner_lr: step size of the policy-gradient step on a task's clone, in parameter units per unit of the
            gradient of the expected reward (a fraction).
        controller_lr: Adam's rate on the meta-learned controller.
        inner_archs: architectures sampled before the clone's step, K. With K = 1 leave_one_out subtracts nothing, as in
            the published experiment.
        outer_archs: architectures sampled from the adapted clone, M.
        estimator: how the controller's meta-gradient is estimated, see docs/estimators.md. naive differentiates
            through the clone's step, fomaml does not, emaml adds the effect on which architectures are tried.
        dice_lambda: decay of loaded_dice, 0 (lvc) to 1 (dice_inner); without effect on other estimators.
        inner_baseline: subtracted from the rewards of the clone's step, and in the estimator's correction if it has
            one. Where inner_reward is of another kind, the correction takes the moving average of the outer rewards.
        outer_baseline: subtracted from the rewards of the clone's samples. self_critical costs one reward call per task
            at each of the two places.
        baseline_decay: decay per meta-step of the moving averages of the inner and the outer rewards.
        entropy_weight: weight of the clone's entropy in the outer objective, in reward units per nat.
        entropy_gradient: exact, or direct alone (biased, adds no noise), or the score term alone (as in ENAS).
    """

    controller_inner_lr: Positive = 1.0
    controller_lr: Positive = 1e-3
    inner_archs: Count = 2
    outer_archs: Count = 1
    estimator: Literal["fomaml", "naive", "emaml", "fo_emaml", "dice_full", "dice_inner", "loaded_dice", "lvc"] = (
        "naive"
    )
    dice_lambda: Fraction = 1.0
    inner_baseline: Literal["none", "moving_average", "leave_one_out", "self_critical"] = "leave_one_out"
    outer_baseline: Literal["none", "moving_average", "per_task", "leave_one_out", "self_critical"] = "per_task"
    baseline_decay: Share = 0.99
    entropy_weight: NonNegative = 1e-4
    entropy_gradient: EntropyGradient = "direct"

    def __post_init__(self) -> None:
        # Checked before the choices that the types list, because these messages say why a baseline is not among them.
        self.make_estimator()
        self.baselines()
        super().__post_init__()

    def make_estimator(self) -> Estimator:
        """Return the estimator that the flags name."""
        chosen = lookup(ESTIMATORS, self.estimator, "estimator")
        return loaded_dice_estimator(self.dice_lambda) if self.estimator == "loaded_dice" else chosen

    def baselines(self) -> tuple[ControlVariate, ControlVariate]:
        """Return the inner baseline, legal in a correction too, and the outer one."""
        inner = legal_control_variate(self.inner_baseline, "inner", "inner_baseline")
        legal_control_variate(self.inner_baseline, "correction", "inner_baseline")
        return inner, legal_control_variate(self.outer_baseline, "outer", "outer_baseline")


class AdaptedPolicy(NamedTuple):
    """A clone of a policy after its step on one task, and what the step was made of.

    Attributes:
        clone: the clone's parameters, a function of the policy's.
        tried: K architectures of the policy.
        rewards: of the tried architectures, ``[K]``.
        baseline: what is subtracted from these rewards, ``[K]``.
    """

    clone: Params
    tried: Architectures
    rewards: Tensor
    baseline: Tensor


class TaskSamples(NamedTuple):
    """The architectures that were drawn for one task, with their advantages, kept for further outer steps.

    Attributes:
        policy: the policy in the task's context.
        inner: K architectures of the policy and their advantages ``[K]``.
        outer: M architectures of its clone and their advantages ``[M]``.
    """

    policy: TaskPolicyLike
    inner: tuple[Architectures, Tensor]
    outer: tuple[Architectures, Tensor]


class PolicyLoss(NamedTuple):
    """The loss of one task's policy, and what is logged of it; all ``[]``.

    Attributes:
        loss: differentiable in the policy's parameters.
        entropy: mean entropy of the clone's rollouts, nats.
        kl: estimate of KL(clone || policy), nats.
    """

    loss: Tensor
    entropy: Tensor
    kl: Tensor


@dataclass(frozen=True)
class PolicyObjective:
    """The outer loss of a policy on one task.

    Attributes:
        estimator: how the meta-gradient is estimated.
        entropy_weight: weight of the clone's entropy.
        entropy_gradient: which terms of the entropy's gradient are taken.
        kinds: the kind of every decision, for the prior on skips.
        skip_target: prior probability of a skip connection.
        skip_weight: weight of the divergence from that prior; 0 leaves it out.

    Example:
        >>> class Coin:  # one decision between two choices
        ...     def rollouts(self, params, archs):
        ...         log_p = params["logits"].log_softmax(0)
        ...         return log_p[archs], -(log_p.exp() * log_p).sum().expand(len(archs), 1)
        ...     def log_probs(self, params, archs):
        ...         return self.rollouts(params, archs)[0]
        >>> theta = {"logits": torch.zeros(2, requires_grad=True)}
        >>> adapted = AdaptedPolicy(theta, torch.tensor([[0]]), torch.tensor([1.0]), torch.tensor([0.0]))
        >>> objective = PolicyObjective(ESTIMATORS["fomaml"], entropy_weight=0.0)
        >>> found = objective(Coin(), theta, adapted, torch.tensor([[0]]), torch.tensor([1.0]), 0.0, 0.0)
        >>> torch.autograd.grad(found.loss, theta["logits"])[0].tolist(), round(found.entropy.item(), 4)
        ([-0.5, 0.5], 0.6931)
    """

    estimator: Estimator
    entropy_weight: float
    entropy_gradient: EntropyGradient = "direct"
    kinds: Sequence[str] = ()
    skip_target: float = 0.4
    skip_weight: float = 0.0

    def __call__(
        self,
        policy: TaskPolicyLike,
        params: Params,
        adapted: AdaptedPolicy,
        chosen: Architectures,
        rewards: Tensor,
        baseline: Tensor | float,
        tried_baseline: Tensor | float,
    ) -> PolicyLoss:
        """Return the loss of M architectures that the clone drew.

        Args:
            policy: the policy in the task's context.
            params: the policy's parameters.
            adapted: the policy's clone, and what its step was made of.
            chosen: the M architectures.
            rewards: of the chosen architectures, ``[M]``.
            baseline: what is subtracted from these rewards, ``[M]``.
            tried_baseline: what the estimator's correction subtracts from the outer rewards, ``[K]``.
        """
        log_probs, entropies = policy.rollouts(adapted.clone, chosen)
        of_tried = policy.log_probs(params, adapted.tried) if self.estimator.corrected else None
        loss = self.estimator.loss(log_probs, rewards, baseline, of_tried, tried_baseline)
        entropy = entropy_bonus(log_probs, entropies, self.entropy_gradient)
        loss = loss - self.entropy_weight * entropy
        if self.skip_weight and "skip" in self.kinds:
            prior = mean_skip_prior_kl(log_probs, chosen, self.kinds, self.skip_target)
            loss = loss + self.skip_weight * prior
        with torch.no_grad():
            kl = kl_estimate(log_probs, policy.log_probs(params, chosen))
        return PolicyLoss(loss, entropy, kl)
