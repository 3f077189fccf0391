"""MAML's relatives: closed forms on a quadratic, a plain loop on Conv4, and what each leaves bit-identical."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from few_shot_nas.algorithms.anil import ANIL
from few_shot_nas.algorithms.boil import BOIL
from few_shot_nas.meta.problem import Problem
from few_shot_nas.algorithms.maml import MAML
from few_shot_nas.algorithms.meta_sgd import MetaSGD
from few_shot_nas.algorithms.settings import InnerLoop, OuterLoop
from few_shot_nas.episode import Episode, tasks
from few_shot_nas.errors import InputError
from few_shot_nas.models.conv4 import Conv4

LEARNERS = {"MAML": MAML, "ANIL": ANIL, "BOIL": BOIL, "MetaSGD": MetaSGD}
everyone = pytest.mark.parametrize("name", LEARNERS)
both_engines = pytest.mark.parametrize("engine", ["unroll", "sweep"])


def is_head(parameter):
    return parameter.startswith("head")


MOVED = {"MAML": lambda n: True, "MetaSGD": lambda n: True, "ANIL": is_head, "BOIL": lambda n: not is_head(n)}


def make_episode(dtype=torch.float64, seed=0, n_query=2):
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(3)
    return Episode(
        torch.randn(1, 6, 1, 16, 16, generator=g).to(dtype),
        y.repeat(1, 2),
        torch.randn(1, 3 * n_query, 1, 16, 16, generator=g).to(dtype),
        y.repeat_interleave(n_query)[None],
        torch.arange(1),
    )


def make(name, dtype=torch.float64, options=None, **inner):
    torch.manual_seed(0)
    net = Conv4(n_way=3, in_channels=1, image_size=16, width=4).to(dtype)
    return LEARNERS[name](net, inner=InnerLoop(**inner), outer=OuterLoop(), **(options or {}))


def gradients(module, episode):
    module.zero_grad()
    for task in tasks(episode):
        module.task_loss(task)[0].backward()
    return {name: p.grad.clone() for name, p in module.named_parameters()}


# ---- quadratics -----------------------------------------------------------------------------------------------------


class TwoPart(nn.Module):
    """A body and a head of two numbers each."""

    def __init__(self):
        super().__init__()
        self.body = nn.Parameter(torch.tensor([3.0, 0.5], dtype=torch.float64))
        self.head = nn.Linear(2, 1, bias=False, dtype=torch.float64)


C = torch.tensor([0.7, -1.2], dtype=torch.float64)
Q = torch.tensor([0.1, 2.0], dtype=torch.float64)


def quadratic(module):
    """Support loss 0.5|w-C|^2 and query loss 0.5|w-Q|^2 over all parameters, moved or not."""

    def distance(params, to):
        return sum(0.5 * (value - to).square().sum() for value in params.values())

    def problem(task):
        return Problem(
            *module.split(),
            lambda params, fixed, step: distance({**fixed, **params}, C),
            lambda params, fixed, step: (distance({**fixed, **params}, Q), torch.zeros(1, 3)),
        )

    return problem


@everyone
@both_engines
@pytest.mark.parametrize("num_steps", [1, 2, 5])
@pytest.mark.parametrize("first_order", [False, True])
def test_meta_gradients_of_a_quadratic_have_closed_forms(name, engine, num_steps, first_order):
    """Each step contracts w - C by 1 - rate; the second order multiplies the outer gradient w_T - Q by the same."""
    inner = InnerLoop(inner_lr=0.1, inner_steps=num_steps, first_order=first_order, engine=engine)
    module = LEARNERS[name](TwoPart(), inner=inner, outer=OuterLoop())
    module.problem = quadratic(module)
    start = {n: p.detach().clone() for n, p in module.net.named_parameters()}
    task = next(tasks(make_episode()))._replace(query_y=torch.zeros(1, dtype=torch.int64))
    module.task_loss(task)[0].backward()
    for parameter, value in module.net.named_parameters():
        rate = module.rate(parameter, 0) if MOVED[name](parameter) else 0.0
        rate = rate.detach() if isinstance(rate, torch.Tensor) else rate
        factor = (1 - rate) ** num_steps
        reached = C + factor * (start[parameter] - C)
        expected = (1.0 if first_order else factor) * (reached - Q)
        torch.testing.assert_close(value.grad, expected, rtol=0, atol=1e-12)
        if name == "MetaSGD":
            learned = module.rate(parameter, 0).grad
            slope = sum(
                -(C + (1 - rate) ** s * (start[parameter] - C) - C)
                * (1.0 if first_order else (1 - rate) ** (num_steps - 1 - s))
                for s in range(num_steps)
            )
            torch.testing.assert_close(learned, slope * (reached - Q), rtol=0, atol=1e-12)


# ---- Conv4 ----------------------------------------------------------------------------------------------------------


def plain_meta_gradient(net, episode, *, moved, rate, steps, first_order):
    """The textbook loop on one task: fast weights and outer gradient by autograd.grad, no code of ours."""
    own = dict(net.named_parameters())
    fast = {name: value for name, value in own.items() if moved(name)}
    for _ in range(steps):
        logits = functional_call(net, {**own, **fast}, (episode.support_x[0],))
        loss = F.cross_entropy(logits, episode.support_y[0])
        grads = torch.autograd.grad(loss, list(fast.values()), create_graph=True)
        if first_order:
            grads = [g.detach() for g in grads]
        fast = {name: value - rate(name) * g for (name, value), g in zip(fast.items(), grads, strict=True)}
    loss = F.cross_entropy(functional_call(net, {**own, **fast}, (episode.query_x[0],)), episode.query_y[0])
    return dict(zip(own, torch.autograd.grad(loss, list(own.values())), strict=True))


@everyone
@both_engines
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
def test_meta_gradients_on_conv4_equal_a_plain_loop(name, engine, first_order, steps):
    module = make(name, inner_lr=0.1, inner_steps=steps, first_order=first_order, engine=engine)
    episode = make_episode()
    actual = gradients(module, episode)
    expected = plain_meta_gradient(
        module.net, episode, moved=MOVED[name], rate=lambda n: module.rate(n, 0), steps=steps, first_order=first_order
    )
    assert max(float(g.abs().max()) for g in expected.values()) > 1e-2
    for parameter, gradient in expected.items():
        torch.testing.assert_close(actual[f"net.{parameter}"], gradient, rtol=0, atol=1e-9, msg=parameter)


@both_engines
@pytest.mark.parametrize("name", LEARNERS)
def test_the_engines_and_optimisers_go_together(name, engine):
    """Sweep and unrolling agree with Adam inside too, and Meta-SGD's rates get the same gradient."""
    adam = {"inner_lr": 0.01, "inner_steps": 3, "inner_optimizer": "adam"}
    reference = gradients(make(name, **adam), make_episode())
    for parameter, gradient in gradients(make(name, engine=engine, **adam), make_episode()).items():
        torch.testing.assert_close(gradient, reference[parameter], rtol=0, atol=1e-8, msg=parameter)
        assert gradient.isfinite().all()


def count_nodes(loss):
    seen, todo = set(), [loss.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [following for following, _ in node.next_functions]
    return len(seen)


@everyone
def test_the_graph_of_a_swept_task_does_not_grow_with_its_steps(name):
    task = next(tasks(make_episode()))
    sizes = {
        engine: [
            count_nodes(make(name, inner_lr=0.1, inner_steps=steps, engine=engine).task_loss(task)[0])
            for steps in (1, 5)
        ]
        for engine in ("sweep", "unroll")
    }
    assert sizes["sweep"][0] == sizes["sweep"][1] < sizes["unroll"][0] < sizes["unroll"][1]


def test_first_order_is_the_plain_gradient_at_the_adapted_point():
    module, episode = make("MAML", inner_lr=0.2, inner_steps=2, first_order=True), make_episode()
    meta = gradients(module, episode)
    task = next(tasks(episode))
    adapted = module.descend(module.problem(task), training=True)[-1]
    point = {name: value.detach().requires_grad_() for name, value in adapted.items()}
    F.cross_entropy(functional_call(module.net, point, (task.query_x,)), task.query_y).backward()
    for name, value in point.items():
        torch.testing.assert_close(meta[f"net.{name}"], value.grad, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("name", "other"), [("ANIL", "BOIL"), ("BOIL", "ANIL")])
def test_the_part_that_is_not_adapted_keeps_its_bits(name, other):
    module = make(name, inner_lr=0.5, inner_steps=2)
    task = next(tasks(make_episode()))
    problem = module.problem(task)
    last = module.descend(problem, training=False)[-1]
    own = dict(module.net.named_parameters())
    assert set(last) == {n for n in own if MOVED[name](n)} and last
    # A convolution's bias before BatchNorm has no gradient but rounding, so only the others must have moved.
    assert all(not torch.equal(last[n], own[n]) for n in last if not (n.startswith("body") and n.endswith("bias")))
    whole = {**own, **last}
    assert all(whole[n] is own[n] for n in own if MOVED[other](n))


def test_anil_runs_the_body_once_a_set_however_many_steps(monkeypatch):
    module, calls = make("ANIL", inner_steps=5), []
    module.net.body.register_forward_hook(lambda *_: calls.append(1))
    module.task_loss(next(tasks(make_episode())))
    assert len(calls) == 2


def test_nil_scores_are_similarity_weighted_support_labels():
    module = make("ANIL", options={"nil": True})
    task = next(tasks(make_episode(n_query=3)))
    with torch.no_grad():
        logits = module.task_logits(task)
        support, query = module.net.features(task.support_x), module.net.features(task.query_x)
    assert set(logits) == {"transductive", "support", "nil_transductive", "nil_support"}
    for q in range(9):
        scores = torch.zeros(3, dtype=torch.float64)
        for s in range(6):
            scores[task.support_y[s]] += F.cosine_similarity(query[q], support[s], dim=0)
        torch.testing.assert_close(logits["nil_transductive"][q], scores, rtol=0, atol=1e-12)
    assert set(make("ANIL").task_logits(task)) == {"transductive", "support"}


def test_nil_support_mode_judges_each_query_alone():
    module = make("ANIL", options={"nil": True})
    task = next(tasks(make_episode(n_query=3)))
    alone = task._replace(query_x=task.query_x[:2], query_y=task.query_y[:2])
    with torch.no_grad():
        whole, some = module.task_logits(task), module.task_logits(alone)
    torch.testing.assert_close(some["nil_support"], whole["nil_support"][:2], rtol=0, atol=1e-12)


@pytest.mark.parametrize("first_order", [False, True])
def test_meta_sgd_with_constant_rates_is_maml_bit_for_bit(first_order):
    inner = {"inner_lr": 0.3, "inner_steps": 2, "first_order": first_order}
    constant = make("MetaSGD", torch.float32, {"rate_init": "constant"}, **inner)
    maml = make("MAML", torch.float32, **inner)
    episode = make_episode(torch.float32)
    theirs = gradients(maml, episode)
    ours = gradients(constant, episode)
    assert all(torch.equal(ours[name], gradient) for name, gradient in theirs.items())
    task = next(tasks(episode))
    with torch.no_grad():
        assert torch.equal(constant.task_logits(task)["support"], maml.task_logits(task)["support"])


def test_meta_sgd_rates_are_drawn_from_the_seed_in_the_papers_range():
    one, same, other = (make("MetaSGD", options={"seed": seed}) for seed in (1, 1, 2))
    rates = torch.cat([rate.flatten() for rate in one.rates.parameters()])
    assert 0.005 <= rates.min() < 0.01 and 0.095 < rates.max() <= 0.1
    assert all(torch.equal(a, b) for a, b in zip(one.rates.parameters(), same.rates.parameters(), strict=True))
    assert not torch.equal(rates, torch.cat([rate.flatten() for rate in other.rates.parameters()]))
    assert one.parameter_groups()[1]["weight_decay"] == 0.0


@pytest.mark.parametrize("name", ["ANIL", "BOIL"])
def test_a_network_without_a_head_is_refused(name):
    with pytest.raises(InputError, match=f"{name} needs a network .* not Sequential"):
        LEARNERS[name](nn.Sequential(nn.Linear(2, 2)))
