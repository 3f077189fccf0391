"""The simulator against plain loops over tasks, and on tables whose best choice is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.func import functional_call

from few_shot_nas.controllers.rows import ControllerRows
from few_shot_nas.errors import InputError
from few_shot_nas.meta.control_variates import CONTROL_VARIATES, Evidence, MovingAverage
from few_shot_nas.meta.estimators import ESTIMATORS
from few_shot_nas.meta.functional import trainable
from few_shot_nas.seeding import generator
from few_shot_nas.tabular import simulator
from few_shot_nas.tabular.reward_table import RewardTable
from few_shot_nas.tabular.environment import Environment, RewardColumn
from few_shot_nas.tabular.simulator import SimulatedLoop, Training, new_controller, train
from tests.tabular.six_archs import DECISIONS, make_table


def families(tasks: int) -> RewardTable:
    """Two kinds of task with different best architectures, told by the embedding."""
    table = make_table(tasks)
    kind = np.arange(tasks) % 2
    table.accuracy[:] = 0.2
    table.accuracy[0, kind == 0] = table.accuracy[5, kind == 1] = 0.9
    table.loss[:] = -table.accuracy
    table.loo_loss[:] = -table.accuracy
    table.embedding[:, 0] = kind
    return table


def test_rewards_are_looked_up_with_their_sign() -> None:
    table = make_table()
    env = Environment(table)
    archs = torch.from_numpy(DECISIONS[[[3, 5], [0, 1]]])
    tasks, replicates = torch.tensor([4, 7]), torch.tensor([[0, 1], [1, 1]])
    found = env.rewards("loss", archs, tasks, replicates)
    expected = [[table.loss[3, 4, 0], table.loss[5, 4, 1]], [table.loss[0, 7, 1], table.loss[1, 7, 1]]]
    np.testing.assert_array_equal(found.numpy(), -np.array(expected))
    assert env.rewards("accuracy", archs, tasks, replicates)[0, 0] == table.accuracy[3, 4, 0]


class _Draws:
    """The numbers of one meta-step, drawn as the simulator documents it: tasks, replicates, then uniforms."""

    def __init__(self, loop: SimulatedLoop, env: Environment, stream: torch.Generator) -> None:
        self.tasks = torch.randint(env.tasks, (loop.tasks,), generator=stream).tolist()
        outer = torch.randint(env.replicates, (loop.tasks, 1), generator=stream)
        offset = torch.randint(1, env.replicates, (loop.tasks, 1), generator=stream)
        self.outer, self.inner = outer[:, 0].tolist(), ((outer + offset) % env.replicates)[:, 0].tolist()
        shape = (loop.tasks, loop.inner_archs + loop.outer_archs, 2)
        self.uniforms = torch.rand(shape, generator=stream)


def plain_loss(
    rows: ControllerRows, params: dict, loop: SimulatedLoop, table: RewardTable, draws: _Draws
) -> torch.Tensor:
    """One meta-batch, task by task, through the estimator's own ``task_loss``."""
    losses = []
    for place, task in enumerate(draws.tasks):

        def look_up(kind: str, archs: torch.Tensor, replicate: int, task: int = task) -> torch.Tensor:
            sign = -1 if "loss" in kind else 1
            return torch.tensor([sign * getattr(table, kind)[2 * a + b, task, replicate] for a, b in archs.tolist()])

        def policy(p: dict, archs: torch.Tensor) -> torch.Tensor:
            return functional_call(rows, p, (archs,)).log_probs

        estimator = ESTIMATORS[loop.estimator]
        first, second = draws.uniforms[place].split((loop.inner_archs, loop.outer_archs))
        tried = functional_call(rows, params, (), {"uniforms": first}).decisions
        inner = look_up(loop.inner_reward, tried, draws.inner[place])
        prior = look_up(loop.outer_reward, tried, draws.inner[place])
        values = [CONTROL_VARIATES[loop.inner_baseline].value(Evidence(r, r)) for r in (inner, prior)]
        clone = estimator.adapt(policy, params, tried, inner - values[0], lr=loop.controller_inner_lr)
        chosen = functional_call(rows, clone, (), {"uniforms": second}).decisions
        outer = look_up(loop.outer_reward, chosen, draws.outer[place])
        baseline = CONTROL_VARIATES[loop.outer_baseline].value(Evidence(outer, prior))
        losses.append(
            estimator.task_loss(
                policy, params, (tried, inner - values[0]), (chosen, outer),
                lr=loop.controller_inner_lr, baseline=baseline, tried_baseline=values[1],
            )
        )  # fmt: skip
    return torch.stack(losses).mean()


@pytest.mark.parametrize("controller", ["LSTM", "Factorised"])
@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_the_meta_gradient_is_that_of_a_loop_over_tasks(controller: str, estimator: str) -> None:
    loop = SimulatedLoop(
        controller=controller, estimator=estimator, inner_archs=3, outer_archs=2, tasks=4, entropy_weight=0.0,
        controller_inner_lr=2.0, inner_reward="loo_loss", outer_reward="accuracy",
    )  # fmt: skip
    table = make_table()
    env = Environment(table)
    rows = new_controller(loop, env, 3)
    params = trainable(rows)
    state = simulator._State(params, loop.controller_inner_lr)
    scale = torch.zeros(2), torch.ones(2)
    loss = simulator.meta_step(Training(rows, loop, env, state, scale, generator(1)))
    found = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
    plain = plain_loss(rows, params, loop, table, _Draws(loop, env, generator(1)))
    expected = torch.autograd.grad(plain, list(params.values()), allow_unused=True)
    torch.testing.assert_close(loss, plain)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_averages_start_without_bias_and_keep_the_kinds_apart() -> None:
    env = Environment(make_table())
    loop = SimulatedLoop(inner_baseline="moving_average", outer_baseline="moving_average", inner_reward="loss")
    rows = new_controller(loop, env, 0)
    state = simulator._State(trainable(rows), 1.0)
    simulator.meta_step(Training(rows, loop, env, state, (torch.zeros(2), torch.ones(2)), generator(1)))
    inner, outer = state.averages
    assert inner.value < 0 < outer.value and inner != MovingAverage()


@pytest.mark.parametrize("estimator", ["naive", "emaml"])
@pytest.mark.parametrize("inner_baseline", ["leave_one_out", "self_critical"])
@pytest.mark.parametrize("outer_baseline", ["leave_one_out", "per_task", "moving_average", "self_critical"])
@pytest.mark.parametrize("inner_reward", ["accuracy", "loo_loss"])
def test_every_reward_that_is_looked_up_is_counted(
    monkeypatch: pytest.MonkeyPatch,
    estimator: str,
    inner_baseline: str,
    outer_baseline: str,
    inner_reward: RewardColumn,
) -> None:
    env, looked_up = Environment(make_table()), [0]
    plain = env.rewards

    def counted(kind: RewardColumn, decisions: torch.Tensor, *where: torch.Tensor) -> torch.Tensor:
        looked_up[0] += decisions.shape[0] * decisions.shape[1]
        return plain(kind, decisions, *where)

    monkeypatch.setattr(env, "rewards", counted)
    loop = SimulatedLoop(
        controller="Factorised", estimator=estimator, inner_archs=3, outer_archs=2, inner_baseline=inner_baseline,
        outer_baseline=outer_baseline, inner_reward=inner_reward, tasks=4,
    )  # fmt: skip
    learned = train(loop, env, reward_calls=2 * loop.calls_per_step(), seed=0)
    assert learned.reward_calls == looked_up[0]
    again = inner_reward == "loo_loss" and (estimator == "emaml" or outer_baseline == "per_task")
    greedy = inner_baseline == "self_critical"
    assert loop.calls_per_step() == 4 * ((3 + greedy) * (1 + again) + 2 + (outer_baseline == "self_critical"))


@pytest.mark.parametrize("controller", ["LSTM", "Factorised"])
def test_without_adaptation_the_best_fixed_architecture_is_learned(controller: str) -> None:
    table = make_table()
    table.accuracy[:] = 0.3
    table.accuracy[4] = 0.9
    loop = SimulatedLoop(
        controller=controller, adapts=False, outer_archs=6, outer_baseline="leave_one_out", controller_lr=0.05
    )
    learned = train(loop, Environment(table), reward_calls=100 * loop.calls_per_step(), seed=0)
    assert functional_call(learned.rows, learned.params, ()).decisions[0].tolist() == DECISIONS[4].tolist()
    assert learned.reward_calls == 100 * 8 * 6 and learned.facts["entropy_fraction"] < 0.9  # type: ignore[operator]


def test_a_conditioned_controller_tells_two_families_apart() -> None:
    env = Environment(families(20))
    loop = SimulatedLoop(
        controller="Factorised", adapts=False, outer_archs=8, outer_baseline="leave_one_out", controller_lr=0.1,
        conditioned=True,
    )  # fmt: skip
    learned = train(loop, env, reward_calls=120 * loop.calls_per_step(), seed=0)
    context = learned.context(env, torch.tensor([0, 1]))
    assert context is not None
    for task, best in ((0, 0), (1, 5)):
        chosen = functional_call(learned.rows, learned.params, (), {"context": context[task]}).decisions[0]
        assert chosen.tolist() == DECISIONS[best].tolist()


def test_the_inner_rate_goes_to_the_wanted_kl() -> None:
    loop = SimulatedLoop(
        controller="Factorised", controller_inner_lr=0.1, kl_target=0.05, inner_reward="loss", controller_lr=1e-4,
        inner_archs=4,
    )  # fmt: skip
    learned = train(loop, Environment(make_table()), reward_calls=150 * loop.calls_per_step(), seed=0)
    assert learned.inner_lr > 0.1 and 0.02 < learned.facts["kl_adapt_train"] < 0.1  # type: ignore[operator]


def test_the_same_seed_gives_the_same_bits() -> None:
    env, loop = Environment(make_table()), SimulatedLoop()
    runs = [train(loop, env, reward_calls=200, seed=seed).params for seed in (0, 0, 1)]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert not all(torch.equal(runs[0][name], runs[2][name]) for name in runs[0])


def test_what_cannot_be_simulated_is_refused() -> None:
    with pytest.raises(InputError, match="reward table with 1 replicate"):
        Environment(make_table(replicates=1))
    env = Environment(make_table())
    with pytest.raises(InputError, match="common=False: needs a table with 3 replicates"):
        train(SimulatedLoop(common=False), env, reward_calls=100, seed=0)
    with pytest.raises(InputError, match="inner_reward=speed: unknown"):
        SimulatedLoop(inner_reward="speed")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="inner_baseline=per_task"):
        SimulatedLoop(inner_baseline="per_task")
    with pytest.raises(InputError, match="inner_archs=-1"):
        replace(SimulatedLoop(), inner_archs=-1)
    table = make_table()
    table.loo_loss[:] = np.nan
    with pytest.raises(InputError, match="reward loo_loss: the table has none"):
        train(SimulatedLoop(), Environment(table), reward_calls=100, seed=0)


def test_replicates_of_inner_and_outer_rewards_never_meet() -> None:
    env = Environment(make_table(replicates=3))
    for common in (True, False):
        loop = SimulatedLoop(common=common, inner_archs=5, tasks=200)
        inner, outer = simulator._draw_replicates(env, loop, generator(0))
        assert inner.shape == (200, 5) and not bool((inner == outer).any())
        assert bool((inner == inner[:, :1]).all()) == common
