"""A reward table as an environment: meta-learn a controller in milliseconds per step, without a network.

Tasks are drawn from the table, rewards are looked up. The inner step sees one replicate of a task, the outer reward
comes from another one. The search on networks shares its estimators, baselines, controllers and objective with this
one. Here all tasks of a meta-batch are looked up and descended at once.

Shapes: B tasks, K inner and M outer architectures of each, L decisions, D length of the task embedding.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from few_shot_nas.controllers import CONTROLLERS
from few_shot_nas.controllers.rows import ControllerRows, RowsPolicy
from few_shot_nas.errors import InputError
from few_shot_nas.meta.control_variates import ControlVariate, Evidence, MovingAverage
from few_shot_nas.meta.estimators import ESTIMATORS, Estimator
from few_shot_nas.meta.functional import Params, trainable
from few_shot_nas.meta.gradient_signal import GradientWindow, flat_gradient
from few_shot_nas.meta.policy_objective import AdaptedPolicy, PolicyGradient, PolicyLoss, PolicyObjective
from few_shot_nas.ranges import Count, Positive
from few_shot_nas.registry import lookup
from few_shot_nas.seeding import derived_seed, generator
from few_shot_nas.tabular.environment import Environment, RewardColumn


@dataclass(frozen=True)
class SimulatedLoop(PolicyGradient):
    """How a controller is adapted and updated on a table; what :class:`PolicyGradient` has, and what a table needs.

    Attributes:
        controller: LSTM or Factorised.
        adapts: whether there is an inner step. Without it the outer samples train the controller alone.
        kl_target: if set, the inner step size is moved towards this KL(clone || controller) in nats while training.
        inner_reward: what the inner step sees; loo_accuracy and loo_loss need no query labels.
        outer_reward: what the outer step sees.
        common: whether the K rewards of a task share one replicate (common random numbers). If not, each reward draws
            its replicate anew, never that of the outer reward; this needs three replicates.
        conditioned: whether the controller gets the task embedding.
        tasks: tasks per meta-step B.
    """

    controller: str = "LSTM"
    adapts: bool = True
    kl_target: Positive | None = None
    inner_reward: RewardColumn = "loo_loss"
    outer_reward: RewardColumn = "accuracy"
    common: bool = True
    conditioned: bool = False
    tasks: Count = 8

    @property
    def tried(self) -> int:
        """Architectures that are drawn before the clone: K, or 0 without an inner step."""
        return self.inner_archs if self.adapts else 0

    def rescores(self) -> bool:
        """Return whether the architectures that were tried are rewarded a second time, as the outer step rewards.

        Two terms subtract such a number from an outer reward: the correction of the gradient, and the per-task
        baseline. Where both steps have the same kind of reward, the first reward serves. In MAMLENAS a reward costs a
        network. There the correction takes the average outer reward of the steps before instead, and the per-task
        baseline is refused.
        """
        used = self.make_estimator().corrected or self.outer_baseline == "per_task"
        return self.adapts and self.inner_reward != self.outer_reward and used

    def calls_per_step(self) -> int:
        """Return the reward calls of one meta-step."""
        inner, outer = self.baselines()
        tried = self.tried + inner.greedy if self.adapts else 0
        return self.tasks * (tried * (2 if self.rescores() else 1) + self.outer_archs + outer.greedy)


class Trained(NamedTuple):
    """A controller after training on a table.

    Attributes:
        loop: how it was trained.
        rows: the controller.
        params: its parameters.
        inner_lr: the step size at the end.
        reward_calls: rewards that were looked up.
        average: moving average of the inner rewards.
        facts: kl_adapt_train, entropy_fraction and train_reward over the last fifth of the steps, grad_snr over the
            second half of them, inner_lr at the end, and meta_steps. What no step told is None.
        scale: shift and scale of the task embedding.
    """

    loop: SimulatedLoop
    rows: ControllerRows
    params: Params
    inner_lr: float
    reward_calls: int
    average: MovingAverage
    facts: dict[str, float | None]
    scale: tuple[Tensor, Tensor]

    def context(self, environment: Environment, tasks: Tensor) -> Tensor | None:
        """Return the standardised embeddings of tasks, ``[B, D]``; None for a controller without them."""
        if not self.loop.conditioned:
            return None
        return (environment.embedding[tasks] - self.scale[0]) / self.scale[1]


@dataclass
class _State:
    """What changes while a controller is trained."""

    params: Params
    inner_lr: float
    averages: tuple[MovingAverage, MovingAverage] = (MovingAverage(), MovingAverage())  # inner and outer reward
    window: GradientWindow = field(default_factory=GradientWindow)
    logged: list[tuple[float, float, float]] = field(default_factory=list)


def new_controller(loop: SimulatedLoop, environment: Environment, seed: int) -> ControllerRows:
    """Return a controller as it starts; its initial parameters depend on the seed alone.

    Raises:
        InputError: for a controller that there is not, or that cannot take many decisions at once.
    """
    kinds = ["op"] * len(environment.sizes)
    dim = environment.embedding.shape[1] if loop.conditioned else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "controller"))
        made = lookup(CONTROLLERS, loop.controller, "controller")(environment.sizes, kinds, embedding_dim=dim)
    return ControllerRows(made)


def over_tasks(
    function: Callable[..., Any], rows: ControllerRows, context: Tensor | None, *batched: Tensor | Params
) -> Any:
    """Map ``function(policy, *batched)`` over the tasks, which are the leading axis of ``context`` and ``batched``."""

    def one(own: Tensor | None, *given: Any) -> Any:
        return function(RowsPolicy(rows, own), *given)

    in_dims = (None if context is None else 0, *[0] * len(batched))
    return vmap(one, in_dims=in_dims, randomness="error")(context, *batched)


def clones_of(
    rows: ControllerRows,
    estimator: Estimator,
    params: Params,
    context: Tensor | None,
    tried: Tensor,
    advantages: Tensor,
    lr: float,
) -> Params:
    """Return the clones of B tasks, every tensor with a leading axis B."""
    with torch.no_grad():
        clones: Params = over_tasks(
            lambda policy, archs, advantage: estimator.adapt(policy.log_probs, params, archs, advantage, lr=lr),
            rows,
            context,
            tried,
            advantages,
        )
    return clones


def baseline_values(
    baseline: ControlVariate, rewards: Tensor, inner: Tensor, average: MovingAverage, greedy: Tensor | None
) -> Tensor:
    """Return the baseline of every sample of B tasks, ``[B, n]``."""
    likeliest = [None] * len(rewards) if greedy is None else greedy.flatten().tolist()
    return torch.stack(
        [baseline.value(Evidence(r, i, average, g)) for r, i, g in zip(rewards, inner, likeliest, strict=True)]
    )


def _draw_replicates(environment: Environment, loop: SimulatedLoop, stream: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the inner replicates ``[B, K]`` and the outer one ``[B, 1]``, never the same."""
    outer = torch.randint(environment.replicates, (loop.tasks, 1), generator=stream)
    width = 1 if loop.common else loop.tried
    if not loop.common and environment.replicates < 3:
        raise InputError("common=False: needs a table with 3 replicates or more, two for the inner rewards")
    offset = torch.randint(1, environment.replicates, (loop.tasks, width), generator=stream)
    return ((outer + offset) % environment.replicates).expand(-1, loop.tried), outer


class Training(NamedTuple):
    """What a meta-step works with.

    Attributes:
        rows: the controller.
        loop: how it is trained.
        environment: the table that rewards are looked up in.
        state: what the step changes.
        scale: shift and scale of the task embedding.
        stream: where all draws come from.
    """

    rows: ControllerRows
    loop: SimulatedLoop
    environment: Environment
    state: _State
    scale: tuple[Tensor, Tensor]
    stream: torch.Generator


class _Samples(NamedTuple):
    """Architectures of one meta-batch and what the estimator needs of their rewards, each with a leading axis B."""

    context: Tensor | None
    tried: Tensor
    advantages: Tensor
    prior_value: Tensor
    chosen: Tensor
    outer: Tensor
    outer_value: Tensor


def _draw_and_reward(training: Training) -> _Samples:
    """Draw tasks, architectures of the policy and of its clones, and look up their rewards; move the averages."""
    rows, loop, environment, state, scale, stream = training
    estimator, (inner_baseline, outer_baseline) = loop.make_estimator(), loop.baselines()
    tasks = torch.randint(environment.tasks, (loop.tasks,), generator=stream)
    inner_replicate, outer_replicate = _draw_replicates(environment, loop, stream)
    uniforms = torch.rand(loop.tasks, loop.tried + loop.outer_archs, len(environment.sizes), generator=stream)
    first, second = uniforms.split((loop.tried, loop.outer_archs), dim=1)
    context = (environment.embedding[tasks] - scale[0]) / scale[1] if loop.conditioned else None
    start = {name: value.detach() for name, value in state.params.items()}
    many = {name: value.expand(loop.tasks, *value.shape) for name, value in start.items()}

    def value(
        baseline: ControlVariate, kind: int, rewards: Tensor, inner: Tensor, params: Params, where: Tensor
    ) -> Tensor:
        likeliest = None
        if baseline.greedy:
            archs = over_tasks(RowsPolicy.greedy, rows, context, params)
            likeliest = environment.rewards((loop.inner_reward, loop.outer_reward)[kind], archs, tasks, where)
        return baseline_values(baseline, rewards, inner, state.averages[kind], likeliest)

    clones, tried = many, first.long()
    inner = prior = advantages = prior_value = first.sum(2)  # [B, 0] without an inner step
    if loop.adapts:
        tried = over_tasks(RowsPolicy.sample, rows, context, many, first)
        inner = environment.rewards(loop.inner_reward, tried, tasks, inner_replicate)
        inner_value = value(inner_baseline, 0, inner, inner, many, inner_replicate[:, :1])
        advantages = inner - inner_value
        # From outer rewards an outer reward is subtracted: that of the same children, scored as the outer step does.
        prior, prior_value = inner, inner_value
        if loop.rescores():
            prior = environment.rewards(loop.outer_reward, tried, tasks, inner_replicate)
            prior_value = value(inner_baseline, 1, prior, prior, many, inner_replicate[:, :1])
        clones = clones_of(rows, estimator, start, context, tried, advantages, state.inner_lr)
    chosen = over_tasks(RowsPolicy.sample, rows, context, clones, second)
    outer = environment.rewards(loop.outer_reward, chosen, tasks, outer_replicate.expand(-1, loop.outer_archs))
    outer_value = value(outer_baseline, 1, outer, prior, clones, outer_replicate)
    same_kind = loop.rescores() or loop.inner_reward == loop.outer_reward
    before = prior if loop.adapts and same_kind else outer
    means = (inner if loop.adapts else outer).mean(), before.mean()
    updated = [old.updated(float(new), loop.baseline_decay) for old, new in zip(state.averages, means, strict=True)]
    state.averages = updated[0], updated[1]
    return _Samples(context, tried, advantages, prior_value, chosen, outer, outer_value)


def meta_step(training: Training) -> Tensor:
    """Return the outer loss of a meta-batch, differentiable in ``state.params``; write what is logged to ``state``."""
    rows, loop, state = training.rows, training.loop, training.state
    estimator = loop.make_estimator() if loop.adapts else ESTIMATORS["fomaml"]
    objective = PolicyObjective(estimator, loop.entropy_weight, loop.entropy_gradient)
    samples = _draw_and_reward(training)

    def terms(policy: RowsPolicy, *given: Any) -> PolicyLoss:
        tried, advantages, prior_value, chosen, outer, outer_value = given
        clone = state.params
        if loop.adapts:
            clone = estimator.adapt(policy.log_probs, state.params, tried, advantages, lr=state.inner_lr)
        adapted = AdaptedPolicy(clone, tried, advantages, torch.zeros_like(advantages))
        return objective(policy, state.params, adapted, chosen, outer, outer_value, prior_value)

    loss, entropy, kl = over_tasks(terms, rows, *samples)
    state.logged.append((kl.mean().item(), entropy.mean().item(), samples.outer.mean().item()))
    total: Tensor = loss.mean()
    return total


def train(loop: SimulatedLoop, environment: Environment, *, reward_calls: int, seed: int) -> Trained:
    """Meta-learn a controller with a budget of reward calls.

    Args:
        loop: the settings.
        environment: the table to draw tasks from.
        reward_calls: the budget; as many whole meta-steps as it allows are taken.
        seed: of the controller's start and of all draws.

    Raises:
        InputError: for a controller that there is not or cannot take many decisions at once, for ``common=False`` on
            fewer than three replicates, and for a reward that the table does not have.
    """
    rows = new_controller(loop, environment, seed)
    state = _State(trainable(rows), loop.controller_inner_lr)
    spread = environment.embedding.std(0, correction=0)
    scale = environment.embedding.mean(0), torch.where(spread > 1e-6, spread, torch.ones_like(spread))
    optimizer = torch.optim.Adam(state.params.values(), lr=loop.controller_lr)
    training = Training(rows, loop, environment, state, scale, generator(seed, "simulator"))
    steps = reward_calls // loop.calls_per_step()
    for step in range(steps):
        optimizer.zero_grad()
        loss = meta_step(training)
        torch.autograd.backward(loss)
        if step >= steps // 2:
            state.window = state.window.add(flat_gradient(rows.parameters()))
        optimizer.step()
        if loop.kl_target is not None and loop.adapts:
            # The KL grows with the square of the step size, so 0.5 would go all the way: 0.1 damps.
            ratio = loop.kl_target / max(state.logged[-1][0], 1e-8)
            state.inner_lr *= float(np.clip(ratio**0.1, 0.9, 1.1))
    recent = np.array(state.logged[-max(steps // 5, 1) :] or [(0.0, 0.0, 0.0)]).mean(0)
    facts: dict[str, float | None] = {
        "kl_adapt_train": float(recent[0]),
        "entropy_fraction": float(recent[1] / max(rows.max_entropy(), 1e-12)) if steps else None,
        "train_reward": float(recent[2]) if steps else None,
        "grad_snr": state.window.snr(),
        "inner_lr": state.inner_lr,
        "meta_steps": steps,
    }
    params = {name: value.detach() for name, value in state.params.items()}
    return Trained(loop, rows, params, state.inner_lr, steps * loop.calls_per_step(), state.averages[0], facts, scale)
