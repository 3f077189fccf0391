"""What MAML over a controller descends: the policy loss of what an adapted clone drew, and ProMP's further epochs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from few_shot_nas.algorithms.maml_enas_settings import ControllerLoop
from few_shot_nas.controllers.policy import TaskPolicy
from few_shot_nas.meta.entropy import entropy_bonus, kl_estimate
from few_shot_nas.meta.estimators import Estimator
from few_shot_nas.meta.functional import Params
from few_shot_nas.meta.promp import promp
from few_shot_nas.meta.skip_prior import mean_skip_prior_kl
from few_shot_nas.search.derivation import Decisions


class AdaptedController(NamedTuple):
    """A clone of the controller after its step on one task, and what the step was made of.

    Attributes:
        clone: the clone's parameters, a function of the controller's.
        tried: K architectures of the controller.
        rewards: of these, ``[K]``.
        baseline: what is subtracted from the rewards, ``[K]``.
    """

    clone: Params
    tried: Sequence[Decisions]
    rewards: Tensor
    baseline: Tensor


class TaskSamples(NamedTuple):
    """The architectures that were drawn for one task, with their advantages, kept for further outer steps.

    Attributes:
        policy: the controller in the task's context.
        inner: K architectures of the controller and their advantages ``[K]``.
        outer: M architectures of its clone and their advantages ``[M]``.
    """

    policy: TaskPolicy
    inner: tuple[Sequence[Decisions], Tensor]
    outer: tuple[Sequence[Decisions], Tensor]


class ControllerLoss(NamedTuple):
    """The loss of one task's policy, and what is logged of it; all ``[]``.

    Attributes:
        loss: differentiable in the controller's parameters.
        entropy: mean entropy of the clone's rollouts, nats.
        kl: estimate of KL(clone || controller), nats.
    """

    loss: Tensor
    entropy: Tensor
    kl: Tensor


@dataclass(frozen=True)
class ControllerObjective:
    """The loss of a controller on one task, docs/maml_enas.md.

    Attributes:
        loop: weights of the entropy and of the prior on skips, and ProMP's settings.
        estimator: how the meta-gradient is estimated.
        kinds: the kind of every decision, for the prior on skips.
    """

    loop: ControllerLoop
    estimator: Estimator
    kinds: Sequence[str]

    def of_task(
        self,
        policy: TaskPolicy,
        params: Params,
        adapted: AdaptedController,
        chosen: Sequence[Decisions],
        rewards: Tensor,
        baseline: Tensor,
        tried_baseline: Tensor,
    ) -> ControllerLoss:
        """Return the loss of M architectures that the clone drew.

        Args:
            policy: the controller in the task's context.
            params: the controller's parameters.
            adapted: its clone.
            chosen: the M architectures.
            rewards: of these, ``[M]``.
            baseline: subtracted from these rewards, ``[M]``.
            tried_baseline: the correction's baseline of the outer rewards, ``[K]``.
        """
        log_probs, entropies = policy.rollouts(adapted.clone, chosen)
        of_tried = policy.log_probs(params, adapted.tried) if self.estimator.corrected else None
        loss = self.estimator.loss(log_probs, rewards, baseline, of_tried, tried_baseline)
        entropy = entropy_bonus(log_probs, entropies, self.loop.entropy_gradient)
        loss = loss - self.loop.entropy_weight * entropy
        if self.loop.skip_weight and "skip" in self.kinds:
            prior = mean_skip_prior_kl(log_probs, chosen, self.kinds, self.loop.skip_target)
            loss = loss + self.loop.skip_weight * prior
        with torch.no_grad():
            kl = kl_estimate(log_probs, policy.log_probs(params, chosen))
        return ControllerLoss(loss, entropy, kl)

    def promp(self, params: Params, before: Params, samples: TaskSamples) -> Tensor:
        """Return ProMP's loss of one task on rewards that it has had.

        Args:
            params: the controller's parameters.
            before: the parameters that drew the architectures.
            samples: the architectures and their advantages.
        """
        return promp(
            samples.policy.log_probs,
            params,
            before,
            samples.inner,
            samples.outer,
            lr=self.loop.controller_inner_lr,
            clip=self.loop.promp_clip,
            kl_weight=self.loop.promp_kl_weight,
        )
