"""The reverse sweep against unrolling and finite differences in float64, and how much it keeps in memory."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from few_shot_nas.meta.functional import call
from few_shot_nas.meta.inner_loop import adapt
from few_shot_nas.meta.inner_optimizer import PLAIN, Adam
from few_shot_nas.meta.reverse_sweep import swept_loss
from few_shot_nas.models.conv4 import Conv4

RULES = {"sgd": PLAIN, "adam": Adam(root_eps=1e-4)}


class Problem:
    """A task on Conv4 with BatchNorm in float64: ``phi`` is the second block and the head, theta all else."""

    def __init__(self, rates="number", phi=True, rule="sgd", image_size=16):
        torch.manual_seed(0)
        self.net = Conv4(n_way=3, in_channels=1, image_size=image_size, width=3).double()
        self.support = torch.randn(6, 1, image_size, image_size, dtype=torch.float64)
        self.query = torch.randn(6, 1, image_size, image_size, dtype=torch.float64)
        self.labels = torch.arange(3).repeat(2)
        self.rule = RULES[rule]
        everything = dict(self.net.named_parameters())
        self.fixed = {n: p for n, p in everything.items() if phi and n.startswith(("head", "body.4", "body.5"))}
        self.moved = {n: p for n, p in everything.items() if n not in self.fixed}
        scale = 0.5 if rule == "sgd" else 0.02
        self.rates = {}
        if rates == "tensor_and_step":
            self.rates = {n: (scale * torch.rand(5, dtype=torch.float64)).requires_grad_() for n in self.moved}
        if rates == "element":
            self.rates = {n: (scale * torch.rand_like(p)).requires_grad_() for n, p in self.moved.items()}
        self.rate = {
            "number": lambda name, step: scale,
            "tensor_and_step": lambda name, step: self.rates[name][step],
            "element": lambda name, step: self.rates[name],
        }[rates]

    @property
    def leaves(self):
        return [*self.moved.values(), *self.fixed.values(), *self.rates.values()]

    def support_loss(self, params, fixed, step):
        return F.cross_entropy(call(self.net, {**fixed, **params}, self.support, step=step), self.labels)

    def query_loss(self, params, fixed, step):
        logits = call(self.net, {**fixed, **params}, self.query, step=step)
        return F.cross_entropy(logits, self.labels), logits

    def unrolled(self, num_steps, weights=None):
        trajectory = adapt(
            lambda params, step: self.support_loss(params, self.fixed, step),
            self.moved, lr=self.rate, num_steps=num_steps, rule=self.rule,
        )  # fmt: skip
        weights = weights or [0.0] * (num_steps - 1) + [1.0]
        return sum(w * self.query_loss(trajectory[s + 1], self.fixed, s)[0] for s, w in enumerate(weights) if w)

    def swept(self, num_steps, weights=None):
        return swept_loss(
            self.support_loss, self.query_loss, self.moved, self.fixed, lr=self.rate, num_steps=num_steps,
            weights=weights, rule=self.rule,
        )  # fmt: skip


def gradients(loss, leaves):
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, leaves, strict=True)]


@pytest.mark.parametrize("num_steps", [1, 2, 5])
@pytest.mark.parametrize("multi_step", [False, True])
@pytest.mark.parametrize(
    ("rates", "phi", "rule"),
    [
        ("number", False, "sgd"),
        ("number", True, "sgd"),
        ("tensor_and_step", True, "sgd"),
        ("element", True, "sgd"),
        ("number", True, "adam"),
        ("tensor_and_step", True, "adam"),
    ],
)
def test_the_sweep_equals_unrolling_and_central_differences(num_steps, multi_step, rates, phi, rule):
    problem = Problem(rates, phi, rule)
    weights = [0.5 / num_steps] * (num_steps - 1) + [0.7] if multi_step else None
    swept = problem.swept(num_steps, weights)
    unrolled = problem.unrolled(num_steps, weights)
    torch.testing.assert_close(swept.loss, unrolled, rtol=0, atol=1e-12)
    by_sweep, by_unrolling = gradients(swept.loss, problem.leaves), gradients(unrolled, problem.leaves)
    assert max(float(g.abs().max()) for g in by_unrolling) > 1e-2
    for one, other in zip(by_sweep, by_unrolling, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-8)
    slope, numeric = slopes(problem, by_sweep, lambda: problem.unrolled(num_steps, weights))
    assert abs(slope - numeric) < 1e-8


def slopes(problem, found, loss, h=2e-6):
    """Slope along one random unit direction of all leaves at once, by the gradients and by central differences.

    So short a step that no ReLU or max-pool changes sides within it.
    """
    generator = torch.Generator().manual_seed(1)
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in problem.leaves]
    norm = torch.cat([d.flatten() for d in direction]).norm()
    values, start = [], [leaf.detach().clone() for leaf in problem.leaves]
    with torch.no_grad():
        for sign in (1, -1):
            for leaf, origin, d in zip(problem.leaves, start, direction, strict=True):
                leaf.copy_(origin + sign * h * d / norm)
            values.append(float(loss()))
    numeric = (values[0] - values[1]) / (2 * h)
    return sum(float((g * d).sum() / norm) for g, d in zip(found, direction, strict=True)), numeric


def test_the_extra_and_the_iterates_are_those_of_the_ordinary_loop():
    problem = Problem()
    swept = problem.swept(2)
    trajectory = adapt(
        lambda params, step: problem.support_loss(params, problem.fixed, step),
        problem.moved, lr=problem.rate, num_steps=2, second_order=False,
    )  # fmt: skip
    assert len(swept.trajectory) == 3
    for ours, theirs in zip(swept.trajectory, trajectory, strict=True):
        for name, value in ours.items():
            torch.testing.assert_close(value, theirs[name].detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(
        swept.aux, problem.query_loss(trajectory[-1], problem.fixed, 1)[1].detach(), rtol=0, atol=1e-12
    )


def count_nodes(loss):
    seen, todo = set(), [loss.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [following for following, _ in node.next_functions]
    return len(seen)


def peak_bytes(make_gradients):
    """Most bytes that tensors made meanwhile held at one time, by torch's own record of allocations."""
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        make_gradients()
    now = peak = 0
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def test_the_graph_of_the_sweep_does_not_grow_with_the_number_of_steps():
    problem = Problem(image_size=32)
    assert len({count_nodes(problem.swept(steps).loss) for steps in (1, 5, 10)}) == 1
    assert count_nodes(problem.unrolled(5)) > 3 * count_nodes(problem.unrolled(1))


def test_the_peak_of_the_sweep_grows_by_the_iterates_alone():
    problem = Problem(image_size=32)

    def peak(engine, steps):
        make = {"swept": lambda: problem.swept(steps).loss, "unrolled": lambda: problem.unrolled(steps)}[engine]
        return peak_bytes(lambda: gradients(make(), problem.leaves))

    peak("swept", 1)
    parameters = sum(p.numel() * p.element_size() for p in problem.moved.values())
    random_state = torch.get_rng_state().numel()
    swept = peak("swept", 9) - peak("swept", 1)
    unrolled = peak("unrolled", 9) - peak("unrolled", 1)
    assert swept <= 8 * (3 * parameters + random_state)
    assert unrolled > 10 * swept


def test_dropout_draws_the_same_masks_in_a_step_and_in_its_recomputation():
    torch.manual_seed(0)
    weight = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    x = torch.randn(5, 4, dtype=torch.float64)

    def loss(params, fixed, step):
        return F.dropout(torch.tanh(x @ params["w"]), 0.5).square().sum()

    def make(engine):
        torch.manual_seed(7)
        if engine == "sweep":
            query = lambda params, fixed, step: (params["w"].sin().sum(), torch.zeros(()))  # noqa: E731
            return swept_loss(loss, query, {"w": weight}, {}, lr=lambda n, s: 0.1, num_steps=3).loss
        last = adapt(lambda p, s: loss(p, {}, s), {"w": weight}, lr=lambda n, s: 0.1, num_steps=3)[-1]
        return last["w"].sin().sum()

    results = {engine: torch.autograd.grad(make(engine), weight)[0] for engine in ("sweep", "unroll")}
    torch.testing.assert_close(results["sweep"], results["unroll"], rtol=0, atol=1e-12)


def test_the_generator_goes_on_as_if_nothing_had_been_recomputed():
    weight = nn.Parameter(torch.ones(3))
    loss = lambda params, fixed, step: F.dropout(params["w"], 0.5).square().sum()  # noqa: E731
    query = lambda params, fixed, step: (F.dropout(params["w"], 0.5).sum(), torch.zeros(()))  # noqa: E731
    drawn = []
    for engine in ("sweep", "unroll"):
        torch.manual_seed(3)
        if engine == "sweep":
            swept_loss(loss, query, {"w": weight}, {}, lr=lambda n, s: 0.1, num_steps=3)
        else:
            query(adapt(lambda p, s: loss(p, {}, s), {"w": weight}, lr=lambda n, s: 0.1, num_steps=3)[-1], {}, 2)
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)


@pytest.mark.parametrize(
    ("change", "message"), [({"num_steps": 0}, "num_steps >= 1, got 0"), ({"weights": [1.0]}, "2 steps, 1 weights")]
)
def test_what_cannot_be_swept_is_refused(change, message):
    problem = Problem()
    arguments = {"lr": problem.rate, "num_steps": 2, **change}
    with pytest.raises(ValueError, match=message):
        swept_loss(problem.support_loss, problem.query_loss, problem.moved, problem.fixed, **arguments)
