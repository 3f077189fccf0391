"""Parameters and multiply-accumulates of derived networks equal sums written down by hand, for every shape of space.

A cost is (parameters, MACs). Sums follow the definitions of the spaces and share no code with the networks. A space of
other ops in a known shape, a subclass, has the sum of its shape. Whatever its shape, the costs of a network are the sum
over its layers, each of which runs exactly as often as the network has it.
"""

import math

import pytest
import torch

from few_shot_nas.nn.cost import count_macs, count_parameters
from few_shot_nas.nn.depthwise import DepthwiseConv2d
from few_shot_nas.spaces import SPACES
from few_shot_nas.spaces.cell_space import CellSpace
from few_shot_nas.spaces.chain import Chain
from few_shot_nas.spaces.conv4_chain import Conv4Chain
from few_shot_nas.spaces.enas_macro import EnasMacro
from few_shot_nas.spaces.enas_micro import EnasMicro
from few_shot_nas.spaces.nb201 import Nb201
from few_shot_nas.spaces.supernet import DerivedNetwork

N_WAY, IN, SIZE = 5, 3, 42


def conv(c_in, c_out, kernel, size, groups=1):
    """A convolution without bias whose output has size x size pixels; kernel = number of taps."""
    weights = kernel * (c_in // groups) * c_out
    return weights, weights * size * size


def norm(c):
    return 2 * c, 0


def total(*costs):
    return sum(cost[0] for cost in costs), sum(cost[1] for cost in costs)


def half(size):
    return (size + 1) // 2


def reduced(c_in, c_out, size_out):
    """Factorised reduction: two 1x1 convolutions with half the channels each."""
    return total(conv(c_in, c_out // 2, 1, size_out), conv(c_in, c_out - c_out // 2, 1, size_out), norm(c_out))


def separable(c, taps, size):
    return total(conv(c, c, taps, size, groups=c), conv(c, c, 1, size), norm(c))


def op(name, c, size, stride=1):
    """An op of OPS from c to c channels; ``size`` is that of its output."""
    if name == "skip_connect":
        return (0, 0) if stride == 1 else reduced(c, c, size)
    return {
        "none": (0, 0),
        "avg_pool_3x3": (0, 0),
        "max_pool_3x3": (0, 0),
        "avg_pool_3x3BN": norm(c),
        "max_pool_3x3BN": norm(c),
        "sep_conv_3x3": total(separable(c, 9, size), separable(c, 9, size)),
        "sep_conv_5x5": total(separable(c, 25, size), separable(c, 25, size)),
        "dil_conv_3x3": separable(c, 9, size),
        "dil_conv_5x5": separable(c, 25, size),
        "conv_3x3": separable(c, 9, size),
        "nor_conv_1x1": total(conv(c, c, 1, size), norm(c)),
        "nor_conv_3x3": total(conv(c, c, 9, size), norm(c)),
    }[name]


def conv_1x5_5x1(c, size):
    """The first convolution has the stride in both directions, so both outputs have the final size."""
    return total(conv(c, c, 5, size), conv(c, c, 5, size), norm(c))


def stem(width):
    """42 pixels: one stage, Conv3x3 and BN at full size, then a pool to 21."""
    return total(conv(IN, width, 9, SIZE), norm(width))


def head(features):
    return (features + 1) * N_WAY, features * N_WAY


def chain(genotype, c):
    size = SIZE // 2
    costs = [conv(IN, c, 9, SIZE), norm(c)]
    for edge in genotype.edges[0][1]:
        taps = {"conv_k3": conv(c, c, 9, size), "conv_k5": conv(c, c, 25, size)}
        taps["sep_k3"] = total(conv(c, c, 9, size, groups=c), conv(c, c, 1, size))
        costs += [taps.get(edge.op, (0, 0)), norm(c)]
        size //= 2
    return total(*costs, head(c * size * size))


def conv4_chain(genotype, c):
    size, c_in, costs = SIZE, IN, []
    for edge in genotype.edges[0][1]:
        taps = {"conv_k3": conv(c_in, c, 9, size), "conv_k5": conv(c_in, c, 25, size)}
        taps["sep_k3"] = total(conv(c_in, c_in, 9, size, groups=c_in), conv(c_in, c, 1, size))
        projected = (0, 0) if c_in == c else conv(c_in, c, 1, size)
        costs += [taps.get(edge.op, projected), norm(c)]
        size, c_in = size // 2, c
    return total(*costs, head(c * size * size))


def cells(genotype, c):
    """Two cells, the second of which reduces."""
    space = SPACES[genotype.space]
    edges, width, nodes = dict(genotype.edges), space.stem_multiplier * c, genotype.nodes
    size = 21 if space.pools else SIZE
    costs = [stem(width)]
    before, last = width, width
    for cell_type, stride in (("normal", 1), ("reduce", 2)):
        c *= space.growth if stride == 2 else 1
        small = half(size) if stride == 2 else size
        costs += [conv(before, c, 1, size), norm(c), conv(last, c, 1, size), norm(c)]
        for edge in edges[cell_type]:
            own = 2 if stride == 2 and edge.src < 2 else 1
            costs.append(conv_1x5_5x1(c, small) if edge.op == "conv_1x5_5x1" else op(edge.op, c, small, own))
        before, last, size = last, nodes * c, small
    return total(*costs, head(last))


def nb201(genotype, c):
    """Three cells, with reductions before the second and the third. Ways are found by trying all of them."""
    names = {(edge.src, edge.dst): edge.op for edge in genotype.edges[0][1]}
    ways = [way for way in ((0, 3), (0, 1, 3), (0, 2, 3), (0, 1, 2, 3))
            if all(names[step] != "none" for step in zip(way, way[1:], strict=False))]  # fmt: skip
    live = {step for way in ways for step in zip(way, way[1:], strict=False)}
    if not live:
        return total(norm(4 * c), head(4 * c))
    size, costs = 21, [stem(c)]
    for index in range(3):
        if index:
            size = half(size)
            costs += [conv(c, 2 * c, 9, size), conv(2 * c, 2 * c, 9, size), conv(c, 2 * c, 1, size)]
            c *= 2
            costs += [norm(c), norm(c)]
        costs += [op(names[step], c, size) for step in live]
    return total(*costs, norm(c), head(c))


def macro(genotype, c):
    """Six layers, halved after layers 1 and 3."""
    size, costs, edges = 21, [stem(c)], genotype.edges[0][1]
    for layer in range(6):
        name = next(edge.op for edge in edges if edge.dst == layer + 1 and edge.src == layer)
        costs += [conv(c, c, 1, size), norm(c)]
        kernel = 25 if name.endswith("5") else 9
        if "conv" in name:
            costs += [conv(c, c, kernel, size), norm(c)]
        elif "sep" in name:
            costs += [separable(c, kernel, size)]
        costs += [norm(c)] if layer else []
        if layer in (1, 3):
            size = half(size)
            alive = {edge.src for edge in edges if edge.dst > layer + 1 and edge.src <= layer + 1}
            costs += [reduced(c, c, size)] * len(alive)
    return total(*costs, head(c))


def micro(genotype, c):
    size, costs = 21, [stem(c)]
    for cell_type, edges in genotype.edges:
        if cell_type == "reduce":
            size = half(size)
            costs += [reduced(c, 2 * c, size)] * 2
            c *= 2
        else:
            costs += [conv(c, c, 1, size), norm(c)] * 2
        read = {edge.src for edge in edges}
        costs += [op(edge.op, c, size) for edge in edges]
        costs += [conv(c, c, 1, size) for state in range(genotype.nodes + 2) if state not in read] + [norm(c)]
    return total(*costs, head(c))


COSTS = {
    Conv4Chain: conv4_chain,
    Chain: chain,
    CellSpace: cells,
    Nb201: nb201,
    EnasMacro: macro,
    EnasMicro: micro,
}


def by_layers(net):
    """Sum the costs of all layers as they run, and the layers that hold parameters."""
    found, ran = [], []

    def count(name, layer, output):
        kinds = (torch.nn.Conv2d, DepthwiseConv2d, torch.nn.Linear)
        ran.append(name)
        weights = layer.weight.numel() if type(layer) in kinds else 0
        found.append((sum(p.numel() for p in layer.parameters()), weights * math.prod(output.shape[2:])))

    holders = {name: layer for name, layer in net.named_modules() if list(layer.parameters(recurse=False))}
    for name, layer in holders.items():
        layer.register_forward_hook(lambda layer, _, output, name=name: count(name, layer, output))
    with torch.no_grad():
        net(torch.zeros(1, IN, SIZE, SIZE))
    assert sorted(ran) == sorted(holders)
    return total(*found)


@pytest.mark.parametrize("name", SPACES)
def test_a_derived_network_costs_what_its_definition_says(name):
    space = SPACES[name](channels=4)
    by_hand = next((cost for shape, cost in COSTS.items() if isinstance(space, shape)), None)
    stream = torch.Generator().manual_seed(1)
    seen = set()
    for _ in range(8):
        genotype = space.decode(space.sample(stream))
        net = DerivedNetwork(N_WAY, IN, SIZE, genotype)
        cost = count_parameters(net), count_macs(net, IN, SIZE)
        assert cost == by_layers(net), genotype
        assert by_hand is None or cost == by_hand(genotype, 4), genotype
        seen.add(cost)
    assert len(seen) > 1 and math.prod(len(d.choices) for d in space.decisions) == space.size()


def test_every_built_in_space_has_a_sum_by_hand():
    for name in ("darts_fewshot", "darts", "nb201", "enas_macro", "enas_micro", "chain", "conv4_chain"):
        assert any(isinstance(SPACES[name](), shape) for shape in COSTS), name
