"""MAML over the ENAS controller: meta-learn a policy over architectures together with the supernet's weights."""

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from few_shot_nas.algorithms.outer_step import TaskLoss
from few_shot_nas.algorithms.controller_search import ControllerSearch
from few_shot_nas.algorithms.maml_enas_settings import ControllerLoop, MetaTest, SharedWeights, check_together
from few_shot_nas.algorithms.settings import FIRST_ORDER, InnerLoop, OuterLoop, Phase, Scoring
from few_shot_nas.controllers.policy import TaskPolicy
from few_shot_nas.episode import Episode, SingleTask, SupportSet, Task, UnlabelledTask, tasks
from few_shot_nas.errors import InputError
from few_shot_nas.meta.control_variates import ControlVariate, Evidence, MovingAverage
from few_shot_nas.meta.functional import Params, trainable
from few_shot_nas.meta.gradient_signal import GradientWindow, flat_gradient
from few_shot_nas.meta.policy_objective import AdaptedPolicy, PolicyObjective, TaskSamples
from few_shot_nas.meta.promp import promp
from few_shot_nas.runtime.checkpoint import KEY
from few_shot_nas.runtime.gradients import average_buffers, gather_rows, world
from few_shot_nas.search.derivation import Decisions, Derivation
from few_shot_nas.search.search_result import SearchResult
from few_shot_nas.search.rewards import QueryReward, RewardFunction, SupportReward, reward_named
from few_shot_nas.search.single_path import uniform_paths
from few_shot_nas.search.two_draws import two_draws
from few_shot_nas.seeding import generator
from few_shot_nas.spaces.genotype import Genotype
from few_shot_nas.stats.statistics import accuracy

ArchitectureReward = Callable[[Decisions], float]
#: Decay per meta-step of the mean task embedding.
EMBEDDING_DECAY = 0.99


class MAMLENAS(ControllerSearch):
    """Meta-learn an ENAS controller by MAML, sharing the children's weights over tasks.

    Per task, following the published experiment: clone the controller; sample K children, adapt each on train1 and
    reward it on val1; take one policy-gradient step on the clone; sample M children from the clone, adapt them on
    train2, reward them on val2; the gradient of their policy loss flows back through the clone's step into the
    controller, and the gradient of their query loss into the shared weights. See docs/maml_enas.md for the equations.

    The meta-gradient's estimator and the baselines are flags; docs/estimators.md has their formulas and exact errors.

    Deviations from the experiment, each of which a flag takes back: children adapt fast weights that are dropped
    afterwards (it trained the shared weights in place, against contradicting label permutations); K = 2 with a
    leave-one-out baseline and the mean inner reward as the outer baseline (it had K = 1 and none).

    Evaluation uses the greedy architecture of the meta-learned controller, or of a clone that adapts to the task by a
    reward without query labels (``test_reward``).

    Args:
        net: the supernet.
        inner: the inner loop of every child; without effect under a closed-form head.
        scoring: what a child classifies with and is rewarded for.
        loop: how the controller is adapted and updated.
        shared: how and when the shared weights are trained.
        test: what happens to the controller at meta-test.
        outer: the outer loop of the shared weights.
        derivation: how the search ends: the greedy architecture and samples compete on validation episodes.
        seed: names every random stream of the run.

    Attributes:
        scoring_calls: reward calls of this rank on tasks of a validation or test that are not counted yet.
        validation_calls: reward calls in the validations of training, of all ranks.
    """

    mean_embedding: Tensor

    def __init__(
        self,
        net: nn.Module,
        *,
        inner: InnerLoop = FIRST_ORDER,
        scoring: Scoring = Scoring(),
        loop: ControllerLoop = ControllerLoop(),
        shared: SharedWeights = SharedWeights(),
        test: MetaTest = MetaTest(),
        outer: OuterLoop = OuterLoop(),
        derivation: Derivation = Derivation(),
        seed: int = 0,
    ) -> None:
        super().__init__(
            net, inner=inner, scoring=scoring, outer=outer, derivation=derivation, controller=loop.controller,
            task_embedding=loop.task_embedding, seed=seed,
        )  # fmt: skip
        check_together(loop, shared, scoring, test)
        self.loop, self.shared, self.meta_test = loop, shared, test
        self.inner_reward_function = reward_named(loop.inner_reward or scoring.reward, "inner_reward", scoring.head)
        self.test_reward_function = test.reward_function(scoring.head)
        self.estimator = loop.make_estimator()
        self.objective = PolicyObjective(
            self.estimator, loop.entropy_weight, loop.entropy_gradient, self.kinds, loop.skip_target, loop.skip_weight
        )
        self.inner_baseline, self.outer_baseline = loop.baselines()
        self.reward_average = self.outer_average = MovingAverage()
        self._gradients = GradientWindow()
        self._samples: list[TaskSamples] = []
        self.scoring_calls = self.validation_calls = 0
        if loop.task_embedding:
            self.register_buffer("mean_embedding", torch.zeros(self.supernet.embedding_dim))
        self._embeddings: list[Tensor] = []
        self.hparams.update({**dataclasses.asdict(loop), **dataclasses.asdict(shared), **dataclasses.asdict(test)})

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The shared weights at outer_lr and the controller at controller_lr, without weight decay on the policy."""
        return [
            {"params": [p for p in self.supernet.parameters() if p.requires_grad]},
            self.controller_group(self.loop.controller_lr),
        ]

    def setup(self, stage: str) -> None:
        """Refuse to train weights in place on several processes, where they would drift apart."""
        super().setup(stage)
        if stage == "fit" and self.shared.weights == "persistent" and world()[1] > 1:
            raise InputError("weights=persistent trains one copy in place; use one process (devices=1, num_nodes=1)")

    # ---- the policy -----------------------------------------------------------------------------------------------

    def on_task(self, task: SingleTask) -> TaskPolicy:
        """Return the controller in the context of a task, which comes from the support set alone."""
        if not self.loop.task_embedding:
            return TaskPolicy(self.controller)
        with torch.no_grad():
            return TaskPolicy(self.controller, self.supernet.task_embedding(task.support_x))

    def average_context(self) -> Tensor | None:
        """The mean embedding of the training tasks, which stands for no task in particular."""
        return self.mean_embedding if self.loop.task_embedding else None

    def draw(self, params: Params, task: SingleTask, purpose: str, count: int) -> list[Decisions]:
        """Sample architectures from the task's stream of this purpose, or from that of all tasks."""
        if purpose == "inner" and self.loop.share_archs:
            stream = generator(self.seed, "shared", self.meta_step)
        else:
            stream = self.task_stream(purpose, task)
        return self.sampled(self.on_task(task), params, stream, count)

    def sampled(self, policy: TaskPolicy, params: Params, stream: torch.Generator, count: int) -> list[Decisions]:
        """Sample architectures within the limits."""
        limits = self.supernet.limits
        if not limits.active:
            return policy.sample(params, stream, count)
        return [limits.sample(lambda: policy.sample(params, stream, 1)[0]) for _ in range(count)]

    def baseline_values(
        self, baseline: ControlVariate, rewards: Tensor, inner: Tensor, greedy: Callable[[], float]
    ) -> Tensor:
        """Return a baseline's value for each rewarded sample; ``greedy`` is called if the baseline needs its reward."""
        likeliest = greedy() if baseline.greedy else None
        return baseline.value(Evidence(rewards, inner, self.reward_average, likeliest))

    def tried_baseline(self, inner_baseline: Tensor) -> Tensor:
        """Return what the correction subtracts from outer rewards, ``[K]``; entry k does not depend on architecture k.

        Where the inner rewards are of another kind, it is the average outer reward of the steps before.
        """
        if self.inner_reward_function is self.supernet_children.reward_function or self.loop.inner_baseline == "none":
            return inner_baseline
        return torch.full_like(inner_baseline, self.outer_average.value)

    # ---- one task -------------------------------------------------------------------------------------------------

    def phase(self) -> Phase:
        """Return what this meta-step trains."""
        return self.shared.phase(self.meta_step)

    def trains_in_place(self) -> bool:
        """Whether children write their weights back in this meta-step."""
        return self.shared.weights == "persistent" and self.phase() == "joint"

    def keep(self, params: Params) -> None:
        """Make a child's fast weights the shared ones."""
        shared = dict(self.supernet.named_parameters())
        with torch.no_grad():
            for name, value in params.items():
                shared[name].copy_(value)

    def inner_reward(self, decisions: Decisions, task: Task) -> float:
        """Reward of an architecture that the controller tries on a training task."""
        if self.trains_in_place():
            return float(self.trained_child(decisions, task, self.inner_reward_function)[2])
        return self.supernet_children.reward(decisions, task, self.inner_reward_function)

    def trained_child(
        self, decisions: Decisions, task: Task, reward_function: RewardFunction
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Query loss, accuracy and reward of an architecture; the loss is differentiable if it trains the weights."""
        with torch.set_grad_enabled(self.phase() == "joint" and not self.trains_in_place()):
            child = self.supernet_children.adapted_child(task, self.supernet_children.decode(decisions))
        if self.trains_in_place():
            self.keep(child.weights)
        if isinstance(reward_function, QueryReward):
            reward = reward_function.score(child.logits.detach(), task)
        else:
            reward = torch.tensor(self.supernet_children.reward(decisions, task, reward_function), device=self.device)
        return child.loss, accuracy(child.logits, task.query_y), reward

    def task_loss(self, task: Task) -> TaskLoss:
        """Outer loss of the shared weights plus outer policy loss of the controller; they share no parameter."""
        if self.phase() == "warmup":
            return self._loss_of_uniform_paths(task)
        first, second = two_draws(task)
        policy, own = self.on_task(task), trainable(self.controller)
        if policy.context is not None:
            self._embeddings.append(policy.context)
        tried = self.draw(own, task, "inner", self.loop.inner_archs)
        adapted = self.adapt(policy, own, tried, lambda a: self.inner_reward(a, first))

        chosen = self.draw(adapted.clone, task, "outer", self.loop.outer_archs)
        children = [self.trained_child(a, second, self.supernet_children.reward_function) for a in chosen]
        weights_loss, query_accuracy = (torch.stack(column).mean() for column in list(zip(*children, strict=True))[:2])
        rewards = torch.stack([reward.to(adapted.rewards.dtype) for _, _, reward in children])
        baseline = self.baseline_values(
            self.outer_baseline,
            rewards,
            adapted.rewards,
            lambda: self.supernet_children.reward(policy.greedy(adapted.clone), second),
        )
        found = self.objective(policy, own, adapted, chosen, rewards, baseline, self.tried_baseline(adapted.baseline))
        if self.loop.promp_epochs > 1:
            inner = (tried, adapted.rewards - adapted.baseline)
            self._samples.append(TaskSamples(policy, inner, (chosen, rewards - baseline)))
        return weights_loss + found.loss, {
            "train/loss": weights_loss,
            "train/accuracy": query_accuracy,
            "controller/reward": rewards.mean(),
            "controller/baseline": baseline.mean(),
            "controller/entropy": found.entropy,
            "controller/entropy_fraction": found.entropy / max(self.controller.max_entropy(), 1e-12),
            "controller/inner_reward": adapted.rewards.mean(),
            "controller/kl_adapt": found.kl,
        }

    def _loss_of_uniform_paths(self, task: Task) -> TaskLoss:
        paths = uniform_paths(self.supernet.limits, self.task_stream("uniform", task), fair=self.shared.strict_fairness)
        loss, query_accuracy = self.supernet_children.mean_loss(task, paths)
        return loss, {"train/loss": loss, "train/accuracy": query_accuracy}

    def adapt(
        self, policy: TaskPolicy, params: Params, tried: list[Decisions], score: ArchitectureReward
    ) -> AdaptedPolicy:
        """Return the controller's clone after one step on K architectures, rewarded by ``score``."""
        rewards = torch.tensor([score(a) for a in tried], device=self.device)
        baseline = self.baseline_values(self.inner_baseline, rewards, rewards, lambda: score(policy.greedy(params)))
        lr = self.loop.controller_inner_lr
        clone = self.estimator.adapt(policy.log_probs, params, tried, rewards - baseline, lr=lr)
        return AdaptedPolicy(clone, tried, rewards, baseline)

    # ---- one meta-step ----------------------------------------------------------------------------------------------

    def update(self, batch: Episode) -> dict[str, float]:
        """One outer update; after the warm-up also of the controller, with ProMP several times on the same rewards."""
        if self.phase() == "warmup":
            return super().update(batch)
        before = {name: value.detach().clone() for name, value in trainable(self.controller).items()}
        self._samples, self._embeddings = [], []
        scalars = self.backward_mean(map(self.task_loss, tasks(batch)), len(batch.support_x))
        self._gradients = self._gradients.add(flat_gradient(self.controller.parameters()))
        self.descend_outer()
        for _ in range(self.loop.promp_epochs - 1):
            self._promp_step(before)
        decay = self.loop.baseline_decay
        self.reward_average = self.reward_average.updated(scalars["controller/inner_reward"], decay)
        self.outer_average = self.outer_average.updated(scalars["controller/reward"], decay)
        self._average_embeddings()
        return scalars

    def _promp_step(self, before: Params) -> None:
        """Descend ProMP's loss of the controller once more, on the rewards of this meta-step.

        Args:
            before: the parameters that drew the architectures.
        """
        own = trainable(self.controller)
        loop = self.loop
        weights = {"lr": loop.controller_inner_lr, "clip": loop.promp_clip, "kl_weight": loop.promp_kl_weight}
        losses = (promp(s.policy.log_probs, own, before, s.inner, s.outer, **weights) for s in self._samples)
        self.backward_mean(((loss, {"controller/promp_loss": loss}) for loss in losses), len(self._samples))
        self.descend_outer()

    def _average_embeddings(self) -> None:
        """Move the mean task embedding towards the embeddings of this meta-step's tasks, of all ranks."""
        if not self._embeddings:
            return
        steps = self.meta_step + 1 - self.shared.warmup_steps
        weight = max(1 - EMBEDDING_DECAY, 1 / max(steps, 1))
        self.mean_embedding.lerp_(torch.stack(self._embeddings).mean(0), weight)
        average_buffers(self)

    # ---- meta-test --------------------------------------------------------------------------------------------------

    def genotype_for(self, task: SingleTask) -> Genotype:
        """The architecture of the whole search; with task_embedding or test_reward the task's own greedy one."""
        if self.test_reward_function is None and not self.loop.task_embedding:
            return super().genotype_for(task)
        policy, params = self.on_task(task), trainable(self.controller)
        if self.test_reward_function is not None:
            params = self.adapted_controller(policy, params, task)
        own = self.supernet.space.decode(policy.greedy(params))
        return own if self.supernet.limits.admits(own) else super().genotype_for(task)

    def adapted_controller(self, policy: TaskPolicy, params: Params, task: SingleTask) -> Params:
        """Return the controller's clone after one step on K architectures that ``test_reward`` rewards."""
        if isinstance(self.test_reward_function, SupportReward):
            score = self.deployed_score(self.test_reward_function, task.support_set())
        elif isinstance(task, UnlabelledTask):
            raise InputError(
                f"test_reward={self.meta_test.test_reward}: needs the labels of the queries, which images to classify "
                "do not have; use a run whose test_reward needs none, such as support_loss"
            )
        else:
            score = self.oracle_score(task)
        tried = self.sampled(policy, params, self.task_stream("test", task), self.loop.inner_archs)
        self.scoring_calls += self.loop.inner_archs + self.inner_baseline.greedy
        return self.adapt(policy, params, tried, score).clone

    def deployed_score(self, reward_function: SupportReward, support: SupportSet) -> ArchitectureReward:
        """Return the reward of architectures on a task whose queries are not there to be seen."""
        return lambda decisions: self.supernet_children.support_reward(decisions, support, reward_function)

    def oracle_score(self, task: Task) -> ArchitectureReward:
        """Return the reward that knows the labels of the queries, which MetaTest grants only by name."""
        reward_function = cast(RewardFunction, self.test_reward_function)
        return lambda decisions: self.supernet_children.reward(decisions, task, reward_function)

    def take_scoring_calls(self) -> int:
        """Return ``scoring_calls`` of all ranks and count from 0 again. A collective: every rank must call it."""
        counted, self.scoring_calls = self.scoring_calls, 0
        return sum(gather_rows([counted]))

    def on_validation_epoch_end(self) -> None:
        """Log the validation, and count the rewards that adaptation to its tasks took."""
        super().on_validation_epoch_end()
        calls = self.take_scoring_calls()
        if self._datamodule() is not None:
            self.validation_calls += calls

    def on_test_epoch_end(self) -> None:
        """Count what adaptation to the test tasks cost, and say so if it used their labels."""
        super().on_test_epoch_end()
        if self.test_reward_function is None:
            return
        self.search_summary.update(self.meta_test.spent(self.take_scoring_calls(), self.search_summary))

    # ---- what outlives a step ---------------------------------------------------------------------------------------

    def end_window(self) -> dict[str, float]:
        """Return the signal-to-noise ratio of the controller's meta-gradients since the last row, if there are two."""
        snr, self._gradients = self._gradients.snr(), GradientWindow()
        return {**super().end_window(), **({} if snr is None else {"controller/grad_snr": snr})}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the moving averages, the window of meta-gradients and the reward calls of the validations."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[KEY]["validation_calls"] = self.validation_calls
        steps, total, square = self._gradients
        checkpoint[KEY]["reward_average"] = list(self.reward_average)
        checkpoint[KEY]["outer_average"] = list(self.outer_average)
        checkpoint[KEY]["gradients"] = {"steps": steps, "total": total, "square": square}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what :meth:`on_save_checkpoint` adds."""
        super().on_load_checkpoint(checkpoint)
        # Checkpoints of versions without these begin to count where they are continued.
        self.validation_calls = checkpoint[KEY].get("validation_calls", 0)
        self.reward_average = MovingAverage(*checkpoint[KEY]["reward_average"])
        # Checkpoints of versions without it begin to average where they are continued.
        self.outer_average = MovingAverage(*checkpoint[KEY].get("outer_average", MovingAverage()))
        window = checkpoint[KEY]["gradients"]
        total = None if window["total"] is None else window["total"].to(self.device)
        self._gradients = GradientWindow(window["steps"], total, window["square"])

    # ---- search -----------------------------------------------------------------------------------------------------

    def end_search(self, datamodule: Any) -> SearchResult:
        """Derive; the rewards of the validations stand beside ``reward_calls``, by which searches are compared."""
        found = super().end_search(datamodule)
        if not self.validation_calls:
            return found
        return dataclasses.replace(found, cost={**found.cost, "reward_calls_validation": self.validation_calls})

    def rewards_spent(self, meta_batch_size: int) -> int:
        """K inner and M outer reward calls per task after the warm-up, and one for each self-critical baseline."""
        greedy = self.inner_baseline.greedy + self.outer_baseline.greedy
        steps = max(self.meta_step - self.shared.warmup_steps, 0)
        return steps * meta_batch_size * (self.loop.inner_archs + self.loop.outer_archs + greedy)
