"""Parameters and multiply-accumulates against sums written out."""

import pytest
import torch

from few_shot_nas.models.conv4 import Conv4
from few_shot_nas.nn.cost import count_macs, count_parameters
from few_shot_nas.models.resnet12 import ResNet12
from few_shot_nas.spaces.chain import CHAIN_OPS, Chain
from few_shot_nas.spaces.supernet import DerivedNetwork

C, WAYS = 6, 5
WEIGHTS = {"conv_k3": 9 * C * C, "conv_k5": 25 * C * C, "sep_k3": 9 * C + C * C, "avg_pool_3x3": 0, "skip_connect": 0}


@pytest.mark.parametrize("in_channels", [1, 3])
def test_every_chain_costs_what_its_layers_cost(in_channels):
    space = Chain(C, 3)
    for choices in list(space.enumerate())[::7]:
        net = DerivedNetwork(WAYS, in_channels, 28, space.decode(choices))
        ops = [CHAIN_OPS[choice] for choice in choices]
        stem = 9 * in_channels * C
        head = C * WAYS  # 28 -> 14 -> 7 -> 3 -> 1 pixel
        layers = [WEIGHTS[op] for op in ops]
        assert count_parameters(net) == stem + 2 * C + sum(weights + 2 * C for weights in layers) + head + WAYS
        spread = sum(weights * size**2 for weights, size in zip(layers, (14, 7, 3), strict=True))
        assert count_macs(net, in_channels, 28) == stem * 28**2 + spread + head


def test_conv4_costs_what_its_convolutions_cost():
    sizes = (84, 42, 21, 10)
    expected = sum(9 * narrow * 32 * size**2 for narrow, size in zip((3, 32, 32, 32), sizes, strict=True)) + 800 * 5
    assert count_macs(Conv4(5, 3, 84, width=32), 3, 84) == expected


def test_dropout_does_not_draw_from_the_global_generator():
    net, state = ResNet12(5, 1, 16, drop_rate=0.5).train(), torch.get_rng_state()
    count_macs(net, 1, 16)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_network_in_double_precision_costs_the_same():
    assert count_macs(Conv4(5, 1, 28).double(), 1, 28) == count_macs(Conv4(5, 1, 28), 1, 28)
