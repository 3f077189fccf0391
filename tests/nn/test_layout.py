"""The memory layout of images."""

import pytest
import torch
from torch.func import vmap

from few_shot_nas.nn.layout import channels_last


@pytest.mark.parametrize("channels", [1, 3])
def test_values_shape_and_gradient_stay_and_channels_come_last_in_memory(channels):
    x = torch.randn(2, channels, 4, 5, requires_grad=True)
    out = channels_last(x)
    assert torch.equal(out, x)
    assert out.stride() == (20 * channels, 1, 5 * channels, channels)
    (gradient,) = torch.autograd.grad((out * x.detach()).sum(), x)
    assert torch.equal(gradient, x)


@pytest.mark.parametrize("channels", [1, 3])
def test_convolution_bn_and_pool_hand_the_layout_on(channels):
    net = torch.nn.Sequential(torch.nn.Conv2d(channels, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.MaxPool2d(2))
    out = net(channels_last(torch.randn(2, channels, 12, 12)))
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("channels", [1, 3])
def test_it_runs_under_vmap(channels):
    x = torch.randn(3, 2, channels, 4, 5)
    assert torch.equal(vmap(channels_last)(x), x)
