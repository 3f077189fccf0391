"""Search networks: mixtures as means of ops, their kernels against explicit gradients, and their initial weights."""

import math

import pytest
import torch
from torch import nn

from few_shot_nas.kernels.meta_ntk import meta_ntk
from few_shot_nas.kernels.spectrum import condition_number
from few_shot_nas.nn.group_norm import group_normalised
from few_shot_nas.search.kernel_network import (
    adapted_condition,
    batch_condition,
    draw_weights,
    equal_weights,
    search_network,
)
from few_shot_nas.search.pruning import Candidate, first_stage, without
from few_shot_nas.spaces import SPACES

SPACE = SPACES["darts_fewshot"](channels=4, cells=2, nodes=2)
ACTIVE = first_stage(SPACE).active


def images(count=6):
    return torch.randn(count, 1, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.double)


def make_network(space=SPACE):
    net = search_network(space, 1, 16, 3).double()
    draw_weights(net, "kaiming", "fan_out", 0)
    return net


def test_k_active_ops_give_their_mean_and_an_empty_edge_gives_exactly_zero():
    net = make_network()
    cell, x = net.body.cells[0], torch.randn(3, 4, 16, 16, dtype=torch.double)
    kept = without(ACTIVE, [Candidate("normal", (1, 2), op) for op in ACTIVE["normal"][1, 2]])
    weights = equal_weights(kept, x)
    assert kept["normal"][1, 2] == () and weights["normal"][1, 2] == {}
    out = cell.mixed(x, x, weights["normal"])[:, :4]
    ops = cell.edges["0_2"]
    state = cell.pre0(x)
    expected = sum(ops[op](state) for op in ACTIVE["normal"][0, 2]) / len(ACTIVE["normal"][0, 2])
    torch.testing.assert_close(out, expected)
    with torch.no_grad():
        for parameter in cell.edges["1_2"].parameters():
            parameter.fill_(math.nan)
    torch.testing.assert_close(cell.mixed(x, x, weights["normal"])[:, :4], expected)


def test_the_last_normalisation_makes_features_of_cells_positive_and_nb201_has_its_own():
    net = make_network()
    weights = equal_weights(ACTIVE, images())
    assert bool((net.features(images(), weights) > 0).all())
    cells = SPACES["nb201"](channels=4, cells=2)
    other = search_network(cells, 1, 16, 3).double()
    assert other.norm is None
    features = other.features(images(), equal_weights(first_stage(cells).active, images()))
    logits = other(images(), equal_weights(first_stage(cells).active, images()))
    torch.testing.assert_close(logits, other.head(features))


def rows(net, weights, batch, params, together):
    found = []
    for n in range(len(batch)):
        part = batch if together else batch[n : n + 1]
        output = net(part, weights).sum(1)[n if together else 0]
        gradients = torch.autograd.grad(output, params, allow_unused=True)
        found.append(torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten()
                                for p, g in zip(params, gradients, strict=True)]))  # fmt: skip
    jacobian = torch.stack(found)
    return jacobian @ jacobian.T


@pytest.mark.parametrize("kernel", ["MAML", "ANIL", "NTK"])
def test_the_condition_is_that_of_explicit_gradients_of_single_images(kernel):
    net = group_normalised(make_network(), 2)
    weights, batch = equal_weights(ACTIVE, images()), images()
    layers = [m.weight for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    gram = rows(net, weights, batch, layers, together=False)
    own = rows(net, weights, batch, [net.head.weight], together=False) if kernel == "ANIL" else gram
    sizes = {"n_query": 3, "n_support": 3, "inner_lr_time": 0.01, "reg": 0.1}
    expected = gram if kernel == "NTK" else meta_ntk(gram, own, **sizes)
    found = adapted_condition(net, weights, batch, kernel=kernel, **sizes)
    assert found.value == pytest.approx(condition_number(expected).value, rel=1e-6)


def test_under_batch_statistics_every_image_has_a_share_in_every_gradient():
    net, batch = make_network(), images()
    weights = equal_weights(ACTIVE, batch)
    params = [parameter for name, parameter in net.named_parameters() if name.endswith("weight")]
    expected = condition_number(rows(net, weights, batch, params, together=True))
    assert batch_condition(net, weights, batch).value == pytest.approx(expected.value, rel=1e-6)


def test_weights_are_a_function_of_the_words_and_of_the_law():
    net, state = search_network(SPACE, 1, 16, 3), torch.random.get_rng_state()

    def drawn(init, *words):
        draw_weights(net, init, "fan_in", *words)
        return torch.cat([p.detach().flatten() for p in net.parameters()]).clone()

    first = drawn("kaiming", 0, "a")
    assert torch.equal(drawn("kaiming", 0, "a"), first) and not torch.equal(drawn("kaiming", 0, "b"), first)
    own = drawn("torch_default", 0, "a")
    assert torch.equal(drawn("torch_default", 0, "a"), own) and not torch.equal(own, first)
    layer = next(m for m in net.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 5))
    draw_weights(net, "torch_default", "fan_in", 0)
    limit = 1 / math.sqrt(layer.weight[0].numel())
    assert 0.8 * limit < float(layer.weight.abs().max()) <= limit
    assert torch.equal(torch.random.get_rng_state(), state)
