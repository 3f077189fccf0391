"""T-NAS, T-NAS++ and Auto-MAML. Truth: plain loops in float64 that know nothing of the learners."""

import pytest
import torch
import torch.nn.functional as F

from few_shot_nas.algorithms.alpha_search import AlphaLoop, is_alpha
from few_shot_nas.algorithms.auto_maml import AutoMAML
from few_shot_nas.algorithms.settings import InnerLoop, OuterLoop
from few_shot_nas.algorithms.tnas import TNAS
from few_shot_nas.algorithms.tnas_plus_plus import TNASPlusPlus
from few_shot_nas.errors import InputError
from tests.algorithms.alpha_nets import (
    RATES,
    first_adam_step,
    gradients,
    inner,
    joint_rate,
    loss_of,
    make_net,
    make_task,
    meta_batch,
    one_update,
    query_gradient,
    settings,
    tasks_of,
)

# ---- T-NAS -----------------------------------------------------------------------------------------------------------


def test_the_meta_gradient_of_tnas_is_that_of_a_plain_loop():
    module = TNAS(make_net(), **settings())
    drawn = tasks_of(2)
    for task in drawn:
        module.task_loss(task)[0].backward()
    expected = [query_gradient(module.net, inner(module.net, task, 3, joint_rate), task) for task in drawn]
    for name, found in gradients(module).items():
        assert torch.allclose(found, expected[0][name] + expected[1][name], rtol=0, atol=1e-9), name


def test_one_outer_step_of_tnas_is_adam_on_weights_and_alphas_with_their_own_rates():
    module = TNAS(make_net(), **settings(alpha_lr=0.01), outer=OuterLoop(outer_lr=0.02))
    drawn = tasks_of(2)
    start = {name: value.detach().clone() for name, value in module.net.named_parameters()}
    expected = [query_gradient(module.net, inner(module.net, task, 3, joint_rate), task) for task in drawn]
    after = one_update(module, meta_batch(drawn))
    for name, value in start.items():
        mean = (expected[0][name] + expected[1][name]) / 2 + (1e-3 * value if is_alpha(name) else 0)
        step = (0.01 if is_alpha(name) else 0.02) * mean / (mean.abs() + 1e-8)  # Adam's first step
        assert torch.allclose(after[name], value - step, rtol=0, atol=1e-9), name


def test_without_inner_rates_the_gradient_of_tnas_is_that_of_the_queries_alone():
    module = TNAS(
        make_net(), inner=InnerLoop(1e-300, 2, first_order=True), alphas=AlphaLoop(alpha_inner_lr=0.0)
    )
    task = make_task(0)
    module.task_loss(task)[0].backward()
    expected = query_gradient(module.net, dict(module.net.named_parameters()), task)
    for name, found in gradients(module).items():
        assert torch.allclose(found, expected[name], rtol=0, atol=1e-12), name


def test_the_alphas_of_a_row_can_be_shifted_and_their_gradient_sums_to_zero():
    net, task = make_net(), make_task(0)
    logits = net(task.query_x)
    gradient = torch.autograd.grad(F.cross_entropy(logits, task.query_y), list(net.alphas.values()))
    assert all(bool((rows.sum(dim=-1).abs() < 1e-12).all()) for rows in gradient)
    with torch.no_grad():
        for value in net.alphas.values():
            value += torch.arange(len(value), dtype=value.dtype)[:, None]
    assert torch.allclose(net(task.query_x), logits, rtol=0, atol=1e-9)


def test_a_task_is_decoded_from_its_support_set_alone():
    module, task = TNAS(make_net(), **settings()), make_task(0)
    other = task._replace(query_x=torch.full_like(task.query_x, float("nan")), query_y=task.query_y.flip(0))
    assert module.decode(task) == module.decode(other)


def test_the_second_order_is_an_option_and_differs():
    grads = []
    for first_order in (True, False):
        given = {**settings(), "inner": InnerLoop(0.05, 2, first_order=first_order)}
        module = TNAS(make_net(), **given)
        module.task_loss(make_task(0))[0].backward()
        grads.append(torch.cat([g.flatten() for g in gradients(module).values() if g is not None]))
    assert not torch.allclose(grads[0], grads[1], rtol=1e-3)


def test_tnas_plus_plus_without_its_ingredients_is_tnas():
    from few_shot_nas.algorithms.maml_plus_plus import Ingredients

    off = Ingredients(0, 0, False, False, False, True)
    plain, more = TNAS(make_net(), **settings()), TNASPlusPlus(make_net(), **settings(), ingredients=off)
    for module in (plain, more):
        module.task_loss(make_task(0))[0].backward()
    for name, found in gradients(more).items():
        assert torch.equal(found, gradients(plain)[name]), name


def test_the_learned_rates_of_tnas_plus_plus_start_at_those_of_tnas():
    module = TNASPlusPlus(make_net(), **settings())
    for name in module.split()[0]:
        assert module.learned_rates(name).tolist() == pytest.approx([joint_rate(name)] * 3)
    module.task_loss(make_task(0))[0].backward()
    assert all(value.grad is not None for value in module.rates.parameters())


# ---- Auto-MAML -------------------------------------------------------------------------------------------------------


def weights_only(name):
    return 0.0 if is_alpha(name) else RATES["inner_lr"]


@pytest.mark.parametrize("compat", ["paper", "code"])
def test_auto_maml_moves_alphas_by_the_even_tasks_and_then_weights_by_the_odd_ones(compat):
    module = AutoMAML(make_net(), **settings(alpha_lr=0.01), outer=OuterLoop(outer_lr=0.02), compat=compat)
    drawn = tasks_of(4)
    net, start = module.net, {n: v.detach().clone() for n, v in module.net.named_parameters()}
    accumulated = {name: 0.0 for name in start if is_alpha(name)}
    total = {name: 0.0 for name in accumulated}
    for task in drawn[0::2]:
        params = {name: value.clone() for name, value in start.items()}
        fresh = {name: torch.zeros_like(start[name]) for name in accumulated}
        for step in range(4):
            leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
            x, y = (task.support_x, task.support_y) if step < 3 else (task.query_x, task.query_y)
            grads = torch.autograd.grad(loss_of(net, leaves, x, y), list(leaves.values()), allow_unused=True)
            by_name = {n: torch.zeros_like(leaves[n]) if g is None else g for n, g in zip(leaves, grads, strict=True)}
            if step == 3 or compat == "code":
                fresh = {name: fresh[name] + by_name[name] for name in fresh}
            params = {name: value - weights_only(name) * by_name[name] for name, value in params.items()}
        # The released code never clears the gradient, so that every task adds all that came before it once more.
        accumulated = {name: accumulated[name] * (compat == "code") + fresh[name] for name in fresh}
        total = {name: total[name] + accumulated[name] for name in fresh}
    after = one_update(module, meta_batch(drawn))
    for name in accumulated:
        mean = total[name] / 2 + 1e-3 * start[name]
        assert torch.allclose(after[name], first_adam_step(start[name], mean, 0.01), rtol=0, atol=1e-9), name
    with torch.no_grad():  # the weights are moved at the new alphas
        for name, value in net.named_parameters():
            value.copy_(after[name] if is_alpha(name) else start[name])
    expected = [query_gradient(net, inner(net, task, 3, weights_only), task) for task in drawn[1::2]]
    for name in start:
        if not is_alpha(name):
            mean = (expected[0][name] + expected[1][name]) / 2
            assert torch.allclose(after[name], first_adam_step(start[name], mean, 0.02), rtol=0, atol=1e-9), name


def test_auto_maml_needs_an_even_number_of_tasks():
    module = AutoMAML(make_net(), **settings())
    with pytest.raises(InputError, match="meta_batch_size gives a process 3 tasks"):
        one_update(module, meta_batch(tasks_of(3)))
