"""DARTS on held-out halves of batches. Truth: finite differences in float64, and a plain step of Adam."""

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from few_shot_nas.algorithms.alpha_search import AlphaLoop, is_alpha
from few_shot_nas.algorithms.darts import DARTS
from few_shot_nas.algorithms.settings import OuterLoop
from tests.algorithms.alpha_nets import first_adam_step, loss_of, make_net, one_update


def halves(seed):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(8, 1, 12, 12, generator=draw, dtype=torch.float64)
    y = torch.randint(3, (8,), generator=draw)
    return (x[0::2], y[0::2]), (x[1::2], y[1::2])


def darts(order):
    outer = OuterLoop(outer_lr=0.05, weight_decay=0.01, meta_grad_clip=5.0, bn_mode="running")
    return DARTS(make_net(), order=order, outer=outer, alphas=AlphaLoop(alpha_lr=1e-3))


@pytest.mark.parametrize("momentum", [False, True])
def test_the_second_order_gradient_of_the_alphas_is_a_finite_difference(momentum):
    module = darts("second")
    fitted, held_out = halves(0)
    optimizer = module.configure_optimizers()[0]
    names = dict(module.net.named_parameters())
    buffers = {}
    if momentum:
        for name, value in names.items():
            if not is_alpha(name):
                buffers[name] = torch.full_like(value, 0.1)
                optimizer.state[value]["momentum_buffer"] = buffers[name]
    found = module.alpha_gradients(fitted, held_out, optimizer)

    def value_at(shifted):
        params = {name: value.detach().requires_grad_() for name, value in {**names, **shifted}.items()}
        weights = {name: value for name, value in params.items() if not is_alpha(name)}
        net = copy.deepcopy(module.net)
        grads = torch.autograd.grad(loss_of(net, params, *fitted), list(weights.values()))
        moved = {
            n: v - 0.05 * (g + 0.01 * v + 0.9 * buffers.get(n, torch.zeros(1)))
            for (n, v), g in zip(weights.items(), grads, strict=True)
        }
        return float(loss_of(net, {**params, **moved}, *held_out).detach())

    for name, row, column in (("alphas.normal", 0, 1), ("alphas.normal", 2, 5), ("alphas.reduce", 1, 3)):
        ends = []
        for sign in (1, -1):
            shifted = names[name].detach().clone()
            shifted[row, column] += sign * 1e-5
            ends.append(value_at({name: shifted}))
        assert float(found[name][row, column]) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-4, abs=1e-8)


def test_the_first_order_gradient_of_the_alphas_is_that_of_the_held_out_half():
    module = darts("first")
    fitted, held_out = halves(0)
    found = module.alpha_gradients(fitted, held_out, module.configure_optimizers()[0])
    alphas = {name: value for name, value in module.net.named_parameters() if is_alpha(name)}
    expected = torch.autograd.grad(F.cross_entropy(module.net(held_out[0]), held_out[1]), list(alphas.values()))
    for name, gradient in zip(alphas, expected, strict=True):
        assert torch.allclose(found[name], gradient, rtol=0, atol=1e-12)


def test_an_update_of_darts_moves_alphas_by_adam_and_weights_by_smoothed_labels():
    fitted, held_out = halves(0)
    batch = SimpleNamespace(
        images=torch.stack([fitted[0], held_out[0]], 1).flatten(0, 1),
        labels=torch.stack([fitted[1], held_out[1]], 1).flatten(),
    )
    ends = []
    for smoothing in (0.0, 0.5):
        outer = OuterLoop(outer_lr=0.05, label_smoothing=smoothing, bn_mode="running")
        module = DARTS(make_net(), outer=outer, alphas=AlphaLoop(alpha_lr=1e-3))
        start = {name: value.detach().clone() for name, value in module.net.named_parameters()}
        gradient = module.alpha_gradients(fitted, held_out, None)
        ends.append(one_update(module, batch))
        for name, value in gradient.items():
            step = first_adam_step(start[name], value + 1e-3 * start[name], 1e-3)
            assert torch.allclose(ends[-1][name], step, rtol=0, atol=1e-9), name
    assert not torch.allclose(ends[0]["head.weight"], ends[1]["head.weight"])
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in gradient)
