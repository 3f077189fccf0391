"""MAML over the ENAS controller: meta-learn a policy over architectures together with the supernet's weights."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from few_shot_nas.algorithms.settings import InnerLoop, OuterLoop, require_positive
from few_shot_nas.algorithms.supernet_search import SupernetSearch
from few_shot_nas.controllers import CONTROLLERS
from few_shot_nas.controllers.base import Rollout
from few_shot_nas.episode import Episode
from few_shot_nas.meta.functional import Params, trainable
from few_shot_nas.meta.inner_loop import adapt
from few_shot_nas.meta.policy_gradient import leave_one_out, policy_loss
from few_shot_nas.registry import lookup
from few_shot_nas.search.derive import Decisions
from few_shot_nas.search.phases import two_phases
from few_shot_nas.seeding import generator


@dataclass(frozen=True)
class ControllerLoop:
    """How the controller is adapted and updated.

    Attributes:
        controller: name of the policy.
        controller_inner_lr: step size of the policy-gradient step on a task's clone, in parameter units per unit of the
            gradient of the expected reward (a fraction).
        controller_lr: Adam's rate on the meta-learned controller.
        inner_archs: architectures sampled before the clone's step, K. With K = 1 the inner step has no baseline, as in
            the published experiment.
        outer_archs: architectures sampled from the adapted clone, M.
        controller_first_order: treat the clone's policy gradient as a constant. The second-order term is a
            multiple of the Hessian of the log-probability and costs a double pass through the LSTM.
        entropy_weight: weight of the clone's entropy in the outer objective, in reward units per nat.
    """

    controller: str = "LSTM"
    controller_inner_lr: float = 1.0
    controller_lr: float = 1e-3
    inner_archs: int = 2
    outer_archs: int = 1
    controller_first_order: bool = False
    entropy_weight: float = 1e-4

    def __post_init__(self) -> None:
        require_positive(self, "controller_inner_lr", "controller_lr", "inner_archs", "outer_archs")


class MAMLENAS(SupernetSearch):
    """Meta-learn an ENAS controller by MAML, sharing the children's weights over tasks.

    Per task, following the published experiment: clone the controller; sample K children, adapt each on train1 and
    reward it on val1; take one policy-gradient step on the clone; sample M children from the clone, adapt them on
    train2, reward them on val2; the gradient of their policy loss flows back through the clone's step into the
    controller, and the gradient of their query loss into the shared weights. See docs/maml_enas.md for the equations.

    Deviations from the experiment: children adapt fast weights that are dropped afterwards (it trained the shared
    weights in place, against contradicting label permutations); K = 2 with a leave-one-out baseline and the mean inner
    reward as the outer baseline (it had K = 1 and none).

    Evaluation uses the greedy architecture of the meta-learned controller: a reward would need query labels, which a
    task at test time does not have.

    Args:
        net: the supernet.
        inner: the inner loop of every child.
        policy: the loops of the controller.
        outer: the outer loop of the shared weights.
        derive_candidates: architectures that compete at the end: the greedy one and samples.
        derive_episodes: validation episodes on which they compete.
        seed: names every random stream of the run.
    """

    logged: ClassVar[tuple[str, ...]] = (
        "train/loss",
        "train/accuracy",
        "controller/reward",
        "controller/baseline",
        "controller/entropy",
    )

    def __init__(
        self,
        net: nn.Module,
        *,
        inner: InnerLoop = InnerLoop(),
        policy: ControllerLoop = ControllerLoop(),
        outer: OuterLoop = OuterLoop(),
        derive_candidates: int = 10,
        derive_episodes: int = 20,
        seed: int = 0,
    ) -> None:
        super().__init__(
            net,
            inner=inner,
            outer=outer,
            derive_candidates=derive_candidates,
            derive_episodes=derive_episodes,
            seed=seed,
        )
        self.policy = policy
        decisions = self.supernet.space.decisions
        self.controller = lookup(CONTROLLERS, policy.controller, "controller")(
            [len(decision.choices) for decision in decisions], [decision.kind for decision in decisions]
        )
        self.hparams.update(dataclasses.asdict(policy))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The shared weights at outer_lr and the controller at controller_lr, without weight decay on the policy."""
        return [
            {"params": [p for p in self.supernet.parameters() if p.requires_grad]},
            {"params": list(self.controller.parameters()), "lr": self.policy.controller_lr, "weight_decay": 0.0},
        ]

    # ---- the policy -----------------------------------------------------------------------------------------------

    def rollout(self, params: Params, **inputs: Any) -> Rollout:
        """Run the controller with ``params`` in place of its own."""
        return functional_call(self.controller, params, (), inputs)

    def draw(self, params: Params, task: Episode, phase: str, count: int) -> list[Decisions]:
        """Sample architectures; the stream depends on seed, phase, meta-step and task alone, not on rank or order."""
        task_id = -1 if task.task_id is None else int(task.task_id)
        stream = generator(self.seed, phase, self.meta_step, task_id + 1)
        with torch.no_grad():
            return [tuple(self.rollout(params, generator=stream).decisions.tolist()) for _ in range(count)]

    def log_probs(self, params: Params, architectures: Sequence[Decisions]) -> Tensor:
        """Log-probability of each architecture under ``params``, ``[K]``."""
        return torch.stack([self.rollout(params, decisions=self._as_tensor(a)).log_prob for a in architectures])

    def _as_tensor(self, decisions: Decisions) -> Tensor:
        return torch.tensor(decisions, dtype=torch.int64, device=self.device)

    def clone(self, architectures: Sequence[Decisions], rewards: Tensor) -> Params:
        """Return the controller after one policy-gradient step on rewarded architectures of one task."""
        advantages = rewards - leave_one_out(rewards)
        return adapt(
            lambda params, step: policy_loss(self.log_probs(params, architectures), advantages),
            trainable(self.controller),
            lr=lambda name, step: self.policy.controller_inner_lr,
            num_steps=1,
            second_order=not self.policy.controller_first_order,
        )[-1]

    def task_loss(self, task: Episode) -> tuple[Tensor, list[Tensor]]:
        """Outer loss of the shared weights plus outer policy loss of the controller; they share no parameter."""
        first, second = two_phases(task)
        own = trainable(self.controller)
        tried = self.draw(own, task, "inner", self.policy.inner_archs)
        inner_rewards = torch.tensor([self.reward(a, first) for a in tried], device=self.device)
        clone = self.clone(tried, inner_rewards)

        chosen = self.draw(clone, task, "outer", self.policy.outer_archs)
        children = [self.weights_loss(second, self.supernet.space.decode(a)) for a in chosen]
        weights_loss = torch.stack([loss for loss, _ in children]).mean()
        outer_rewards = torch.stack([reward.to(inner_rewards.dtype) for _, reward in children])
        # The mean inner reward does not depend on the outer samples given the clone: a legal baseline, and it takes the
        # difficulty of the task out of the advantage.
        baseline = inner_rewards.mean()
        rollouts = [self.rollout(clone, decisions=self._as_tensor(a)) for a in chosen]
        entropy = torch.stack([rollout.entropy for rollout in rollouts]).mean()
        outer_policy_loss = policy_loss(torch.stack([r.log_prob for r in rollouts]), outer_rewards - baseline)
        loss = weights_loss + outer_policy_loss - self.policy.entropy_weight * entropy
        return loss, [weights_loss, outer_rewards.mean(), outer_rewards.mean(), baseline, entropy]

    # ---- search -----------------------------------------------------------------------------------------------------

    def incumbent(self) -> Decisions:
        """The greedy architecture of the meta-learned controller."""
        with torch.no_grad():
            return tuple(self.controller.greedy().tolist())

    def propose(self) -> list[Decisions]:
        """The greedy architecture and samples of the meta-learned controller."""
        stream = generator(self.seed, "derive")
        with torch.no_grad():
            samples = [self.controller.sample(stream).decisions for _ in range(self.derive_candidates - 1)]
        return [self.incumbent(), *(tuple(sample.tolist()) for sample in samples)]

    def rewards_spent(self, meta_batch_size: int) -> int:
        """K inner and M outer reward calls per task."""
        return self.meta_step * meta_batch_size * (self.policy.inner_archs + self.policy.outer_archs)
