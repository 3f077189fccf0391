"""Arms on tables whose answers are known: what each may see, what it costs, and what it scores."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from few_shot_nas.errors import InputError
from few_shot_nas.tabular import methods
from few_shot_nas.tabular.ladder import ablations, ladder
from few_shot_nas.tabular.methods import Setting, all_methods, selected
from few_shot_nas.tabular.selection import Selection
from few_shot_nas.tabular.reward_table import RewardTable
from few_shot_nas.tabular.environment import Environment
from few_shot_nas.tabular.simulator import SimulatedLoop
from tests.tabular.six_archs import make_table

ESTIMATORS = ("fomaml", "emaml")


def setting(train: RewardTable, test: RewardTable, budget: int = 240, **loop: object) -> Setting:
    own = replace(
        SimulatedLoop(
            controller="Factorised", inner_archs=2, outer_archs=2, tasks=4, controller_inner_lr=10.0, controller_lr=3e-3
        ),
        **loop,  # type: ignore[arg-type]
    )
    return Setting(Environment(train), Environment(test), own, budget, 0, (0, 0))


def test_every_arm_scores_every_task_at_its_price() -> None:
    own = setting(make_table(), make_table(seed=1))
    table = all_methods(own, (1, 3), ESTIMATORS)
    assert [name[0] for name in table] == list("ABCCCCDEEFFFFFFFFGGGJ")
    for name, arm in table.items():
        outcome = arm()
        assert outcome.accuracy.shape == (20,) and bool(outcome.accuracy.isfinite().all()), name
        steps = (name[0] in "CEF" or "inner" in name) and not name.endswith("start")
        assert outcome.task_calls == (int(name[-1]) if steps else 0), name
        if name[0] in "BDFG":
            assert 0.8 * own.budget < outcome.train_calls <= own.budget, name


def test_the_best_fixed_architecture_is_found_and_scored_on_the_test_table() -> None:
    train, test = make_table(), make_table(seed=1)
    train.accuracy[4] += 2
    outcome = all_methods(setting(train, test), (1,), ESTIMATORS)["B_best_fixed"]()
    np.testing.assert_allclose(outcome.accuracy.numpy(), test.accuracy[4].mean(1), rtol=1e-6)
    np.testing.assert_allclose(outcome.loss.numpy(), test.loss[4].mean(1), rtol=1e-6)
    assert outcome.facts["decisions"] == "2 0"


def test_the_best_architecture_of_each_source_is_found_with_the_same_budget() -> None:
    train, test = make_table(tasks=60), make_table(tasks=40, seed=1)
    train.source[:], test.source[:] = np.arange(60) % 3, np.arange(40) % 3
    for source, best in enumerate((4, 1, 5)):
        train.accuracy[best, train.source == source] += 2
    own = setting(train, test)
    outcome = all_methods(own, (1,), ESTIMATORS)["B_per_source"]()
    chosen = np.array([4, 1, 5])[test.source]
    np.testing.assert_allclose(outcome.accuracy.numpy(), test.accuracy[chosen, np.arange(40)].mean(1), rtol=1e-6)
    assert outcome.facts["decisions"] == "2 0; 0 1; 2 1"
    assert 0.8 * own.budget < outcome.train_calls <= own.budget


def test_a_controller_that_is_told_the_source_finds_what_each_source_prefers() -> None:
    train, test = make_table(tasks=60), make_table(tasks=40, seed=1)
    train.source[:], test.source[:] = np.arange(60) % 2, np.arange(40) % 2
    for table in (train, test):
        table.accuracy[:] = 0.0
        for source, best in enumerate((4, 1)):
            table.accuracy[best, table.source == source] = 1.0
    table = all_methods(setting(train, test, budget=20_000, controller_lr=0.03), (1,), ESTIMATORS)
    assert float(table["G_told_source"]().accuracy.mean()) == 1.0
    assert float(table["B_best_fixed"]().accuracy.mean()) == 0.5


def test_the_hand_made_architecture_is_that_of_the_setting() -> None:
    test = make_table(seed=1)
    outcome = all_methods(setting(make_table(), test), (1,), ESTIMATORS)["J_hand_made"]()
    np.testing.assert_allclose(outcome.accuracy.numpy(), test.accuracy[0].mean(1), rtol=1e-6)


def test_random_search_takes_the_best_by_its_reward_on_the_other_replicate() -> None:
    test = make_table(tasks=300, seed=2)
    # Which architecture is best by leave-one-out swaps between the replicates, and so shows which one was looked at.
    test.loo_loss[:] = 1.0
    test.loo_loss[1, :, 0] = test.loo_loss[2, :, 1] = 0.0
    test.accuracy[:] = 0.0
    test.accuracy[1, :, 1], test.accuracy[2, :, 0] = 0.25, 0.75
    test.accuracy[1, :, 0] = test.accuracy[2, :, 1] = -100.0  # what must never be scored after that choice
    own = setting(make_table(), test)
    free = all_methods(own, (64,), ESTIMATORS)["C_random_loo_loss_K64"]()
    assert free.facts["label_free"] is True
    np.testing.assert_allclose(free.accuracy.numpy(), 0.5)
    test.accuracy[:] = np.random.default_rng(0).random(test.shape)
    oracle = all_methods(setting(make_table(), test), (64,), ESTIMATORS)["C_random_ORACLE_K64"]()
    seen = test.accuracy.argmax(0)
    tasks = np.arange(300)
    expected = (test.accuracy[seen[:, 0], tasks, 1] + test.accuracy[seen[:, 1], tasks, 0]) / 2
    np.testing.assert_allclose(oracle.accuracy.numpy(), expected, rtol=1e-6)
    assert oracle.facts["label_free"] is False


def clear_families(tasks: int, seed: int) -> RewardTable:
    """Each task has one of two best architectures; all rewards say so on both replicates."""
    table = make_table(tasks, seed=seed)
    kind = np.random.default_rng(seed).integers(2, size=tasks)
    table.accuracy[:] = 0.2
    table.accuracy[0, kind == 0] = table.accuracy[5, kind == 1] = 0.9
    table.loss[:] = table.loo_loss[:] = -table.accuracy
    table.embedding[:, 0] = kind
    return table


def test_adaptation_pays_where_tasks_differ_and_the_reward_says_how() -> None:
    own = setting(
        clear_families(60, 0), clear_families(80, 1), budget=7_000, controller_lr=0.1, kl_target=2.0,
        controller_inner_lr=20.0, outer_baseline="leave_one_out", outer_archs=4,
    )  # fmt: skip
    table = all_methods(own, (8,), ESTIMATORS)
    fixed, adapted = table["B_best_fixed"]().accuracy.mean(), table["F_emaml_K8"]()
    conditioned = table["G_conditioned"]().accuracy.mean()
    scratch = table["E_scratch_K8"]().accuracy.mean()
    assert fixed < 0.65 and conditioned > 0.89
    assert adapted.accuracy.mean() > fixed + 0.1 and scratch > 0.5
    assert adapted.facts["kl_adapt"] > 0.1  # type: ignore[operator]


def test_a_controller_without_its_inner_step_gives_every_task_the_same_architecture() -> None:
    train, test = make_table(tasks=60), make_table(tasks=40, seed=1)
    table = all_methods(setting(train, test, budget=2000), (2,), ("naive",))
    start, adapted = table["F_naive_K2_start"](), table["F_naive_K2"]()
    np.testing.assert_allclose(start.accuracy.numpy(), test.accuracy.mean(2)[_row(start, test)], rtol=1e-6)
    assert start.train_calls == adapted.train_calls and "kl_adapt" not in start.facts
    assert not torch.equal(start.accuracy, adapted.accuracy)


def _row(outcome: methods.Outcome, table: RewardTable) -> int:
    """Return which architecture of the table all scores of an outcome are those of."""
    return int(np.abs(table.accuracy.mean(2) - outcome.accuracy.numpy()).sum(1).argmin())


def test_the_ladder_adds_one_switch_at_a_time_from_the_published_start() -> None:
    loops: dict[str, SimulatedLoop] = {}
    own = setting(make_table(replicates=3), make_table(replicates=3, seed=1))
    for name, arm in ladder(own).items():
        loops[name] = arm.args[1]
    first, *others = loops.values()
    assert (first.inner_archs, first.outer_archs, first.estimator, first.common) == (1, 1, "naive", False)
    assert (first.inner_baseline, first.outer_baseline, first.kl_target) == ("none", "none", None)
    assert [name.split("_", 1)[1] for name in loops] == [
        "original", "baseline", "K4_loo", "per_task", "crn", "ce_reward", "emaml", "kl_tuned", "label_free",
        "conditioned",
    ]  # fmt: skip
    assert len({tuple(vars(loop).values()) for loop in loops.values()}) == len(loops)
    assert "L4_crn" not in ladder(setting(make_table(), make_table()))
    outcome = ladder(own)["L9_conditioned"]()
    assert outcome.accuracy.shape == (20,)


def test_each_ablation_lacks_one_switch_of_the_last_rung() -> None:
    own = setting(make_table(replicates=3), make_table(replicates=3, seed=1))
    loops = {name: vars(arm.args[1]) for name, arm in ablations(own).items()}
    full = vars(ladder(own)["L9_conditioned"].args[1])
    changed = {name: {key: loop[key] for key in loop if loop[key] != full[key]} for name, loop in loops.items()}
    assert changed == {
        "R_without_K4_loo": {"inner_archs": 1, "inner_baseline": "moving_average"},
        "R_without_per_task": {"outer_baseline": "moving_average"},
        "R_without_crn": {"common": False},
        "R_without_ce_reward": {"outer_reward": "accuracy"},
        "R_without_emaml": {"estimator": "naive"},
        "R_without_kl_tuned": {"kl_target": None},
        "R_without_label_free": {"inner_reward": "loss"},
    }  # without the last switch it is the last rung but one


def test_a_k_below_one_is_refused() -> None:
    with pytest.raises(InputError, match="ks=0,4: each must be at least 1"):
        all_methods(setting(make_table(), make_table()), (0, 4), ESTIMATORS)


def test_scores_of_chunks_are_those_of_all_tasks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    own = setting(make_table(), make_table(seed=1))
    whole = all_methods(own, (1,), ESTIMATORS)["J_hand_made"]().accuracy
    monkeypatch.setattr(methods, "_CHUNK", 3)
    assert torch.equal(all_methods(own, (1,), ESTIMATORS)["J_hand_made"]().accuracy, whole)


def test_selections_are_scored_on_the_next_replicate_at_their_price(monkeypatch: pytest.MonkeyPatch) -> None:
    test = make_table(replicates=3, seed=1)
    places = np.random.default_rng(0).integers(6, size=(20, 3))
    facts = {"label_free": True, "passes_before": 70, "passes_per_task": 15, "rate": 3.0, "method": "alphas"}
    monkeypatch.setattr(methods, "_CHUNK", 7)
    outcome = selected(setting(make_table(replicates=3), test), Selection(places, facts))
    for task in range(20):
        expected = [test.accuracy[places[task, r], task, (r + 1) % 3] for r in range(3)]
        assert float(outcome.accuracy[task]) == pytest.approx(np.mean(expected), rel=1e-6)
        losses = [test.loss[places[task, r], task, (r + 1) % 3] for r in range(3)]
        assert float(outcome.loss[task]) == pytest.approx(np.mean(losses), rel=1e-6)
    assert (outcome.train_calls, outcome.task_calls) == (70, 15)
    assert outcome.facts == {"label_free": True, "rate": 3.0}
