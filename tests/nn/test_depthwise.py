"""Depthwise convolutions: the library's own, to the second derivative, in float64; identities of to_kernel."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from few_shot_nas.nn import depthwise as module
from few_shot_nas.nn.depthwise import DepthwiseConv2d, depthwise, to_kernel

SHAPES = list(itertools.product((3, 5, 7), (1, 2), (1, 2), (7, 8)))


def derivatives(y: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> list[torch.Tensor]:
    """The result, its gradients along a fixed direction, and the gradients of a nonlinear function of these."""
    g = torch.linspace(-1.0, 1.0, y.numel(), dtype=y.dtype).view_as(y)
    to_x, to_weight = torch.autograd.grad((y * g).sum(), (x, weight), create_graph=True)
    ramp = torch.linspace(0.0, 1.0, to_x.numel(), dtype=y.dtype).view_as(to_x)
    total = (ramp * to_x.square()).sum() + to_weight.pow(3).sum()
    return [y, to_x, to_weight, *torch.autograd.grad(total, (x, weight))]


@pytest.mark.parametrize("kernel, stride, dilation, size", SHAPES)
def test_results_and_both_derivatives_are_those_of_the_library(
    kernel: int, stride: int, dilation: int, size: int
) -> None:
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, size, size + 1, dtype=torch.float64, generator=stream, requires_grad=True)
    weight = torch.randn(4, 1, kernel, kernel, dtype=torch.float64, generator=stream, requires_grad=True)
    padding = dilation * (kernel - 1) // 2
    reference = F.conv2d(x, weight, None, stride, padding, dilation, groups=4)
    ours = derivatives(depthwise(x, weight, stride, dilation), x, weight)
    for mine, theirs in zip(ours, derivatives(reference, x, weight), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kernel, dilation", [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_the_gradient_of_a_kernel_is_one_convolution(kernel: int, dilation: int) -> None:
    g, x = torch.randn(2, 5, 4, 8, 9, dtype=torch.float64).unbind()
    expected = to_kernel(g, x, kernel, dilation)
    torch.testing.assert_close(module._by_one_convolution(g, x, kernel, dilation), expected, rtol=1e-11, atol=1e-11)
    in_single = to_kernel(g.float(), x.float(), kernel, dilation)
    torch.testing.assert_close(in_single.double(), expected, rtol=1e-4, atol=1e-4)


def test_transformations_of_functions_and_autocast_give_what_the_library_gives() -> None:
    layer = DepthwiseConv2d(4, 3, stride=2)
    x = torch.randn(2, 3, 4, 7, 7)
    mapped = torch.func.vmap(layer)(x)
    torch.testing.assert_close(mapped[1], layer(x[1]))
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x[0])
        (found,) = torch.autograd.grad(out.float().square().sum(), layer.weight)
    assert out.dtype == torch.bfloat16
    (exact,) = torch.autograd.grad(layer(x[0]).square().sum(), layer.weight)
    torch.testing.assert_close(found, exact, rtol=0.1, atol=0.1)
