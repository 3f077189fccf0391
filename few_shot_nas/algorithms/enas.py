"""ENAS on episodes: one policy for all tasks, trained in turn with the weights that its children share."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from few_shot_nas.algorithms.outer_step import TaskLoss
from few_shot_nas.algorithms.controller_search import ControllerSearch
from few_shot_nas.algorithms.settings import InnerLoop, OuterLoop, Phase, Scoring
from few_shot_nas.episode import Episode, Task
from few_shot_nas.meta.policy_gradient import leave_one_out, policy_loss
from few_shot_nas.meta.skip_prior import mean_skip_prior_kl
from few_shot_nas.ranges import Between, Count, NonNegative, Number, Positive, Share
from few_shot_nas.runtime.checkpoint import KEY
from few_shot_nas.search.derivation import Decisions, Derivation
from few_shot_nas.search.single_path import uniform_paths
from few_shot_nas.settings import Settings


@dataclass(frozen=True)
class ENASLoop(Settings):
    """How controller and shared weights take turns.

    Attributes:
        controller: name of the controller.
        controller_lr: Adam's rate on the controller (beta1 = 0 and eps = 1e-3, as in ENAS).
        warmup_steps: meta-steps at the start that train the shared weights alone, on uniformly drawn children.
        weights_steps: meta-steps on the shared weights in each turn. ENAS takes 352 per 50 steps of the controller.
        policy_steps: meta-steps on the controller in each turn.
        archs_per_task: architectures that one task rewards in a step of the controller. With meta_batch_size=4 the
            default of 5 averages 20 samples, as ENAS does.
        child_sampling: who draws the child that trains the shared weights after the warm-up: the policy, or uniform.
        strict_fairness: draw uniform children in groups in which every choice of a decision occurs equally often, and
            average over the group (FairNAS). Takes as many children per task as the widest decision has choices.
        baseline_decay: of the moving average of rewards that is the baseline.
        entropy_weight: weight of the policy's entropy in the objective, in reward units per nat.
        skip_target: prior probability of a skip connection, in spaces that decide on them.
        skip_weight: weight of the divergence from that prior, in reward units per nat.
    """

    controller: str = "ENAS"
    controller_lr: Positive = 1e-3
    warmup_steps: Number = 0
    weights_steps: Count = 1
    policy_steps: Count = 1
    archs_per_task: Count = 5
    child_sampling: Literal["policy", "uniform"] = "policy"
    strict_fairness: bool = False
    baseline_decay: Share = 0.99
    entropy_weight: NonNegative = 1e-4
    skip_target: Between = 0.4
    skip_weight: NonNegative = 0.8


class ENAS(ControllerSearch):
    """Efficient neural architecture search (Pham et al., ICML 2018, arXiv:1802.03268) over few-shot tasks.

    After the warm-up, turns of two kinds alternate. *Weights*: a child per task, adapted to the support set; the mean
    cross-entropy of its queries moves the shared weights (as in MAML, see ``inner``), the controller rests. *Policy*:
    the shared weights rest; ``archs_per_task`` children per task give rewards r (see ``scoring``), and
    the controller descends ``- mean (r + w_H H - b) log pi(a) - w_H H + w_skip KL(skips || prior)``, with advantages as
    numbers and b the moving average of ``r + w_H H`` over earlier policy steps. The policy is never adapted to a task:
    this is the multi-task baseline of MAMLENAS.

    Deviations: fast weights per task instead of one classifier; Adam on the shared weights as set by ``outer`` (there:
    Nesterov SGD with restarts, which outer_schedule=sgdr has here); the baseline starts at the first step's
    leave-one-out mean (there: 0, which makes the first hundreds of advantages positive) and the first average is taken
    whole; the entropy's gradient is exact, its direct part beside the score part (there: the score part alone); skips
    are pulled by the probability they are sampled with. The derivation ranks on validation episodes, where the authors'
    code only prints samples.

    Args:
        net: the supernet.
        inner: the inner loop of every child; without effect under a closed-form head.
        scoring: what a child classifies with and is rewarded for.
        loop: the turns and the controller.
        outer: the outer loop of the shared weights.
        derivation: how the search ends: the greedy architecture and samples compete on validation episodes.
        seed: names every random stream of the run.

    Attributes:
        baseline: the moving average of rewards; None before the first step of the controller.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        inner: InnerLoop = InnerLoop(),
        scoring: Scoring = Scoring(),
        loop: ENASLoop = ENASLoop(),
        outer: OuterLoop = OuterLoop(),
        derivation: Derivation = Derivation(),
        seed: int = 0,
    ) -> None:
        super().__init__(
            net, inner=inner, scoring=scoring, outer=outer, derivation=derivation, controller=loop.controller, seed=seed
        )
        self.loop = loop
        self.baseline: float | None = None
        self.hparams.update(dataclasses.asdict(loop))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The shared weights at outer_lr, and the controller with ENAS' settings of Adam and no weight decay."""
        return [
            {"params": [p for p in self.supernet.parameters() if p.requires_grad]},
            self.controller_group(self.loop.controller_lr, betas=(0.0, 0.999), eps=1e-3),
        ]

    # ---- turns ----------------------------------------------------------------------------------------------------

    def phase(self, meta_step: int) -> Phase:
        """Return what a meta-step trains; a function of its number alone, so that a resumed run goes on in turn."""
        if meta_step < self.loop.warmup_steps:
            return "warmup"
        turn = (meta_step - self.loop.warmup_steps) % (self.loop.weights_steps + self.loop.policy_steps)
        return "weights" if turn < self.loop.weights_steps else "policy"

    def update(self, batch: Episode) -> dict[str, float]:
        """One step of the shared weights or of the controller, whose turn it is; the latter moves the baseline."""
        scalars = super().update(batch)
        if self.phase(self.meta_step) == "policy":
            returned = scalars["controller/reward"] + self.loop.entropy_weight * scalars["controller/entropy"]
            decay = self.loop.baseline_decay
            self.baseline = returned if self.baseline is None else decay * self.baseline + (1 - decay) * returned
        return scalars

    def task_loss(self, task: Task) -> TaskLoss:
        """Loss of the shared weights, or of the policy, whose turn it is."""
        if self.phase(self.meta_step) == "policy":
            return self.controller_loss(task)
        loss, accuracy = self.supernet_children.mean_loss(task, self.trained_children(task))
        return loss, {"train/loss": loss, "train/accuracy": accuracy}

    def controller_loss(self, task: Task) -> TaskLoss:
        """Policy loss of one task, see the class; and its reward, baseline and entropy."""
        tried = self.sampled(task, "reward", self.loop.archs_per_task)
        rewards = torch.tensor([self.supernet_children.reward(a, task) for a in tried], device=self.device)
        rollouts = [self.controller(torch.tensor(a, dtype=torch.int64, device=self.device)) for a in tried]
        log_probs = torch.stack([rollout.log_prob for rollout in rollouts])
        entropies = torch.stack([rollout.entropy for rollout in rollouts])
        returns = rewards + self.loop.entropy_weight * entropies.detach()
        baselines = leave_one_out(returns) if self.baseline is None else torch.full_like(returns, self.baseline)
        loss = policy_loss(log_probs, returns - baselines) - self.loop.entropy_weight * entropies.mean()
        if self.loop.skip_weight and "skip" in self.kinds:
            per_decision = torch.stack([rollout.log_probs for rollout in rollouts])
            prior = mean_skip_prior_kl(per_decision, tried, self.kinds, self.loop.skip_target)
            loss = loss + self.loop.skip_weight * prior
        return loss, {
            "controller/policy_loss": loss,
            "controller/reward": rewards.mean(),
            "controller/baseline": baselines.mean(),
            "controller/entropy": entropies.mean(),
        }

    # ---- samples --------------------------------------------------------------------------------------------------

    def sampled(self, task: Task, purpose: str, count: int) -> list[Decisions]:
        """Sample architectures from the policy."""
        stream = self.task_stream(purpose, task)
        with torch.no_grad():
            return [
                self.supernet.limits.sample(lambda: tuple(self.controller.sample(stream).decisions.tolist()))
                for _ in range(count)
            ]

    def trained_children(self, task: Task) -> list[Decisions]:
        """Return the architectures whose loss trains the shared weights on one task in this step."""
        if self.phase(self.meta_step) != "warmup" and self.loop.child_sampling == "policy":
            return self.sampled(task, "child", 1)
        return uniform_paths(
            self.supernet.limits, self.task_stream("uniform", task), fair=self.loop.strict_fairness
        )

    # ---- search -----------------------------------------------------------------------------------------------------

    def rewards_spent(self, meta_batch_size: int) -> int:
        """``archs_per_task`` reward calls per task in the steps of the controller; the others need none."""
        steps = sum(self.phase(step) == "policy" for step in range(self.meta_step))
        return steps * meta_batch_size * self.loop.archs_per_task

    # ---- checkpoints ------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the baseline to what the base class saves."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[KEY]["baseline"] = self.baseline

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the baseline too."""
        super().on_load_checkpoint(checkpoint)
        self.baseline = checkpoint[KEY]["baseline"]
