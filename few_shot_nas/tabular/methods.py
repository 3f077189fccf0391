"""Methods that choose an architecture for each test task of a reward table, and what each of them costs. Pure.

Every method is scored alike: query accuracy on a replicate of the task that the method did not see, the mean over all
replicates. Shapes: A architectures, T test tasks, R replicates, K reward calls per test task.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from few_shot_nas.controllers.rows import ControllerRows, RowsPolicy
from few_shot_nas.errors import InputError
from few_shot_nas.meta.entropy import kl_estimate
from few_shot_nas.meta.estimators import ESTIMATORS
from few_shot_nas.meta.functional import Params, trainable
from few_shot_nas.seeding import generator
from few_shot_nas.tabular.environment import Environment, RewardColumn
from few_shot_nas.tabular.selection import Selection
from few_shot_nas.tabular.simulator import (
    SimulatedLoop,
    Trained,
    baseline_values,
    clones_of,
    new_controller,
    over_tasks,
    train,
)

#: Test tasks that are adapted at once.
_CHUNK = 250
LABEL_FREE: tuple[RewardColumn, ...] = ("loo_accuracy", "loo_loss")


class Setting(NamedTuple):
    """What all methods share.

    Attributes:
        train: the table on which methods learn.
        test: the table on which they are scored.
        loop: settings of every controller.
        budget: reward calls on the train table.
        seed: of all draws.
        hand_made: the decisions of the architecture of method J; None leaves the method out.
    """

    train: Environment
    test: Environment
    loop: SimulatedLoop
    budget: int
    seed: int
    hand_made: tuple[int, ...] | None


class Outcome(NamedTuple):
    """How well a method chose, and what it cost.

    Attributes:
        accuracy: per test task, ``[T]`` float64.
        loss: cross-entropy per test task, ``[T]`` float64.
        train_calls: reward calls on the train table.
        task_calls: reward calls per test task.
        facts: what else is known: kl_adapt, entropy_fraction, grad_snr, label_free, decisions and so on.
    """

    accuracy: Tensor
    loss: Tensor
    train_calls: int
    task_calls: int
    facts: dict[str, float | bool | str | None]


class _Scores(NamedTuple):
    accuracy: Tensor
    loss: Tensor


def _score(setting: Setting, chosen: Callable[[Tensor, int], Tensor]) -> _Scores:
    """Score what ``chosen(tasks, replicate)`` returns, ``[T, L]``, for each replicate on the next replicate."""
    env = setting.test
    tasks = torch.arange(env.tasks)
    totals = [torch.zeros(env.tasks, dtype=torch.float64) for _ in range(2)]
    for replicate in range(env.replicates):
        decisions = torch.cat([chosen(part, replicate) for part in tasks.split(_CHUNK)]).unsqueeze(1)
        other = torch.full((env.tasks, 1), (replicate + 1) % env.replicates)
        totals[0] += env.rewards("accuracy", decisions, tasks, other)[:, 0].double()
        totals[1] += env.rewards("loss", decisions, tasks, other)[:, 0].double()
    return _Scores(totals[0] / env.replicates, -totals[1] / env.replicates)


def _uniform(setting: Setting, count: int, stream: torch.Generator) -> Tensor:
    """Draw architectures uniformly, ``[count, L]``."""
    return torch.stack([torch.randint(n, (count,), generator=stream) for n in setting.test.sizes], dim=1)


def _best_of(env: Environment, kind: RewardColumn, archs: Tensor, tasks: Tensor, replicate: int) -> Tensor:
    """Return the best of ``archs [T, K, L]`` by the reward on one replicate, the first of equals: ``[T, L]``."""
    rewards = env.rewards(kind, archs, tasks, torch.full(archs.shape[:2], replicate))
    return archs[torch.arange(len(archs)), rewards.argmax(1)]


# ---- methods without a controller -----------------------------------------------------------------------------------


def uniform(setting: Setting) -> Outcome:
    """A: a uniformly drawn architecture for each task."""
    stream = generator(setting.seed, "arm A")
    scores = _score(setting, lambda tasks, replicate: _uniform(setting, len(tasks), stream))
    return Outcome(*scores, 0, 0, {"entropy_fraction": 1.0})


def best_fixed(setting: Setting) -> Outcome:
    """B: the best architecture of the train table. All are compared on the same replicates, as the budget allows."""
    stream = generator(setting.seed, "arm B")
    best, calls = _best_fixed(setting, torch.arange(setting.train.tasks), setting.budget, stream)
    return _constant(setting, best, calls)


def best_per_source(setting: Setting) -> Outcome:
    """B_per_source: the best architecture of each source of the train table; the sources share the budget equally.

    It is what method G could learn at most.
    """
    stream = generator(setting.seed, "arm B per source")
    sources = setting.train.source.unique()
    chosen, calls = [], 0
    for source in sources:
        tasks = torch.nonzero(setting.train.source == source).flatten()
        best, spent = _best_fixed(setting, tasks, max(setting.budget // len(sources), 1), stream)
        chosen.append(best)
        calls += spent
    place = torch.searchsorted(sources, setting.test.source).clamp(max=len(sources) - 1)
    scores = _score(setting, lambda tasks, replicate: torch.stack(chosen)[place[tasks]])
    facts: dict[str, float | bool | str | None] = {
        "decisions": "; ".join(" ".join(map(str, best.tolist())) for best in chosen)
    }
    return Outcome(*scores, calls, 0, facts)


def _best_fixed(setting: Setting, tasks: Tensor, budget: int, stream: torch.Generator) -> tuple[Tensor, int]:
    """Return the best architecture of some train tasks ``[L]``, and the calls that it took."""
    env = setting.train
    every = torch.cartesian_prod(*[torch.arange(n) for n in env.sizes]).view(-1, len(env.sizes))
    tried = every[torch.randperm(len(every), generator=stream)[:budget]]
    pairs = torch.randperm(len(tasks) * env.replicates, generator=stream)[: max(budget // len(tried), 1)]
    count, own = len(pairs), tasks[pairs // env.replicates]
    replicates = (pairs % env.replicates).unsqueeze(1).expand(-1, len(tried))
    rewards = env.rewards(setting.loop.outer_reward, tried.expand(count, -1, -1), own, replicates)
    return tried[rewards.double().mean(0).argmax()], count * len(tried)


def hand_made(setting: Setting, decisions: tuple[int, ...]) -> Outcome:
    """J: the hand-made architecture."""
    return _constant(setting, torch.tensor(decisions), 0)


def _constant(setting: Setting, decisions: Tensor, train_calls: int) -> Outcome:
    scores = _score(setting, lambda tasks, replicate: decisions.expand(len(tasks), -1))
    facts: dict[str, float | bool | str | None] = {"decisions": " ".join(map(str, decisions.tolist()))}
    return Outcome(*scores, train_calls, 0, facts)


def random_search(setting: Setting, calls: int, kind: RewardColumn) -> Outcome:
    """C: the best of K random architectures for each task by ``kind`` on the replicate that is not scored."""
    stream = generator(setting.seed, "arm C", calls)

    def chosen(tasks: Tensor, replicate: int) -> Tensor:
        archs = _uniform(setting, len(tasks) * calls, stream).view(len(tasks), calls, -1)
        return _best_of(setting.test, kind, archs, tasks, replicate)

    return Outcome(*_score(setting, chosen), 0, calls, {"label_free": kind in LABEL_FREE})


def selected(setting: Setting, selection: Selection) -> Outcome:
    """H, I: what was selected with the network for each replicate, scored on the next one. Calls are forward passes."""
    every = torch.cartesian_prod(*[torch.arange(n) for n in setting.test.sizes]).view(-1, len(setting.test.sizes))
    indices, known = torch.from_numpy(selection.places), selection.facts
    facts = {key: known[key] for key in ("label_free", "steps", "rate", "meta_steps_alphas") if key in known}
    scores = _score(setting, lambda tasks, replicate: every[indices[tasks, replicate]])
    return Outcome(*scores, known["passes_before"], known["passes_per_task"], facts)


# ---- methods with a controller --------------------------------------------------------------------------------------


def meta_learned_controller(setting: Setting, loop: SimulatedLoop, *, adapt: bool = True) -> Outcome:
    """D, F, G: a controller trained on the train table; per test task its greedy architecture after the inner step.

    The greedy one of the controller as it is where ``loop`` does not adapt.

    Args:
        setting: what the methods share.
        loop: how the controller is trained.
        adapt: False tests a controller that was trained with inner steps without one.
    """
    learned = train(loop, setting.train, reward_calls=setting.budget, seed=setting.seed)
    stream = generator(setting.seed, "adapt")
    moved: list[Tensor] = []
    adapts = loop.adapts and adapt

    def chosen(tasks: Tensor, replicate: int) -> Tensor:
        return _adapt(setting, learned, tasks, replicate, stream, moved) if adapts else _start(setting, learned, tasks)

    scores = _score(setting, chosen)
    facts: dict[str, float | bool | str | None] = dict(learned.facts)
    if adapts:
        facts |= {"kl_adapt": float(torch.cat(moved).mean()), "label_free": loop.inner_reward in LABEL_FREE}
    calls = loop.inner_archs + loop.baselines()[0].greedy if adapts else 0
    return Outcome(*scores, learned.reward_calls, calls, facts)


def _start(setting: Setting, learned: Trained, tasks: Tensor) -> Tensor:
    """Return the greedy architectures of the controller as it was learned, ``[T, L]``."""
    return _greedy(learned.rows, learned.context(setting.test, tasks), _expanded(learned, tasks))


def _expanded(learned: Trained, tasks: Tensor) -> Params:
    return {name: value.expand(len(tasks), *value.shape) for name, value in learned.params.items()}


def _adapt(
    setting: Setting, learned: Trained, tasks: Tensor, replicate: int, stream: torch.Generator, moved: list[Tensor]
) -> Tensor:
    """Return the greedy architectures of the clones of test tasks, ``[T, L]``; add their KL to ``moved``."""
    env, loop, rows = setting.test, learned.loop, learned.rows
    context, many = learned.context(env, tasks), _expanded(learned, tasks)
    uniforms = torch.rand(len(tasks), loop.inner_archs, len(env.sizes), generator=stream)
    tried = _sampled(rows, context, many, uniforms)
    rewards = env.rewards(loop.inner_reward, tried, tasks, torch.full(tried.shape[:2], replicate))
    baseline = loop.baselines()[0]
    likeliest = None
    if baseline.greedy:
        own = _greedy(rows, context, many).unsqueeze(1)
        likeliest = env.rewards(loop.inner_reward, own, tasks, torch.full((len(tasks), 1), replicate))
    value = baseline_values(baseline, rewards, rewards, learned.average, likeliest)
    estimator = loop.make_estimator()
    clones = clones_of(rows, estimator, learned.params, context, tried, rewards - value, learned.inner_lr)
    with torch.no_grad():
        moved.append(over_tasks(_moved, rows, context, clones, many, uniforms))
    return _greedy(rows, context, clones)


def _moved(policy: RowsPolicy, clone: Params, before: Params, uniforms: Tensor) -> Tensor:
    """Return an estimate of KL(clone || before) in nats, from architectures of the clone."""
    drawn = policy.run(clone, uniforms=uniforms)
    return kl_estimate(drawn.log_probs, policy.log_probs(before, drawn.decisions))


def _sampled(rows: ControllerRows, context: Tensor | None, params: Params, uniforms: Tensor) -> Tensor:
    with torch.no_grad():
        drawn: Tensor = over_tasks(RowsPolicy.sample, rows, context, params, uniforms)
    return drawn


def _greedy(rows: ControllerRows, context: Tensor | None, params: Params) -> Tensor:
    with torch.no_grad():
        likeliest: Tensor = over_tasks(RowsPolicy.greedy, rows, context, params)
    return likeliest[:, 0]


def reinforce(setting: Setting, calls: int) -> Outcome:
    """E: REINFORCE from scratch for each task: K draws one after the other, and a step after each but the first.

    The baseline is the mean of the rewards before; the first reward only starts it. The step size is the one of 1, 10,
    100 times ``controller_inner_lr`` that is best on the train table, whose calls are counted.
    """
    base = replace(setting.loop, conditioned=False, inner_archs=calls)
    rows = new_controller(base, setting.train, setting.seed)
    start = {name: value.detach() for name, value in trainable(rows).items()}

    def learned(env: Environment, tasks: Tensor, replicate: int, lr: float, stream: torch.Generator) -> Tensor:
        params = {name: value.expand(len(tasks), *value.shape) for name, value in start.items()}
        total = torch.zeros(len(tasks), 1)
        for call in range(calls):
            archs = _sampled(rows, None, params, torch.rand(len(tasks), 1, len(env.sizes), generator=stream))
            reward = env.rewards(base.inner_reward, archs, tasks, torch.full((len(tasks), 1), replicate))
            if call:
                params = _reinforced(rows, params, archs, reward - total / call, lr)
            total = total + reward
        return _greedy(rows, None, params)

    train_tasks, best = torch.arange(min(setting.train.tasks, _CHUNK)), (float("-inf"), 0.0)
    for factor in (1.0, 10.0, 100.0):
        lr = factor * base.controller_inner_lr
        chosen = learned(setting.train, train_tasks, 0, lr, generator(setting.seed, "arm E", "rate"))
        other = torch.ones(len(train_tasks), 1, dtype=torch.int64)
        value = float(setting.train.rewards("accuracy", chosen.unsqueeze(1), train_tasks, other).mean())
        best = max(best, (value, lr))
    stream = generator(setting.seed, "arm E", calls)
    scores = _score(setting, lambda tasks, replicate: learned(setting.test, tasks, replicate, best[1], stream))
    facts: dict[str, float | bool | str | None] = {"inner_lr": best[1], "label_free": base.inner_reward in LABEL_FREE}
    return Outcome(*scores, 3 * len(train_tasks) * (calls + 1), calls, facts)


def _reinforced(rows: ControllerRows, params: Params, archs: Tensor, advantages: Tensor, lr: float) -> Params:
    """Return the parameters of each task after a step of REINFORCE on its own architectures."""
    estimator = ESTIMATORS["fomaml"]
    with torch.no_grad():
        stepped: Params = over_tasks(
            lambda policy, start, which, advantage: estimator.adapt(policy.log_probs, start, which, advantage, lr=lr),
            rows,
            None,
            params,
            archs,
            advantages,
        )
    return stepped


# ---- the table of methods -------------------------------------------------------------------------------------------


def all_methods(
    setting: Setting, ks: tuple[int, ...], estimators: tuple[str, ...]
) -> Mapping[str, Callable[[], Outcome]]:
    """Return every method by name, its letter first; each K and each estimator makes another method.

    F with ``_start`` at the end is tested without the inner step that it was trained with.

    Args:
        setting: what the methods share.
        ks: reward calls per test task of C, E, F and G.
        estimators: of F; G takes the first.

    Raises:
        InputError: if a K is below 1.
    """
    if min(ks, default=0) < 1:
        raise InputError(f"ks={','.join(map(str, ks))}: each must be at least 1")
    loop = setting.loop
    plain = replace(loop, adapts=False, outer_archs=max(ks) + loop.outer_archs, outer_baseline="leave_one_out")
    methods: dict[str, Callable[[], Outcome]] = {
        "A_uniform": partial(uniform, setting),
        "B_best_fixed": partial(best_fixed, setting),
        "D_no_adaptation": partial(meta_learned_controller, setting, plain),
        "G_conditioned": partial(meta_learned_controller, setting, replace(plain, conditioned=True)),
    }
    if len(setting.train.source.unique()) > 1:
        methods["B_per_source"] = partial(best_per_source, setting)
        told = setting._replace(train=setting.train.told_source(), test=setting.test.told_source())
        methods["G_told_source"] = partial(meta_learned_controller, told, replace(plain, conditioned=True))
    if setting.hand_made is not None:
        methods["J_hand_made"] = partial(hand_made, setting, setting.hand_made)
    for k in ks:
        # Leave-one-out compares a sample with the others, and there is no other one.
        baseline = loop.inner_baseline if k > 1 or loop.inner_baseline != "leave_one_out" else "moving_average"
        inner = replace(loop, inner_archs=k, inner_baseline=baseline)
        if loop.inner_reward in LABEL_FREE:
            methods[f"C_random_{loop.inner_reward}_K{k}"] = partial(random_search, setting, k, loop.inner_reward)
        methods[f"C_random_ORACLE_K{k}"] = partial(random_search, setting, k, "accuracy")
        methods[f"E_scratch_K{k}"] = partial(reinforce, setting, k)
        by_name = {name: replace(inner, **dict[str, Any](estimator=name)) for name in estimators}
        for name, own in by_name.items():
            methods[f"F_{name}_K{k}"] = partial(meta_learned_controller, setting, own)
            methods[f"F_{name}_K{k}_start"] = partial(meta_learned_controller, setting, own, adapt=False)
        both = replace(by_name[estimators[0]], conditioned=True)
        methods[f"G_conditioned_inner_K{k}"] = partial(meta_learned_controller, setting, both)
    return dict(sorted(methods.items()))
