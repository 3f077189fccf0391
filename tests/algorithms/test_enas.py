"""ENAS: whose turn it is, the policy's gradient by enumeration, its baseline, and who trains the shared weights."""

import logging
import math
from types import SimpleNamespace

import pytest
import torch

from few_shot_nas.algorithms.base import EpisodicModule
from few_shot_nas.algorithms.enas import ENAS, ENASLoop
from few_shot_nas.algorithms.settings import InnerLoop, OuterLoop
from few_shot_nas.episode import Episode
from few_shot_nas.errors import InputError
from few_shot_nas.meta.skip_prior import skip_prior_kl
from few_shot_nas.runtime.choices_csv import ChoicesCSV
from few_shot_nas.spaces.supernet import Supernet
from tests.three_way import make_task


def make_search(space="chain", cells=2, **policy):
    torch.manual_seed(0)
    net = Supernet(3, 1, 28, space=space, channels=4, cells=cells)
    search = ENAS(net, inner=InnerLoop(inner_lr=0.1), loop=ENASLoop(**policy), outer=OuterLoop(), seed=5).double()
    stream = torch.Generator().manual_seed(1)
    with torch.no_grad():  # a policy that is not uniform
        for parameter in search.controller.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=stream, dtype=torch.double))
    return search


def gradients(search, loss):
    search.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad for name, p in search.controller.named_parameters() if p.grad is not None}


def test_sgdr_restarts_the_rate_of_the_shared_weights_and_leaves_the_controllers():
    search = make_search()
    search.outer = OuterLoop(outer_schedule="sgdr", outer_lr=0.05, outer_lr_min=5e-4, restart_steps=2)
    optimizer = search.configure_optimizers()
    rates = []
    for step in range(4):
        search.meta_step = step
        search.apply_schedule(optimizer)
        rates.append([group["lr"] for group in optimizer.param_groups])
    weights, controller = zip(*rates, strict=True)
    assert weights == pytest.approx((0.05, 0.02525, 0.05, 5e-4 + 0.5 * 0.0495 * (1 + math.cos(math.pi / 4))))
    assert controller == (1e-3,) * 4


def test_turns_alternate_after_the_warm_up_as_a_function_of_the_meta_step():
    search = make_search(warmup_steps=3, weights_steps=2, policy_steps=1)
    phases = [search.phase(step)[0] for step in range(10)]
    assert "".join(phases) == "www" + "wwp" + "wwp" + "w"
    assert [search.phase(step) for step in (2, 3)] == ["warmup", "weights"]
    search.meta_step = 9
    assert search.rewards_spent(meta_batch_size=4) == 2 * 4 * 5


@pytest.mark.parametrize("baseline", [0.0, 0.7])
def test_the_expected_gradient_is_that_of_reward_plus_entropy_by_enumeration(monkeypatch, baseline):
    search = make_search(archs_per_task=1, entropy_weight=0.3, warmup_steps=0, weights_steps=1)
    search.meta_step, search.baseline = 1, baseline
    architectures = list(search.supernet.space.enumerate())
    table = dict(zip(architectures, torch.rand(25, generator=torch.Generator().manual_seed(3)).tolist(), strict=True))
    monkeypatch.setattr(search.supernet_children, "reward", lambda decisions, task: table[decisions])
    expected = {name: torch.zeros_like(p) for name, p in search.controller.named_parameters()}
    for a in architectures:
        monkeypatch.setattr(search, "sampled", lambda task, purpose, count, a=a: [a])
        with torch.no_grad():
            p = float(search.controller.log_prob(torch.tensor(a)).exp())
        for name, gradient in gradients(search, search.task_loss(make_task())[0]).items():
            expected[name] += p * gradient

    log_p = torch.stack([search.controller.log_prob(torch.tensor(a)) for a in architectures])
    rewards = torch.tensor([table[a] for a in architectures], dtype=torch.double)
    objective = (log_p.exp() * (rewards - 0.3 * log_p)).sum()  # E[r] + 0.3 H
    exact = torch.autograd.grad(-objective, list(search.controller.parameters()))
    for (name, estimate), gradient in zip(expected.items(), exact, strict=True):
        assert gradient.abs().max() > 1e-3
        torch.testing.assert_close(estimate, gradient, rtol=0, atol=2e-8, msg=name)


def test_a_step_averages_its_samples_and_the_first_one_takes_the_others_as_baseline(monkeypatch):
    search = make_search(archs_per_task=3, entropy_weight=0.0)
    search.meta_step = 1
    tried, rewards = [(0, 1), (2, 2), (0, 4)], [0.2, 0.8, 0.5]
    monkeypatch.setattr(search, "sampled", lambda task, purpose, count: tried)
    log_p = torch.stack([search.controller.log_prob(torch.tensor(a)) for a in tried])
    for baseline, advantages in ((None, [0.2 - 0.65, 0.8 - 0.35, 0.5 - 0.5]), (0.4, [-0.2, 0.4, 0.1])):
        left = list(rewards)
        monkeypatch.setattr(search.supernet_children, "reward", lambda decisions, task, left=left: left.pop(0))
        search.baseline = baseline
        loss, scalars = search.task_loss(make_task())
        expected = -(torch.tensor(advantages).double() * log_p).sum() / 3
        torch.testing.assert_close(loss, expected, rtol=0, atol=1e-6)
        assert float(scalars["controller/reward"]) == pytest.approx(0.5)
        assert set(scalars) == {f"controller/{name}" for name in ("policy_loss", "reward", "baseline", "entropy")}


def test_the_baseline_is_a_moving_average_of_earlier_steps(monkeypatch):
    search = make_search(baseline_decay=0.9, entropy_weight=0.1)
    scalars = {}
    monkeypatch.setattr(EpisodicModule, "update", lambda self, batch: scalars)
    search.meta_step, expected = 1, None
    for reward, entropy in ((0.5, 2.0), (0.7, 1.0), (0.1, 1.5)):
        scalars = {"controller/reward": reward, "controller/entropy": entropy}
        assert search.update(None) is scalars
        returned = reward + 0.1 * entropy
        expected = returned if expected is None else 0.9 * expected + 0.1 * returned
        assert search.baseline == pytest.approx(expected)
    search.meta_step, scalars = 2, {"train/loss": 3.0, "train/accuracy": 0.9}
    search.update(None)
    assert search.baseline == pytest.approx(expected)


def test_the_baseline_travels_with_the_checkpoint():
    search, again, checkpoint = make_search(), make_search(), {}
    search.baseline = 0.123
    search.on_save_checkpoint(checkpoint)
    again.on_load_checkpoint(checkpoint)
    assert again.baseline == 0.123


def test_each_turn_moves_only_its_own_parameters():
    search, task = make_search(), make_task()
    search.task_loss(task)[0].backward()
    assert all(p.grad is None for p in search.controller.parameters())
    genotype = search.supernet.space.decode(search.trained_children(task)[0])
    touched = [name for name, p in search.supernet.named_parameters() if p.grad is not None]
    assert touched == list(search.supernet.active_params(genotype))
    search.zero_grad(set_to_none=True)
    search.meta_step = 1
    search.task_loss(task)[0].backward()
    assert all(p.grad is None for p in search.supernet.parameters())
    assert all(p.grad is not None for p in search.controller.parameters())


def test_children_of_the_warm_up_are_uniform_and_later_ones_the_policys():
    search, task = make_search(cells=1, warmup_steps=300), make_task()
    with torch.no_grad():
        search.controller.output["op"].weight[3] += 30 * search.controller.output["op"].weight[3].sign()
    counts = torch.zeros(2, 5)
    for step in range(300):
        search.meta_step = step
        counts[0, search.trained_children(task)[0][0]] += 1
        search.meta_step = 300 + 2 * step
        counts[1, search.trained_children(task)[0][0]] += 1
    p = torch.tensor([float(search.controller.log_prob(torch.tensor([i])).detach().exp()) for i in range(5)])
    for row, law in ((counts[0], torch.full((5,), 0.2)), (counts[1], p)):
        assert ((row / 300 - law).abs() < 4.5 * (law * (1 - law) / 300).sqrt()).all()
    assert (p - 0.2).abs().max() > 0.2


def test_strictly_fair_children_hold_every_choice_equally_often_and_share_one_step():
    search, task = make_search(cells=3, warmup_steps=9, strict_fairness=True), make_task()
    group = search.trained_children(task)
    assert len(group) == 5
    assert all(sorted(column) == [0, 1, 2, 3, 4] for column in zip(*group, strict=True))
    children = search.supernet_children
    losses = [children.adapted_child(task, children.decode(a)).loss for a in group]
    loss, scalars = search.task_loss(task)
    torch.testing.assert_close(loss, torch.stack(losses).mean())
    loss.backward()
    assert all(p.grad is not None for p in search.supernet.parameters())  # every op was on one path


def test_strict_fairness_lets_narrow_decisions_start_again():
    search = make_search("enas_macro", cells=3, warmup_steps=9, strict_fairness=True)
    columns = list(zip(*search.trained_children(make_task()), strict=True))
    for column, decision in zip(columns, search.supernet.space.decisions, strict=True):
        counts = [column.count(choice) for choice in range(len(decision.choices))]
        assert set(counts) == {6 // len(decision.choices)}


def test_the_skip_prior_joins_the_loss_where_the_space_decides_on_skips(monkeypatch):
    losses = []
    for weight in (0.0, 2.0):
        search = make_search("enas_macro", cells=3, archs_per_task=2, skip_weight=weight, skip_target=0.3)
        search.meta_step = 1
        monkeypatch.setattr(search.supernet_children, "reward", lambda decisions, task: 0.5)
        losses.append(search.task_loss(make_task())[0])
    tried = search.sampled(make_task(), "reward", 2)
    rollouts = [search.controller(torch.tensor(a)) for a in tried]
    prior = sum(skip_prior_kl(r.log_probs, r.decisions, search.kinds, 0.3) for r in rollouts) / 2
    torch.testing.assert_close(losses[1] - losses[0], 2.0 * prior, rtol=0, atol=1e-9)


def test_the_controller_finds_the_best_arm_of_an_additive_bandit(monkeypatch):
    """Gap 0.1 per decision, noise 0.05, four tasks of five samples a step; the greedy architecture is the best one."""
    best = (3, 1)
    for seed in range(3):
        search = make_search(entropy_weight=0.0)
        torch.manual_seed(seed)
        for parameter in search.controller.parameters():
            torch.nn.init.uniform_(parameter, -0.1, 0.1)
        noise = torch.Generator().manual_seed(seed)
        monkeypatch.setattr(
            search.supernet_children,
            "reward",
            lambda a, task, noise=noise: 0.4
            + 0.1 * sum(x == y for x, y in zip(a, best, strict=True))
            + 0.05 * float(torch.randn((), generator=noise)),
        )
        group = search.parameter_groups()[1]
        optimizer = torch.optim.Adam([{**group, "lr": 1e-2, "base_lr": 1e-2}])
        monkeypatch.setattr(search, "optimizers", lambda optimizer=optimizer: optimizer)
        monkeypatch.setattr(search, "manual_backward", lambda loss: loss.backward())
        task = make_task()
        batch = Episode(*(torch.stack([field] * 4) for field in task[:4]), torch.arange(4))
        for step in range(60):
            search.meta_step = 2 * step + 1
            search.update(batch)
        assert search.incumbent() == best, seed
        assert float(search.controller.log_prob(torch.tensor(best)).detach().exp()) > 0.2  # it began at 0.04


def test_a_collapsed_policy_is_reported_once(monkeypatch, caplog):
    search = make_search(cells=3)
    monkeypatch.setattr("few_shot_nas.algorithms.base.EpisodicModule.on_validation_epoch_end", lambda self: None)
    monkeypatch.setattr(search, "incumbent", lambda: (0, 3, 1))
    monkeypatch.setattr(search, "entropy_fraction", lambda: 0.5)
    with caplog.at_level(logging.WARNING):
        search.on_validation_epoch_end()
        assert not caplog.records
        monkeypatch.setattr(search, "incumbent", lambda: (4, 3, 4))
        search.on_validation_epoch_end()
        search.on_validation_epoch_end()
    assert len(caplog.records) == 1 and "100% of the greedy" in caplog.text


def test_every_validation_records_what_the_alarm_is_judged_by(monkeypatch):
    search, rows = make_search(cells=3), []
    monkeypatch.setattr("few_shot_nas.algorithms.base.EpisodicModule.on_validation_epoch_end", lambda self: None)
    monkeypatch.setattr("few_shot_nas.algorithms.base.EpisodicModule.log_row", lambda self, row: rows.append(row))
    monkeypatch.setattr(search, "entropy_fraction", lambda: 0.5)
    for incumbent in ((0, 3, 1), (4, 3, 4)):
        monkeypatch.setattr(search, "incumbent", lambda found=incumbent: found)
        search.on_validation_epoch_end()
    assert [row["controller/greedy_entropy_fraction"] for row in rows] == [0.5, 0.5]
    assert [row["controller/weightless_fraction"] for row in rows] == pytest.approx([1 / 3, 1])


def test_rows_of_training_record_the_policy_and_no_others_do(tmp_path):
    search = make_search(cells=3)
    search._trainer = SimpleNamespace(loggers=[ChoicesCSV(tmp_path / "choices.csv")])
    search.trainer.loggers[0].log_metrics({"val/accuracy": 0.5}, step=1)
    for search.meta_step in (2, 4):
        assert search.end_window() == {}
    head, *lines = (tmp_path / "choices.csv").read_text().splitlines()
    sizes = [len(decision.choices) for decision in search.supernet.space.decisions]
    assert len(head.split(",")) == 1 + sum(sizes) and [line.split(",")[0] for line in lines] == ["2", "4"]
    # The policy did not move, and every row samples the same paths.
    assert lines[0].split(",")[1:] == lines[1].split(",")[1:]
    assert sum(map(float, lines[0].split(",")[1:])) == pytest.approx(len(sizes), abs=1e-5)


def test_the_entropy_fraction_is_near_one_at_the_start():
    torch.manual_seed(0)
    search = ENAS(Supernet(3, 1, 28, space="enas_macro", channels=4, cells=3))
    assert search.entropy_fraction() == pytest.approx(1.0, abs=1e-3)
    assert math.isfinite(search.controller.max_entropy())


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"archs_per_task": 0}, "archs_per_task=0"),
        ({"warmup_steps": -1}, "warmup_steps=-1"),
        ({"baseline_decay": 1.0}, "baseline_decay=1.0"),
        ({"skip_target": 0.0}, "skip_target=0.0"),
        ({"child_sampling": "greedy"}, "child_sampling=greedy"),
        ({"policy_steps": 0}, "policy_steps=0"),
    ],
)
def test_settings_out_of_range_are_named(flags, named):
    with pytest.raises(InputError, match=named):
        ENASLoop(**flags)
