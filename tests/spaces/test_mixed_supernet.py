"""Mixtures against plain loops over the ops, the search network of T-NAS, and what learners see of the alphas."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call, grad, vmap

from few_shot_nas.algorithms.maml import MAML
from few_shot_nas.algorithms.settings import InnerLoop
from few_shot_nas.episode import Task
from few_shot_nas.errors import InputError
from few_shot_nas.nn.cost import count_parameters
from few_shot_nas.spaces import SPACES
from few_shot_nas.spaces.mixed_supernet import MixedSupernet
from few_shot_nas.spaces.supernet import Supernet


def make(space, channels=4, **flags):
    torch.manual_seed(0)
    net = MixedSupernet(3, 1, 16, space=space, channels=channels, **{"nodes": 2, **flags}).double()
    stream = torch.Generator().manual_seed(5)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=stream)
    return net, torch.randn(6, 1, 16, 16, generator=stream, dtype=torch.float64)


def count(net):
    alphas = sum(value.numel() for value in net.alphas.values())
    return count_parameters(net) - alphas, alphas


def test_the_search_network_of_t_nas_has_the_published_number_of_weights_and_alphas():
    net = MixedSupernet(5, 3, 84, space="darts", channels=16, cells=2, nodes=4, affine=False, norm_pools=True)
    assert count(net) == (201_181, 224)
    pools = [ops["avg_pool_3x3"] for cell in net.body.cells for ops in cell.edges.values()]
    assert len(pools) == 28 and all(not list(pool.parameters()) and len(pool) == 2 for pool in pools)
    assert count(MixedSupernet(5, 3, 84, space="darts", channels=16, affine=False)) == (201_181, 224)


@torch.no_grad()
def test_the_cells_of_the_search_network_of_t_nas_have_the_published_shapes():
    net = MixedSupernet(5, 3, 84, space="darts", channels=16, affine=False, norm_pools=True)
    x = torch.randn(2, 3, 84, 84)
    stem = net.body.stem(x)
    weights = net.space.edge_weights(net.mixture())
    first = net.body.cells[0].mixed(stem, stem, weights["normal"])
    second = net.body.cells[1].mixed(stem, first, weights["reduce"])
    assert (stem.shape, first.shape, second.shape) == ((2, 48, 21, 21), (2, 64, 21, 21), (2, 128, 11, 11))
    assert net.feature_dim == 128 and net(x).shape == (2, 5)


@pytest.mark.parametrize(("cells", "nodes", "channels"), [(1, 1, 3), (3, 2, 2), (4, 3, 1)])
@pytest.mark.parametrize("space", SPACES)
@torch.no_grad()
def test_every_number_of_cells_nodes_and_channels_can_be_mixed(space, cells, nodes, channels):
    net = MixedSupernet(3, 1, 32, space=space, channels=channels, cells=cells, nodes=nodes)
    features = net.features(torch.randn(2, 1, 32, 32))
    assert features.shape == (2, net.feature_dim) and features.isfinite().all()
    genotype = net.discretise()
    assert (genotype.cells, genotype.nodes, genotype.channels) == (cells, nodes, channels)


@torch.no_grad()
def test_a_cell_sums_every_op_of_every_edge_by_the_softmax_of_its_alphas():
    net, x = make("darts", cells=2, nodes=2, norm_pools=True)
    last = before = net.body.stem(x)
    for cell, cell_type, stride in zip(net.body.cells, ("normal", "reduce"), (1, 2), strict=True):
        states, row = [cell.pre0(before), cell.pre1(last)], 0
        for node in (2, 3):
            total = torch.zeros(())
            for src in range(node):
                weights = net.alphas[cell_type][row].exp() / net.alphas[cell_type][row].exp().sum()
                for weight, op in zip(weights, cell.edges[f"{src}_{node}"].values(), strict=True):
                    total = total + weight * op(states[src])
                row += 1
            states.append(total)
        assert states[2].shape[-1] == x.shape[-1] // stride
        before, last = last, torch.cat(states[2:], dim=1)
    torch.testing.assert_close(net.features(x), last.mean(dim=(2, 3)), rtol=0, atol=1e-10)


@torch.no_grad()
def test_a_loose_end_of_a_micro_cell_counts_by_the_probability_that_no_block_reads_it():
    net, x = make("enas_micro", cells=1, nodes=2)
    mixture = net.mixture()
    cell, last = net.body.cells[0], net.body.stem(x)
    states = [cell.pre0(last), cell.pre1(last)]
    unread = [1.0, 1.0, 1.0, 1.0]
    places = [(0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
    for block in (2, 3):
        total = torch.zeros(())
        for branch in ("left", "right"):
            for (src, dst), row in zip(places, mixture[f"reduce/{branch}"], strict=True):
                if dst == block:
                    ops = getattr(cell, branch)[f"{src}_{dst}"]
                    for weight, op in zip(row, ops.values(), strict=True):
                        total = total + weight * op(states[src])
                    unread[src] *= float(row[0])
        states.append(total)
    mixed = sum(unread[i] * cell.out[str(i)](F.relu(state)) for i, state in enumerate(states))
    expected = F.relu(cell.norm(mixed)).mean(dim=(2, 3))
    torch.testing.assert_close(net.features(x), expected, rtol=0, atol=1e-10)


@torch.no_grad()
def test_a_macro_network_adds_every_skip_by_its_weight():
    net, x = make("enas_macro", cells=2)  # too short to pool
    mixture, body = net.mixture(), net.body
    stem = body.stem(x)
    first = sum(w * op(stem) for w, op in zip(mixture["op"][0], body.layers[0].values(), strict=True))
    second = sum(w * op(first) for w, op in zip(mixture["op"][1], body.layers[1].values(), strict=True))
    expected = body.norms[0](second + mixture["skip"][0, 1] * stem).mean(dim=(2, 3))
    torch.testing.assert_close(net.features(x), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("space", SPACES)
def test_only_the_ops_that_are_declared_active_run(space):
    net, x = make(space)
    genotype = net.space.decode(net.space.sample(torch.Generator().manual_seed(1)))
    mixture = net.space.one_hot(genotype)
    run = []
    prefixes = {f"body.{prefix}"[:-1] for prefix, *_ in net.body.owned_ops()}
    for name in prefixes:
        for layer in net.get_submodule(name).modules():
            layer.register_forward_hook(lambda *_, name=name: run.append(name))
    with torch.no_grad():
        net.features(x, genotype)
        single, run[:] = set(run), []
        net.mixed_features(x, mixture, net.space.active_ops(mixture))
    dead = {name for name in run if space == "nb201" and name not in single}  # leads to no output
    # Edges from one state share what has no parameters of its own.
    learned = {name for name in single if list(net.get_submodule(name).parameters())}
    assert learned <= set(run) - dead <= single and len(set(run)) < len(prefixes)


@pytest.mark.parametrize("space", ["darts", "darts_fewshot", "enas_micro", "nb201"])
def test_an_edge_without_any_op_adds_exactly_nothing(space):
    net, x = make(space)
    cell_type, edges = list(net.space.menu().items())[-1]
    bare = list(edges)[-1]
    mixture = net.mixture()
    menu = {cell_type: {place: ops for place, ops in edges.items() if place != bare}}
    small = Supernet(3, 1, 16, space=space, channels=4, nodes=2, menu=menu).double()
    weights = net.state_dict()
    small.load_state_dict({key: weights[key] for key in small.state_dict()})
    mixture[cell_type][-1] = torch.eye(len(edges[bare]), dtype=torch.float64)[0]  # none
    with torch.no_grad():
        expected = net.mixed_features(x, mixture)
        torch.testing.assert_close(small.mixed_features(x, mixture), expected, rtol=0, atol=1e-12)
        assert not torch.allclose(net.mixed_features(x, net.mixture()), expected)


def test_a_node_that_nothing_reaches_is_zero():
    net, x = make("darts_fewshot", cells=1, nodes=2)
    menu = {"reduce": {(0, 2): (), (1, 2): (), (2, 3): ("skip_connect",)}}
    with torch.no_grad():
        features = Supernet(3, 1, 16, space="darts_fewshot", channels=4, cells=1, nodes=2, menu=menu).mixed_features(
            x.float(), {name: value.float() for name, value in net.mixture().items()}
        )
    assert features.shape == (6, net.feature_dim) and not features.any()


@pytest.mark.parametrize("space", SPACES)
def test_gradients_of_alphas_are_finite_differences_and_work_under_vmap(space):
    net, x = make(space, cells=2)
    params = {name: value.detach() for name, value in net.named_parameters()}
    alphas = {name: value for name, value in params.items() if name.startswith("alphas.")}
    y = torch.arange(6) % 3

    def loss(alphas, x):
        return F.cross_entropy(functional_call(net, {**params, **alphas}, (x,)), y)

    found = grad(loss)(alphas, x)
    name, value = max(found.items(), key=lambda item: float(item[1].abs().max()))
    place = divmod(int(value.abs().argmax()), value.shape[1])
    step = torch.zeros_like(value)
    step[place] = 1e-6
    above, below = ({**alphas, name: alphas[name] + sign * step} for sign in (1, -1))
    difference = (loss(above, x) - loss(below, x)) / 2e-6
    torch.testing.assert_close(value[place], difference, rtol=1e-5, atol=1e-9)
    both = vmap(grad(loss), in_dims=(None, 0))(alphas, torch.stack([x, x.flip(0)]))
    torch.testing.assert_close(both[name][0], value, rtol=1e-7, atol=1e-10)


def test_a_pruned_op_and_a_pruned_edge_leave_alphas_without_gradient():
    menu = {"reduce": {(0, 2): (), (1, 2): ("none", "conv_3x3"), (0, 3): ("skip_connect",), (2, 3): ("none",)}}
    net, x = make("darts_fewshot", cells=1, nodes=2, menu=menu)
    mixture = net.mixture()["reduce"].detach()
    assert mixture[0].tolist() == [0.0] * 8 and mixture[2].tolist() == [0.0, 1.0] + [0.0] * 6
    assert float(mixture[1, 0] + mixture[1, 7]) == pytest.approx(1) and not mixture[1, 1:7].any()
    (gradient,) = torch.autograd.grad(net(x).square().sum(), [net.alphas["reduce"]])
    assert gradient.isfinite().all()
    assert {tuple(place) for place in gradient.nonzero().tolist()} == {(1, 0), (1, 7)}


def test_maml_adapts_and_learns_alphas_like_any_parameter():
    net = MixedSupernet(2, 1, 16, space="darts_fewshot", channels=2, nodes=1)
    module = MAML(net, inner=InnerLoop(inner_lr=0.5, inner_steps=2))
    y = torch.tensor([0, 1])
    stream = torch.Generator().manual_seed(0)
    images = torch.randn(6, 1, 16, 16, generator=stream)
    task = Task(images[:2], y, images[2:], y.repeat(2))
    end = module.descend(module.problem(task), training=True)[-1]
    assert not torch.equal(end["alphas.reduce"], net.alphas["reduce"])
    loss, _ = module.task_loss(task)
    gradients = torch.autograd.grad(loss, list(net.alphas.values()))
    assert all(gradient.any() for gradient in gradients)


def test_the_first_alphas_come_from_a_stream_of_their_own():
    torch.manual_seed(1)
    one = MixedSupernet(3, 1, 16, space="darts", seed=4)
    torch.manual_seed(2)
    same, other = MixedSupernet(3, 1, 16, space="darts", seed=4), MixedSupernet(3, 1, 16, space="darts", seed=5)
    alphas = torch.cat([value.flatten() for value in one.alphas.values()])
    assert all(torch.equal(one.alphas[name], same.alphas[name]) for name in one.alphas)
    assert not torch.equal(one.alphas["normal"], other.alphas["normal"])
    assert abs(float(alphas.detach().std()) - 1e-3) < 1.5e-4 and abs(float(alphas.detach().mean())) < 2e-4


def test_discretise_takes_the_two_heaviest_inputs_and_the_lower_index_of_equals():
    space = SPACES["darts"](4, 2, 2)
    weights = {cell_type: torch.zeros(5, 8) for cell_type in ("normal", "reduce")}
    weights["normal"][:, 0] = 0.9  # none is not looked at
    weights["normal"][2, 3] = weights["normal"][4, 5] = weights["normal"][4, 7] = 0.3
    weights["normal"][3, 1] = 0.2
    edges = dict(space.discretise(weights).edges)
    ops = space.ops
    assert edges["normal"] == ((ops[0], 0, 2), (ops[0], 1, 2), (ops[2], 0, 3), (ops[4], 2, 3))
    assert edges["reduce"] == tuple((ops[0], *place) for place in ((0, 2), (1, 2), (0, 3), (1, 3)))


def test_what_does_not_fit_is_named():
    net, x = make("darts", nodes=1)
    with pytest.raises(ValueError, match=r"mixture of space darts: normal has shape \(3, 8\), \(2, 8\) is needed"):
        net.mixed_features(x, {**net.mixture(), "normal": torch.zeros(3, 8)})
    with pytest.raises(ValueError, match="reduce has shape None"):
        net.mixed_features(x, {"normal": torch.zeros(2, 8)})
    with pytest.raises(InputError, match="reduce has weights that are not numbers"):
        net.space.discretise({"normal": torch.zeros(2, 8), "reduce": torch.full((2, 8), torch.nan)})
    with pytest.raises(InputError, match="menu: op conv_9x9 on edge 1->2 of reduce is not in space darts"):
        make("darts", menu={"reduce": {(1, 2): ("conv_9x9",)}})
    with pytest.raises(InputError, match="menu: edge 7->9 of reduce is not in space darts"):
        make("darts", menu={"reduce": {(7, 9): ()}})
    with pytest.raises(InputError, match="layer 1 has no op in the menu"):
        make("enas_macro", menu={"op": {(0, 1): ("enas_conv_k3",)}})
    with pytest.raises(InputError, match="a layer of a chain has no op in the menu"):
        make("chain", cells=2, menu={"chain": {(0, 1): ("conv_k3",)}})
    chain, x = make("chain", cells=2)
    with pytest.raises(ValueError, match="whose ops are all left out"):
        chain.mixed_features(x, chain.mixture(), {"chain": {(0, 1): ("conv_k3",)}})
    macro, x = make("enas_macro", cells=2)
    with pytest.raises(ValueError, match="layer 0 of a macro network whose ops are all left out"):
        macro.mixed_features(x, macro.mixture(), {"op": {}, "skip": {}})
