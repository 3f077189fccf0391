"""MAML++: off it is MAML to the bit; on, each ingredient does what it says and nothing else."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from few_shot_nas.algorithms.gradient_learner import GradientLearner
from few_shot_nas.meta.problem import Problem
from few_shot_nas.algorithms.maml import MAML
from few_shot_nas.algorithms.maml_plus_plus import Ingredients, MAMLPlusPlus
from few_shot_nas.algorithms.settings import InnerLoop, OuterLoop
from few_shot_nas.episode import Episode, tasks
from few_shot_nas.errors import InputError
from few_shot_nas.meta.functional import call
from few_shot_nas.meta.outer_loss import multi_step_weights
from few_shot_nas.models.conv4 import Conv4
from few_shot_nas.nn.norm import per_step_layers

OFF = Ingredients(
    multi_step_until=0, first_order_until=0, learn_inner_rates=False, per_step_statistics=False,
    per_step_affine=False, adapt_norm=True, ensemble_of=0,
)  # fmt: skip
SWITCHES = {
    "multi_step_until": 10,
    "first_order_until": 10,
    "learn_inner_rates": True,
    "per_step_statistics": True,
    "per_step_affine": True,
    "adapt_norm": False,
}


def make_episode(dtype=torch.float64, seed=0, n_query=2, tasks_in_batch=1):
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(3)
    return Episode(
        torch.randn(tasks_in_batch, 6, 1, 16, 16, generator=g).to(dtype),
        y.repeat(tasks_in_batch, 2),
        torch.randn(tasks_in_batch, 3 * n_query, 1, 16, 16, generator=g).to(dtype),
        y.repeat_interleave(n_query).repeat(tasks_in_batch, 1),
        torch.arange(tasks_in_batch),
    )


def make(ingredients=OFF, dtype=torch.float64, cls=MAMLPlusPlus, **inner):
    torch.manual_seed(0)
    net = Conv4(n_way=3, in_channels=1, image_size=16, width=4).to(dtype)
    options = {} if cls is MAML else {"ingredients": ingredients}
    inner = InnerLoop(**{"inner_lr": 0.2, "inner_steps": 3, **inner})
    return cls(net, inner=inner, outer=OuterLoop(weight_decay=0.01, outer_lr=0.01), **options)


def train(module, dtype, steps=3):
    """Outer steps as training_step makes them, and the losses; by Lightning's own optimizer loop elsewhere."""
    optimizer, losses = module.configure_optimizers(), []
    module.optimizers = lambda: optimizer
    module.manual_backward = lambda loss: (losses.append(loss.detach()), loss.backward())
    for step in range(steps):
        module.training_step(make_episode(dtype, seed=step, tasks_in_batch=2), step)
    return losses


@pytest.mark.parametrize("first_order", [False, True])
def test_with_every_switch_off_it_is_maml_bit_for_bit(first_order):
    ours, maml = (make(dtype=torch.float32, cls=cls, first_order=first_order) for cls in (MAMLPlusPlus, MAML))
    assert all(torch.equal(a, b) for a, b in zip(train(ours, torch.float32), train(maml, torch.float32), strict=True))
    theirs = maml.state_dict()
    assert set(theirs) == set(ours.state_dict())
    assert all(torch.equal(value, theirs[name]) for name, value in ours.state_dict().items())
    task = next(tasks(make_episode(torch.float32, seed=9)))
    with torch.no_grad():
        expected = maml.task_logits(task)
        for mode, logits in ours.task_logits(task).items():
            assert torch.equal(logits, expected[mode])


@pytest.mark.parametrize("switch", SWITCHES)
def test_each_switch_alone_changes_what_is_learned_or_scored(switch):
    module, maml = make(dataclasses.replace(OFF, **{switch: SWITCHES[switch]})), make(cls=MAML)
    task = next(tasks(make_episode(seed=9)))
    train(module, torch.float64)
    train(maml, torch.float64)
    with torch.no_grad():
        ours, theirs = module.task_logits(task), maml.task_logits(task)
    if switch == "per_step_statistics":
        # Statistics are only watched: training is MAML's, and there is one more way to score.
        assert torch.equal(ours["transductive"], theirs["transductive"])
        assert set(ours) - set(theirs) == {"running"}
    else:
        assert not torch.allclose(ours["transductive"], theirs["transductive"], atol=1e-6)


# ---- multi-step loss, learned rates, orders --------------------------------------------------------------------------


def test_multi_step_weights_go_from_equal_to_the_last_as_in_the_authors_code():
    assert multi_step_weights(5, 0, 100) == pytest.approx([0.2] * 5)
    # e = 50 of E = 100: non-final 1/5 - 50 * 1/500 = 0.1, final 1/5 + 50 * 4/500 = 0.6.
    assert multi_step_weights(5, 50, 100) == pytest.approx([0.1] * 4 + [0.6])
    assert multi_step_weights(5, 99, 100) == pytest.approx([0.03 / 5] * 4 + [1 - 4 * 0.03 / 5])
    assert multi_step_weights(5, 100, 100) is None
    assert multi_step_weights(5, 0, 0) is None
    assert multi_step_weights(1, 0, 100) is None


C, Q = 0.7, -0.4


class Dot(nn.Module):
    """A network of one number."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(3.0, dtype=torch.float64))


@pytest.mark.parametrize("engine", ["unroll", "sweep"])
@pytest.mark.parametrize("num_steps", [1, 2, 5])
@pytest.mark.parametrize("first_order", [False, True])
def test_rates_and_multi_step_loss_on_a_quadratic_have_closed_forms(engine, num_steps, first_order):
    """w_s - C = prod (1 - a_k) (w_0 - C), and every loss 0.5 (w_s - Q)^2 is differentiated by hand."""
    inner = InnerLoop(inner_lr=0.1, inner_steps=num_steps, engine=engine, first_order=first_order)
    ingredients = dataclasses.replace(OFF, learn_inner_rates=True, multi_step_until=10)
    module = MAMLPlusPlus(Dot(), inner=inner, ingredients=ingredients, outer=OuterLoop())
    rates = module.learned_rates("w")
    with torch.no_grad():
        rates.copy_(torch.tensor([0.1, 0.3, -0.2, 0.05, 0.4])[:num_steps])
    module.meta_step = 4
    module.problem = lambda task: Problem(
        *module.split(),
        lambda params, fixed, step: 0.5 * (params["w"] - C) ** 2,
        lambda params, fixed, step: (0.5 * (params["w"] - Q) ** 2, torch.zeros(1, 3)),
    )
    task = next(tasks(make_episode()))._replace(query_y=torch.zeros(1, dtype=torch.int64))
    loss = module.task_loss(task)[0]
    loss.backward()
    weights = module.step_weights() or [1.0]
    a = rates.detach().tolist()
    w = [3.0]
    for rate in a:
        w.append(w[-1] - rate * (w[-1] - C))
    keep = [1.0] * num_steps if first_order else [1 - rate for rate in a]

    def product(start, stop):
        return torch.tensor(keep[start:stop], dtype=torch.float64).prod().item()

    total = sum(0.5 * weight * (w[s + 1] - Q) ** 2 for s, weight in enumerate(weights))
    to_w = sum(weight * (w[s + 1] - Q) * product(0, s + 1) for s, weight in enumerate(weights))
    to_rates = [
        sum(-(w[k] - C) * weights[s] * (w[s + 1] - Q) * product(k + 1, s + 1) for s in range(k, num_steps))
        for k in range(num_steps)
    ]
    assert float(loss) == pytest.approx(total, abs=1e-12)
    assert float(module.net.w.grad) == pytest.approx(to_w, abs=1e-12)
    assert rates.grad.tolist() == pytest.approx(to_rates, abs=1e-12)


def gradients(module, episode):
    module.zero_grad()
    for task in tasks(episode):
        module.task_loss(task)[0].backward()
    return {name: p.grad.clone() for name, p in module.named_parameters()}


@pytest.mark.parametrize("num_steps", [1, 2, 5])
@pytest.mark.parametrize("inner_optimizer", ["sgd", "adam"])
def test_everything_on_sweep_unrolling_and_central_differences_agree(num_steps, inner_optimizer):
    lr = 0.1 if inner_optimizer == "sgd" else 0.002
    inner = {"inner_steps": num_steps, "inner_optimizer": inner_optimizer, "inner_lr": lr}
    module, swept = (make(Ingredients(), engine=engine, **inner) for engine in ("unroll", "sweep"))
    episode = make_episode()
    found, other = gradients(module, episode), gradients(swept, episode)
    for name, gradient in found.items():
        torch.testing.assert_close(other[name], gradient, rtol=0, atol=1e-8, msg=name)
    generator = torch.Generator().manual_seed(1)
    own = dict(module.named_parameters())
    direction = {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in own.items()}
    norm = torch.cat([d.flatten() for d in direction.values()]).norm()
    start, numeric = {n: p.detach().clone() for n, p in own.items()}, 0.0
    # Four points: Adam's root bends within 1e-4, so that two points err by 2e-8.
    for shift, weight in ((1, 8 / 12), (-1, -8 / 12), (2, -1 / 12), (-2, 1 / 12)):
        with torch.no_grad():
            for n, p in own.items():
                p.copy_(start[n] + shift * 1e-6 * direction[n] / norm)
        numeric += weight / 1e-6 * float(module.task_loss(next(tasks(episode)))[0].detach())
    slope = float(sum((found[n] * direction[n]).sum() for n in own) / norm)
    assert numeric == pytest.approx(slope, abs=1e-8)


def test_the_order_changes_at_the_meta_step_that_was_asked_for():
    module, episode = make(dataclasses.replace(OFF, first_order_until=5)), make_episode()
    expected = {fo: gradients(make(cls=MAML, first_order=fo), episode) for fo in (True, False)}
    for module.meta_step, first_order in ((0, True), (4, True), (5, False)):
        found = gradients(module, episode)
        assert all(torch.equal(found[name], expected[first_order][name]) for name in found)


def test_steps_past_the_last_in_training_use_the_last_rate():
    module = make(dataclasses.replace(OFF, learn_inner_rates=True), eval_inner_steps=5)
    name = next(iter(module.split()[0]))
    assert torch.equal(module.rate(name, 4), module.rate(name, 2))
    assert all(rate.shape == (3,) and rate[0] == torch.tensor(0.2) for rate in module.rates.parameters())
    assert module.parameter_groups()[1] == {"params": list(module.rates.parameters()), "weight_decay": 0.0}
    with torch.no_grad():
        assert module.task_logits(next(tasks(make_episode())))["support"].isfinite().all()


# ---- batch norm ------------------------------------------------------------------------------------------------------


def test_running_statistics_are_those_of_the_queries_at_every_iterate_and_are_used():
    module = make(dataclasses.replace(OFF, per_step_statistics=True))
    before = {n: p.detach().clone() for n, p in module.net.named_parameters()}
    train(module, torch.float64, steps=1)
    expected = []
    for task in tasks(make_episode(seed=0, tasks_in_batch=2)):
        params, per_step = dict(before), []
        for _ in range(3):
            point = {n: value.detach().requires_grad_() for n, value in params.items()}
            loss = F.cross_entropy(call(module.net, point, task.support_x), task.support_y)
            grads = torch.autograd.grad(loss, list(point.values()))
            params = {n: value.detach() - 0.2 * g for (n, value), g in zip(point.items(), grads, strict=True)}
            out = F.conv2d(task.query_x, params["body.0.weight"], params["body.0.bias"], padding=1)
            per_step.append(torch.stack((out.mean((0, 2, 3)), out.var((0, 2, 3)))))
        expected.append(torch.stack(per_step))
    mean, variance = torch.stack(expected).mean(0).unbind(1)
    layer = per_step_layers(module.net)["body.1"]
    torch.testing.assert_close(layer.running_mean, 0.1 * mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(layer.running_var, 0.9 + 0.1 * variance, rtol=0, atol=1e-12)
    task = next(tasks(make_episode(seed=3, n_query=3)))
    with torch.no_grad():
        whole = module.task_logits(task)
        alone = module.task_logits(task._replace(query_x=task.query_x[:2], query_y=task.query_y[:2]))
        layer.running_mean[2] += 1.0
        other = module.task_logits(task)
    torch.testing.assert_close(alone["running"], whole["running"][:2], rtol=0, atol=1e-12)
    assert not torch.allclose(other["running"], whole["running"])
    assert torch.equal(other["transductive"], whole["transductive"])


def test_the_statistics_are_the_same_by_both_engines():
    states = []
    for engine in ("unroll", "sweep"):
        module = make(Ingredients(), engine=engine)
        train(module, torch.float64, steps=1)
        states.append({n: b for n, b in module.named_buffers()})
    assert states[0]
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=0, atol=1e-12)


@pytest.mark.parametrize("ingredients", [Ingredients(), dataclasses.replace(OFF, adapt_norm=False)])
def test_scales_and_shifts_are_learned_but_not_adapted(ingredients):
    module = make(ingredients)
    moved, fixed = module.split()
    norms = {n for n in dict(module.net.named_parameters()) if n.split(".")[1] in ("1", "5", "9", "13")}
    assert len(norms) == 8 and set(fixed) == norms and not norms & set(moved)
    found = gradients(module, make_episode())
    assert all(found[f"net.{n}"].abs().max() > 0 for n in norms)


def test_a_network_without_batch_norm_is_refused_only_if_something_is_kept_per_step():
    net = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(InputError, match="Sequential has no BatchNorm2d .* per_step_statistics"):
        MAMLPlusPlus(net)
    MAMLPlusPlus(net, ingredients=OFF)


def test_validation_by_running_statistics_needs_them():
    by_running = OuterLoop(bn_mode="running")
    with pytest.raises(InputError, match="bn_mode=running: Conv4 has transductive, support here.*per_step_statistics"):
        MAMLPlusPlus(make(cls=MAML).net, ingredients=OFF, outer=by_running)
    kept = dataclasses.replace(OFF, per_step_statistics=True)
    assert MAMLPlusPlus(make(cls=MAML).net, ingredients=kept, outer=by_running).bn_modes[-1] == "running"


# ---- ensemble --------------------------------------------------------------------------------------------------------


def test_the_ensemble_is_the_mean_of_the_best_networks_logits_labelled_as_such():
    module = make(dataclasses.replace(Ingredients(), ensemble_of=2))
    task = next(tasks(make_episode(seed=4)))
    logits = []
    for step, accuracy in enumerate((0.3, 0.5, 0.1, 0.5)):
        train(module, torch.float64, steps=1)
        with torch.no_grad():
            logits.append(module.task_logits(task))
        state = {name: value.clone() for name, value in module.state_dict().items()}
        module._keep_best([{"meta_step": step, "accuracy": accuracy, "state": state}])
    assert [kept["meta_step"] for kept in module._best] == [1, 3]
    train(module, torch.float64, steps=1)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with torch.no_grad():
        module.test_step(Episode(*(field[None] for field in task[:5])), 0)
        ensemble = module.ensemble_logits(task)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    for mode in ("transductive", "support", "running"):
        expected = (logits[1][mode] + logits[3][mode]) / 2
        torch.testing.assert_close(ensemble[f"ensemble2_{mode}"], expected, rtol=0, atol=1e-12)
    labels = [row["bn_mode"] for row in module.task_scores.rows]
    assert labels[:3] == ["transductive", "support", "running"]
    assert labels[3:] == [f"ensemble2_{mode}" for mode in labels[:3]]


@pytest.mark.parametrize(
    ("fn", "sanity_checking", "kept"), [("fit", False, [7]), ("fit", True, []), ("validate", False, [])]
)
def test_only_validations_while_training_enter_the_ensemble(monkeypatch, fn, sanity_checking, kept):
    module = make(dataclasses.replace(OFF, ensemble_of=2))
    monkeypatch.setattr(GradientLearner, "on_validation_epoch_end", lambda self: None)
    module._trainer = SimpleNamespace(state=SimpleNamespace(fn=fn), sanity_checking=sanity_checking)
    module.meta_step, module.val_accuracy = 7, 0.9
    module.on_validation_epoch_end()
    assert [entry["meta_step"] for entry in module._best] == kept


def test_the_kept_networks_are_in_the_checkpoint_as_plain_data_and_merge_with_those_at_hand(tmp_path):
    module = make(dataclasses.replace(OFF, ensemble_of=2))
    module._keep_best([{"meta_step": 1, "accuracy": 0.5, "state": dict(module.state_dict())}])
    checkpoint = {}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "a.ckpt")
    module._keep_best([{"meta_step": 2, "accuracy": 0.4, "state": dict(module.state_dict())}])
    module.on_load_checkpoint(torch.load(tmp_path / "a.ckpt", weights_only=True))
    assert [kept["meta_step"] for kept in module._best] == [1, 2]
    fresh = make(dataclasses.replace(OFF, ensemble_of=2))
    fresh.on_load_checkpoint(torch.load(tmp_path / "a.ckpt", weights_only=True))
    assert [kept["meta_step"] for kept in fresh._best] == [1]


@pytest.mark.parametrize("flag", ["multi_step_until", "first_order_until", "ensemble_of"])
def test_a_negative_count_is_refused(flag):
    with pytest.raises(InputError, match=f"{flag}=-1"):
        Ingredients(**{flag: -1})
