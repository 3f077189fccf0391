"""Drop-path against its definition: masks of whole images, expectation, and nothing in evaluation mode."""

import pytest
import torch
from torch import nn

from few_shot_nas.errors import InputError
from few_shot_nas.nn.drop_path import DropPath, has_drop_path, set_drop_path
from few_shot_nas.spaces.darts_fewshot import DartsFewshot
from few_shot_nas.spaces.genotype import Edge, Genotype
from few_shot_nas.spaces.supernet import DerivedNetwork


def test_images_are_dropped_whole_and_the_others_scaled_so_that_the_mean_stays():
    torch.manual_seed(0)
    layer = DropPath().train()
    layer.rate = 0.25
    x = torch.rand(4000, 3, 2, 2) + 0.5
    scale = layer(x) / x
    assert torch.allclose(scale, scale[:, :1, :1, :1].expand_as(scale))
    values, counts = scale[:, 0, 0, 0].round(decimals=4).unique(return_counts=True)
    assert values.tolist() == pytest.approx([0.0, 4 / 3], abs=1e-4)
    assert counts[1] / 4000 == pytest.approx(0.75, abs=0.03)  # four standard errors


def test_it_is_the_identity_in_evaluation_and_at_rate_0():
    layer, x = DropPath(), torch.randn(5, 2, 3, 3)
    assert layer.train()(x) is x
    layer.rate = 0.9
    assert layer.eval()(x) is x


def network(*ops):
    edges = tuple(Edge(op, src, dst) for op, (src, dst) in zip(ops, ((0, 2), (1, 2)), strict=True))
    genotype = Genotype("darts_fewshot", 4, 2, 1, (("normal", edges), ("reduce", edges)))
    torch.manual_seed(0)
    return DerivedNetwork(3, 3, 12, genotype)


@pytest.mark.parametrize("seed", range(5))
def test_a_cell_drops_every_op_but_identities(seed):
    """At a rate near 1 the normal cell gives what its identity alone gives, and the reduction cell gives zeros."""
    net, x = network("skip_connect", "sep_conv_3x3").train(), torch.randn(2, 3, 12, 12)
    set_drop_path(net, 1 - 1e-9)
    torch.manual_seed(seed)
    normal, reduce = net.body.cells
    stem = net.body.stem(x)
    edges = dict(net.genotype.edges)
    out = normal(stem, stem, edges["normal"])
    assert torch.equal(out, normal.pre0(stem))
    # At stride 2 a skip is no identity but a factorised reduction, which is dropped too.
    assert not reduce(stem, out, edges["reduce"]).any()
    assert torch.isfinite(net(x)).all()


def test_parameters_and_answers_in_evaluation_are_those_without_it():
    net, x = network("conv_3x3", "sep_conv_3x3").eval(), torch.randn(2, 3, 12, 12)
    before = net(x)
    set_drop_path(net, 0.5)
    assert torch.equal(net(x), before)
    assert not any("drop_path" in name for name in net.state_dict())
    assert has_drop_path(net) and DartsFewshot(4, 2, 1).encode(net.genotype)


def test_networks_without_paths_are_refused():
    set_drop_path(nn.Linear(2, 2), 0.0)
    with pytest.raises(InputError, match="drop_path=0.2: Linear has no paths to drop"):
        set_drop_path(nn.Linear(2, 2), 0.2)
