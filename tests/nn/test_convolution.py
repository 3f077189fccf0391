"""Convolutions with the weights of many tasks against a loop over the tasks, in float64."""

import pytest
import torch
import torch.nn.functional as F

from few_shot_nas.nn.columns import Geometry, fold
from few_shot_nas.nn.convolution import Conv2d, shared_by_tasks, task_convolution
from few_shot_nas.nn.linear import Linear

GROUPS = 3


def by_loop(x, weight, geometry):
    parts = zip(x.chunk(GROUPS), weight, strict=True)
    return torch.cat([F.conv2d(images, w, None, geometry.stride, geometry.padding) for images, w in parts])


@pytest.mark.parametrize("route", ["loop", "grouped", "im2col", "shared", None])
@pytest.mark.parametrize("geometry", [Geometry(3, 1, 1), Geometry(3, 2, 1), Geometry(1, 1, 0)])
def test_values_and_first_and_second_derivatives_are_those_of_a_loop(route, geometry):
    found = []
    for function in (by_loop, lambda *a: task_convolution(*a, route)):
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(GROUPS * 2, 2, 6, 5, dtype=torch.double, generator=generator)
        x = x.to(memory_format=torch.channels_last).requires_grad_()
        shape = (GROUPS, 4, 2, geometry.kernel, geometry.kernel)
        weight = torch.randn(shape, dtype=torch.double, generator=generator)
        weight = (weight[:1].expand(shape) if route == "shared" else weight).requires_grad_()
        out = function(x, weight, geometry)
        first = torch.autograd.grad(out.pow(3).sum(), (x, weight), create_graph=True)
        second = torch.autograd.grad(sum(g.sin().sum() for g in first), (x, weight))
        found.append([out, *first, *second])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-9)


@pytest.mark.parametrize("geometry", [Geometry(3, 1, 1), Geometry(3, 2, 1), Geometry(3, 1, 0)])
def test_folding_by_hand_is_the_library_s(geometry):
    """What runs on other devices; here both do."""
    columns = torch.randn(2, geometry.size(7), geometry.size(6), 9 * 4, dtype=torch.double)
    planes = columns.view(2, -1, 9, 4).permute(0, 3, 2, 1).reshape(2, 36, -1)
    expected = F.fold(planes, (7, 6), 3, padding=geometry.padding, stride=geometry.stride).permute(0, 2, 3, 1)
    torch.testing.assert_close(fold(columns, geometry, torch.Size((2, 7, 6, 4))), expected)


def test_tasks_share_a_parameter_that_lies_in_memory_as_its_gradients_do():
    weight, scale = torch.randn(4, 2, 3, 3, dtype=torch.double, requires_grad=True), torch.randn(4)
    shared = shared_by_tasks(weight, GROUPS)
    assert torch.equal(shared, weight.expand(GROUPS, 4, 2, 3, 3)) and shared.stride(0) == 0
    assert torch.equal(shared_by_tasks(scale, GROUPS), scale.expand(GROUPS, 4))
    x = torch.randn(GROUPS * 2, 2, 6, 5, dtype=torch.double).to(memory_format=torch.channels_last)
    for route in ("im2col", "loop", "shared"):
        (gradient,) = torch.autograd.grad(task_convolution(x, shared, Geometry(3, 1, 1), route).sum(), shared)
        assert gradient.stride()[1:] == shared.stride()[1:], route


def test_an_inner_gradient_of_shared_weights_is_each_task_s_own_and_an_outer_one_their_sum():
    found = []
    for function in (by_loop, task_convolution):
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(GROUPS * 2, 2, 6, 5, dtype=torch.double, generator=generator)
        x = x.to(memory_format=torch.channels_last).requires_grad_()
        weight = torch.randn(4, 2, 3, 3, dtype=torch.double, generator=generator, requires_grad=True)
        shared = shared_by_tasks(weight, GROUPS)
        out = function(x, shared, Geometry(3, 2, 1))
        (inner,) = torch.autograd.grad(out.pow(3).sum(), shared, create_graph=True)
        outer = torch.autograd.grad(inner.sin().sum() + out.cos().sum(), (x, weight))
        leaf = shared.detach().requires_grad_()
        (first_order,) = torch.autograd.grad(function(x, leaf, Geometry(3, 2, 1)).pow(3).sum(), leaf)
        assert not torch.allclose(inner[0], inner[1], atol=1e-2)
        found.append([inner, *outer, first_order])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-9)


@pytest.mark.parametrize("route", ["im2col", "shared"])
def test_rows_in_parts_give_the_same(route, monkeypatch):
    monkeypatch.setattr("few_shot_nas.nn.convolution._LEAST", 20)
    test_values_and_first_and_second_derivatives_are_those_of_a_loop(route, Geometry(3, 1, 1))


@pytest.mark.parametrize("with_bias", [True, False])
def test_the_layers_take_weights_of_one_task_and_of_many(with_bias):
    torch.manual_seed(0)
    conv, linear = Conv2d(2, 4, 3, 2, 1).double(), Linear(5, 3).double()
    x, rows = torch.randn(6, 2, 7, 7, dtype=torch.double), torch.randn(6, 5, dtype=torch.double)
    weights = {name: torch.randn(GROUPS, *value.shape, dtype=torch.double) for name, value in conv.named_parameters()}
    many = torch.func.functional_call(conv, weights, (x,), {"with_bias": with_bias})
    for task in range(GROUPS):
        own = {name: value[task] for name, value in weights.items()}
        expected = F.conv2d(x[2 * task : 2 * task + 2], own["weight"], own["bias"] if with_bias else None, 2, 1)
        torch.testing.assert_close(many[2 * task : 2 * task + 2], expected, rtol=0, atol=1e-12)
    assert torch.equal(conv(x), F.conv2d(x, conv.weight, conv.bias, 2, 1))
    weights = {name: torch.randn(GROUPS, *value.shape, dtype=torch.double) for name, value in linear.named_parameters()}
    for names in (("weight", "bias"), ("weight",), ("bias",)):
        chosen = {name: weights[name] for name in names}
        many = torch.func.functional_call(linear, chosen, (rows,))
        for task in range(GROUPS):
            own = {**dict(linear.named_parameters()), **{name: chosen[name][task] for name in names}}
            expected = F.linear(rows[2 * task : 2 * task + 2], own["weight"], own["bias"])
            torch.testing.assert_close(many[2 * task : 2 * task + 2], expected, rtol=0, atol=1e-12)
