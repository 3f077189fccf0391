"""MAML over the ENAS controller: meta-learn a policy over architectures together with the supernet's weights."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call

from few_shot_nas.algorithms.controller_search import ControllerSearch
from few_shot_nas.algorithms.settings import (
    FIRST_ORDER,
    InnerLoop,
    OuterLoop,
    Scoring,
    require_positive,
)
from few_shot_nas.controllers import CONTROLLERS
from few_shot_nas.controllers.base import Rollout
from few_shot_nas.episode import Episode
from few_shot_nas.errors import InputError
from few_shot_nas.meta.baselines import (
    Baseline,
    Evidence,
    MovingAverage,
    legal_baseline,
)
from few_shot_nas.meta.entropy import EntropyGradient, entropy_bonus, kl_estimate
from few_shot_nas.meta.estimators import ESTIMATORS, Estimator, loaded_dice_estimator
from few_shot_nas.meta.functional import Params, trainable
from few_shot_nas.meta.gradient_signal import GradientWindow
from few_shot_nas.registry import lookup
from few_shot_nas.runtime.checkpoint import KEY
from few_shot_nas.search.derive import Decisions
from few_shot_nas.search.phases import two_phases


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
        estimator: how the controller's meta-gradient is estimated, see docs/estimators.md. naive differentiates
            through the clone's step, fomaml does not, emaml adds the effect on which architectures are tried.
        dice_lambda: decay of loaded_dice, 0 (lvc) to 1 (dice_inner); without effect on other estimators.
        inner_baseline: subtracted from the rewards of the clone's step, and in the estimator's correction if any.
        outer_baseline: subtracted from the rewards of the clone's samples. self_critical costs one reward call per task
            at each of the two places.
        baseline_decay: decay per meta-step of the moving average of the inner rewards.
        entropy_weight: weight of the clone's entropy in the outer objective, in reward units per nat.
        entropy_gradient: exact, or direct alone (biased, adds no noise), or the score term alone (as in ENAS).
    """

    controller: str = "LSTM"
    controller_inner_lr: float = 1.0
    controller_lr: float = 1e-3
    inner_archs: int = 2
    outer_archs: int = 1
    estimator: Literal["fomaml", "naive", "emaml", "fo_emaml", "dice_full", "dice_inner", "loaded_dice", "lvc"] = (
        "naive"
    )
    dice_lambda: float = 1.0
    inner_baseline: Literal["none", "moving_average", "leave_one_out", "self_critical"] = "leave_one_out"
    outer_baseline: Literal["none", "moving_average", "per_task", "leave_one_out", "self_critical"] = "per_task"
    baseline_decay: float = 0.99
    entropy_weight: float = 1e-4
    entropy_gradient: EntropyGradient = "direct"

    def __post_init__(self) -> None:
        require_positive(self, "controller_inner_lr", "controller_lr", "inner_archs", "outer_archs")
        self.make_estimator()
        self.baselines()
        if not 0 <= self.baseline_decay < 1:
            raise InputError(f"baseline_decay={self.baseline_decay}: must lie in 0 .. 1, without 1")
        if self.entropy_gradient not in get_args(EntropyGradient):
            raise InputError(
                f"entropy_gradient={self.entropy_gradient}: unknown. Choices: {', '.join(get_args(EntropyGradient))}"
            )

    def make_estimator(self) -> Estimator:
        """Return the estimator that the flags name."""
        chosen = lookup(ESTIMATORS, self.estimator, "estimator")
        return loaded_dice_estimator(self.dice_lambda) if self.estimator == "loaded_dice" else chosen

    def baselines(self) -> tuple[Baseline, Baseline]:
        """Return the inner baseline, legal in a correction too, and the outer one."""
        inner = legal_baseline(self.inner_baseline, "inner", "inner_baseline")
        legal_baseline(self.inner_baseline, "correction", "inner_baseline")
        return inner, legal_baseline(self.outer_baseline, "outer", "outer_baseline")


class MAMLENAS(ControllerSearch):
    """Meta-learn an ENAS controller by MAML, sharing the children's weights over tasks.

    Per task, following the published experiment: clone the controller; sample K children, adapt each on train1 and
    reward it on val1; take one policy-gradient step on the clone; sample M children from the clone, adapt them on
    train2, reward them on val2; the gradient of their policy loss flows back through the clone's step into the
    controller, and the gradient of their query loss into the shared weights. See docs/maml_enas.md for the equations.

    The meta-gradient's estimator and the baselines are flags; docs/estimators.md has their formulas and exact errors.

    Deviations from the experiment: children adapt fast weights that are dropped afterwards (it trained the shared
    weights in place, against contradicting label permutations); K = 2 with a leave-one-out baseline and the mean inner
    reward as the outer baseline (it had K = 1 and none).

    Evaluation uses the greedy architecture of the meta-learned controller: a reward would need query labels, which a
    task at test time does not have.

    Args:
        net: the supernet.
        inner: the inner loop of every child; without effect under a closed-form head.
        scoring: what a child classifies with.
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
        "controller/entropy_fraction",
        "controller/inner_reward",
        "controller/kl_adapt",
    )

    def __init__(
        self,
        net: nn.Module,
        *,
        inner: InnerLoop = FIRST_ORDER,
        scoring: Scoring = Scoring(),
        policy: ControllerLoop = ControllerLoop(),
        outer: OuterLoop = OuterLoop(),
        derive_candidates: int = 10,
        derive_episodes: int = 20,
        seed: int = 0,
    ) -> None:
        super().__init__(
            net,
            inner=inner,
            scoring=scoring,
            outer=outer,
            derive_candidates=derive_candidates,
            derive_episodes=derive_episodes,
            seed=seed,
        )
        self.policy = policy
        self.estimator = policy.make_estimator()
        self.inner_baseline, self.outer_baseline = policy.baselines()
        self.reward_average = MovingAverage()
        self._gradients = GradientWindow()
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
        """Sample architectures from the task's stream of this phase."""
        stream = self.task_stream(phase, task)
        with torch.no_grad():
            return [tuple(self.rollout(params, generator=stream).decisions.tolist()) for _ in range(count)]

    def rollouts(self, params: Params, architectures: Sequence[Decisions]) -> tuple[Tensor, Tensor]:
        """Replay n architectures under ``params``: log-probabilities and entropies of all decisions, ``[n, L]``."""
        own = [self.rollout(params, decisions=self._as_tensor(a)) for a in architectures]
        return torch.stack([r.log_probs for r in own]), torch.stack([r.entropies for r in own])

    def log_probs(self, params: Params, architectures: Sequence[Decisions]) -> Tensor:
        """Log-probability of each decision of n architectures under ``params``, ``[n, L]``."""
        return self.rollouts(params, architectures)[0]

    def _as_tensor(self, decisions: Decisions) -> Tensor:
        return torch.tensor(decisions, dtype=torch.int64, device=self.device)

    def subtracted(self, baseline: Baseline, rewards: Tensor, inner: Tensor, params: Params, task: Episode) -> Tensor:
        """Value of a baseline for the rewarded samples of the policy ``params`` on ``task``, one per sample."""
        greedy = None
        if baseline.greedy:
            with torch.no_grad():
                likeliest = tuple(self.rollout(params, greedy=True).decisions.tolist())
            greedy = self.reward(likeliest, task)
        return baseline.value(Evidence(rewards, inner, self.reward_average, greedy))

    def task_loss(self, task: Episode) -> tuple[Tensor, list[Tensor]]:
        """Outer loss of the shared weights plus outer policy loss of the controller; they share no parameter."""
        first, second = two_phases(task)
        own = trainable(self.controller)
        tried = self.draw(own, task, "inner", self.policy.inner_archs)
        inner_rewards = torch.tensor([self.reward(a, first) for a in tried], device=self.device)
        inner_baseline = self.subtracted(self.inner_baseline, inner_rewards, inner_rewards, own, first)
        clone = self.estimator.adapt(
            self.log_probs, own, tried, inner_rewards - inner_baseline, lr=self.policy.controller_inner_lr
        )

        chosen = self.draw(clone, task, "outer", self.policy.outer_archs)
        children = [self.weights_loss(second, self.supernet.space.decode(a)) for a in chosen]
        weights_loss = torch.stack([loss for loss, _ in children]).mean()
        outer_rewards = torch.stack([reward.to(inner_rewards.dtype) for _, reward in children])
        baseline = self.subtracted(self.outer_baseline, outer_rewards, inner_rewards, clone, second)
        log_probs, entropies = self.rollouts(clone, chosen)
        outer_policy_loss = self.estimator.loss(
            log_probs,
            outer_rewards,
            baseline,
            self.log_probs(own, tried) if self.estimator.corrected else None,
            inner_baseline,
        )
        entropy = entropy_bonus(log_probs, entropies, self.policy.entropy_gradient)
        with torch.no_grad():
            kl = kl_estimate(log_probs, self.log_probs(own, chosen))
        loss = weights_loss + outer_policy_loss - self.policy.entropy_weight * entropy
        reward = outer_rewards.mean()
        fraction = entropy / max(self.controller.max_entropy(), 1e-12)
        return loss, [weights_loss, reward, reward, baseline.mean(), entropy, fraction, inner_rewards.mean(), kl]

    # ---- what outlives a step ---------------------------------------------------------------------------------------

    def _check_and_clip(self) -> None:
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.controller.parameters()]
        self._gradients = self._gradients.add(torch.cat([g.flatten() for g in gradients]))
        super()._check_and_clip()

    def _after_update(self, means: list[float]) -> None:
        inner_reward = means[self.logged.index("controller/inner_reward")]
        self.reward_average = self.reward_average.updated(inner_reward, self.policy.baseline_decay)
        super()._after_update(means)

    def log_row(self, metrics: dict[str, float]) -> None:
        """Write one row; those of training get the signal-to-noise ratio of the controller's recent meta-gradients."""
        if "train/loss" in metrics:
            snr = self._gradients.snr()
            metrics = metrics if snr is None else {**metrics, "controller/grad_snr": snr}
            self._gradients = GradientWindow()
        super().log_row(metrics)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the moving average and the window of meta-gradients."""
        super().on_save_checkpoint(checkpoint)
        steps, total, square = self._gradients
        checkpoint[KEY]["reward_average"] = list(self.reward_average)
        checkpoint[KEY]["gradients"] = {"steps": steps, "total": total, "square": square}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the moving average and the window of meta-gradients."""
        super().on_load_checkpoint(checkpoint)
        self.reward_average = MovingAverage(*checkpoint[KEY]["reward_average"])
        window = checkpoint[KEY]["gradients"]
        total = None if window["total"] is None else window["total"].to(self.device)
        self._gradients = GradientWindow(window["steps"], total, window["square"])

    # ---- search -----------------------------------------------------------------------------------------------------

    def rewards_spent(self, meta_batch_size: int) -> int:
        """K inner and M outer reward calls per task, and one for each self-critical baseline."""
        greedy = self.inner_baseline.greedy + self.outer_baseline.greedy
        return self.meta_step * meta_batch_size * (self.policy.inner_archs + self.policy.outer_archs + greedy)
