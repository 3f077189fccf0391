"""What distinguishes each built-in space: its size, its wiring, and published numbers."""

import math

import pytest
import torch
import torch.nn.functional as F

from few_shot_nas.errors import InputError
from few_shot_nas.models.conv4 import Conv4
from few_shot_nas.nn.cost import count_parameters
from few_shot_nas.spaces.conv4_chain import Conv4Chain
from few_shot_nas.spaces.darts import Darts
from few_shot_nas.spaces.enas_macro import EnasMacro, pools_after
from few_shot_nas.spaces.enas_micro import EnasMicro, loose_ends
from few_shot_nas.spaces.genotype import Edge, Genotype
from few_shot_nas.spaces.nb201 import Nb201, live_edges
from few_shot_nas.spaces.supernet import DerivedNetwork, Supernet

SHORT = {
    "avg": "avg_pool_3x3", "max": "max_pool_3x3", "skip": "skip_connect", "sep5": "sep_conv_5x5",
    "sep3": "sep_conv_3x3", "dil3": "dil_conv_3x3", "dil5": "dil_conv_5x5",
}  # fmt: skip
AUTO_MAML_2 = (
    "avg 0 avg 1 avg 1 avg 2 avg 1 avg 2 dil3 3 avg 2",
    "avg 0 dil5 1 avg 0 dil5 1 skip 3 dil5 2 skip 4 skip 3",
)
AUTO_MAML_3 = (
    "dil5 1 dil5 0 dil5 2 dil3 1 sep5 2 sep3 3 skip 4 dil3 3",
    "sep5 0 avg 1 avg 1 skip 2 skip 2 avg 1 skip 2 max 1",
)


def darts_genotype(cells):
    edges = []
    for text in cells:
        words = text.split()
        pairs = [(int(src), SHORT[op]) for op, src in zip(words[::2], words[1::2], strict=True)]
        edges.append(tuple(
            Edge(op, src, node + 2) for node in range(4) for src, op in sorted(pairs[2 * node : 2 * node + 2])
        ))  # fmt: skip
    return Genotype("darts", 16, 2, 4, (("normal", edges[0]), ("reduce", edges[1])))


@pytest.mark.parametrize(("cells", "parameters"), [(AUTO_MAML_2, 23_213), (AUTO_MAML_3, 26_061)])
def test_the_cells_published_with_t_nas_have_the_published_number_of_parameters(cells, parameters):
    assert count_parameters(DerivedNetwork(5, 3, 84, darts_genotype(cells))) == parameters


def test_sizes_are_those_of_the_papers():
    assert Darts().size() == (180 * 7**8) ** 2
    assert Nb201().size() == 15_625
    assert Conv4Chain().size() == 625
    assert EnasMacro(cells=12).size() == 6**12 * 2**66 and len(EnasMacro(cells=12).decisions) == 78
    assert EnasMicro(nodes=5).size() == math.prod((5 * i) ** 2 for i in range(2, 7)) ** 2
    assert f"{EnasMicro(nodes=5).size():.1e}" == "2.6e+25" and len(EnasMicro(nodes=5).decisions) == 40


@pytest.mark.parametrize("image_size", [28, 42, 84])
def test_the_chain_of_full_3x3_convolutions_is_conv4(image_size):
    torch.manual_seed(0)
    space = Conv4Chain(channels=6)
    net = DerivedNetwork(5, 3, image_size, space.decode((0, 0, 0, 0)))
    conv4 = Conv4(5, 3, image_size, width=6)
    with torch.no_grad():
        for index, block in enumerate(net.body.blocks):
            conv4.body[4 * index].weight.copy_(block.ops["conv_k3"].weight)
            conv4.body[4 * index].bias.fill_(0.7)  # BN takes it out again
    conv4.head.load_state_dict(net.head.state_dict())
    x = torch.randn(3, 3, image_size, image_size)
    torch.testing.assert_close(net(x), conv4(x), rtol=0, atol=1e-5)
    assert count_parameters(conv4) == count_parameters(net) + 4 * 6


def test_a_conv4_chain_too_long_for_the_images_is_refused():
    with pytest.raises(InputError, match="image_size=28 with cells=5 .* image_size=32"):
        Supernet(5, 1, 28, space="conv4_chain", cells=5)


# ---- NAS-Bench-201 ------------------------------------------------------------------------------------------------


def nb201(ops, nodes=3):
    places = [(src, dst) for dst in range(1, nodes + 1) for src in range(dst)]
    names = {"0": "none", "s": "skip_connect", "c": "nor_conv_3x3", "a": "avg_pool_3x3"}
    return tuple(Edge(names[op], *place) for op, place in zip(ops, places, strict=True))


@pytest.mark.parametrize(
    ("ops", "live"),  # edges 01, 02 12, 03 13 23
    [
        ("cccccc", {(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)}),
        ("c00c00", {(0, 3)}),
        ("c0cc0s", {(0, 1), (1, 2), (0, 3), (2, 3)}),
        ("0cccc0", {(0, 3)}),
        ("00c0cc", set()),
        ("ccc000", set()),
    ],
)
def test_live_edges_are_those_between_input_and_output(ops, live):
    assert {edge[1:] for edge in live_edges(nb201(ops), 3)} == live


def test_a_node_sums_its_edges_and_none_adds_nothing():
    torch.manual_seed(0)
    net = Supernet(4, 1, 28, space="nb201", channels=4, cells=1)
    x = torch.randn(3, 1, 28, 28)
    stem = net.body.stem(x)
    cell = net.body.cells[0]
    genotype = net.space.decode((2, 1, 4, 3, 0, 1))  # 01 conv1, 02 skip, 12 pool, 03 conv3, 13 none, 23 skip
    one = cell["0_1"]["nor_conv_1x1"](stem)
    two = stem + F.avg_pool2d(one, 3, 1, 1, count_include_pad=False)
    three = cell["0_3"]["nor_conv_3x3"](stem) + two
    expected = F.relu(net.body.norm(three)).mean(dim=(2, 3))
    torch.testing.assert_close(net.features(x, genotype), expected, rtol=0, atol=1e-5)


def test_an_architecture_without_a_way_through_ignores_its_images_and_trains_the_head_only():
    torch.manual_seed(0)
    net = Supernet(4, 1, 28, space="nb201", channels=4)
    genotype = net.space.decode((0, 0, 3, 0, 3, 3))
    logits = net(torch.randn(3, 1, 28, 28), genotype)
    assert torch.equal(logits, net(torch.randn(3, 1, 28, 28), genotype))
    assert net.active_params(genotype) == ("body.norm.weight", "body.norm.bias", "head.weight", "head.bias")
    names = [name for name, _ in net.named_parameters()]
    gradients = torch.autograd.grad(logits.sum(), list(net.parameters()), allow_unused=True)
    assert {n for n, g in zip(names, gradients, strict=True) if g is not None} == set(net.active_params(genotype))


def test_fifteen_cells_reduce_before_the_sixth_and_the_eleventh_as_published():
    net = Supernet(4, 3, 28, space="nb201", channels=4, cells=15)
    assert sorted(map(int, net.body.reductions)) == [5, 10] and net.feature_dim == 16


# ---- ENAS -----------------------------------------------------------------------------------------------------------


def test_macro_layers_add_the_stem_and_earlier_outputs_and_halve_what_is_stored():
    """Layer i reads l(i-1); its skips 0..i-1 are the stem, l0, .., l(i-2); then BN, but not at layer 0."""
    torch.manual_seed(0)
    net = Supernet(4, 1, 28, space="enas_macro", channels=4, cells=4)  # pools after layers 0 and 1
    body, x = net.body, torch.randn(3, 1, 28, 28)
    ops = ("enas_sep_k3", "enas_conv_k3", "enas_max_pool", "enas_sep_k5")
    decisions = (1, 0, 1, 5, 0, 1, 3, 1, 0, 1)
    stem = body.stem(x)
    l0 = body.layers[0][ops[0]](stem)
    halve = body.reduce
    stem, l0 = halve["0_0"](stem), halve["1_0"](l0)
    l1 = body.norms[0](body.layers[1][ops[1]](l0) + stem)
    stem, l0, l1 = halve["0_1"](stem), halve["1_1"](l0), halve["2_1"](l1)
    l2 = body.norms[1](body.layers[2][ops[2]](l1) + l0)
    l3 = body.norms[2](body.layers[3][ops[3]](l2) + stem + l1)
    features = net.features(x, net.space.decode(decisions))
    torch.testing.assert_close(features, l3.mean(dim=(2, 3)), rtol=0, atol=1e-5)
    assert not any(name.startswith("body.norms.3") for name in net.state_dict())


@pytest.mark.parametrize(("layers", "pools"), [(1, ()), (2, ()), (3, (0, 1)), (6, (1, 3)), (12, (3, 7)), (24, (7, 15))])
def test_macro_networks_pool_at_one_and_two_thirds(layers, pools):
    assert pools_after(layers) == pools


def test_a_pool_branch_has_no_bn_behind_the_pool_and_a_convolution_branch_two():
    net = Supernet(4, 1, 28, space="enas_macro", channels=4, cells=1)
    kinds = {op: [type(part).__name__ for part in branch] for op, branch in net.body.layers[0].items()}
    first = ["Conv2d", "BatchNorm2d", "ReLU"]
    assert kinds["enas_avg_pool"] == [*first, "AvgPool2d"] and kinds["enas_max_pool"] == [*first, "MaxPool2d"]
    assert kinds["enas_conv_k5"] == 2 * first
    assert kinds["enas_sep_k5"] == [*first, "Conv2d", *first]
    assert net.body.layers[0]["enas_sep_k5"][3].kernel_size == (5, 5)


@pytest.mark.parametrize(
    "edges",
    [
        [("enas_conv_k3", 0, 1)],
        [("enas_conv_k3", 0, 1), ("skip_connect", 0, 2), ("enas_conv_k3", 1, 2)],
        [("enas_conv_k3", 0, 1), ("enas_conv_k3", 1, 2), ("skip_connect", 1, 2)],
        [("enas_conv_k3", 0, 1), ("enas_conv_k3", 1, 2), ("skip_connect", 0, 2), ("skip_connect", 0, 2)],
        [("enas_conv_k3", 0, 1), ("enas_conv_k3", 1, 2), ("enas_conv_k3", 2, 3)],
    ],
)
def test_wrong_edges_of_a_macro_network_are_refused(edges):
    space = EnasMacro(4, 2)
    with pytest.raises(InputError, match="genotype: .*space enas_macro"):
        space.encode(Genotype("enas_macro", 4, 2, 1, (("macro", tuple(Edge(*edge) for edge in edges)),)))


def test_loose_ends_are_the_states_that_no_block_reads_inputs_included():
    edges = [Edge("skip_connect", src, dst) for src, dst in [(1, 2), (1, 2), (2, 3), (1, 3), (2, 4), (2, 4)]]
    assert loose_ends(edges, 3) == (0, 3, 4)


def test_a_micro_cell_sums_two_branches_with_own_weights_and_mixes_its_loose_ends():
    torch.manual_seed(0)
    net = Supernet(4, 1, 28, space="enas_micro", channels=4, cells=2, nodes=2)
    genotype = net.space.decode((1, 1, 0, 0, 0, 1, 2, 4) + (0, 1, 3, 4, 2, 2, 0, 4))
    x, body = torch.randn(3, 1, 28, 28), net.body
    stem = body.stem(x)
    cell = body.cells[0]
    zero, one = cell.pre0(stem), cell.pre1(stem)
    two = cell.left["1_2"]["sep_conv_3x3"](one) + cell.right["1_2"]["sep_conv_3x3"](one)
    three = F.avg_pool2d(zero, 3, 1, 1, count_include_pad=False) + one
    mix = torch.cat([cell.out[str(i)].weight for i in (2, 3)], dim=1)
    first = cell.norm(F.conv2d(F.relu(torch.cat([two, three], dim=1)), mix))
    cell = body.cells[1]
    zero, one = cell.pre0(first), cell.pre1(first)
    assert zero.shape == one.shape == (3, 8, 7, 7)
    two = F.max_pool2d(zero, 3, 1, 1) + one
    three = cell.left["2_3"]["sep_conv_3x3"](two) + two
    second = cell.norm(F.conv2d(F.relu(three), cell.out["3"].weight))
    torch.testing.assert_close(net.features(x, genotype), F.relu(second).mean(dim=(2, 3)), rtol=0, atol=1e-5)


def test_wrong_blocks_of_a_micro_cell_are_refused():
    space = EnasMicro(4, 2, 1)
    good = (Edge("skip_connect", 0, 2), Edge("skip_connect", 1, 2))
    for wrong, named in (
        ((good[0],), "1 edges in normal"),
        ((good[0], Edge("skip_connect", 2, 2)), "edge 2->2 of normal"),
        ((good[0], Edge("skip_connect", 1, 3)), "2 edges in normal"),
    ):
        with pytest.raises(InputError, match=named):
            space.encode(Genotype("enas_micro", 4, 2, 1, (("normal", wrong), ("reduce", good))))
