"""Fixed normalisation. Truth: the layers' own ``support`` and ``running`` ways of normalising."""

import pytest
import torch

from few_shot_nas.forward_context import forward_context
from few_shot_nas.meta.features import extract
from few_shot_nas.models import Conv4
from few_shot_nas.nn.frozen import frozen
from few_shot_nas.nn.norm import keep_running_statistics, make_per_step
from few_shot_nas.spaces.mixed_supernet import MixedSupernet


@pytest.fixture
def net() -> Conv4:
    torch.manual_seed(0)
    net = Conv4(3, 1, 16, width=4).double()
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return net


SUPPORT = torch.randn(6, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
QUERIES = torch.randn(5, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def test_a_query_alone_gets_its_features_behind_the_support_set(net: Conv4) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    fixed = frozen(net, lambda copied: copied.features(SUPPORT))
    expected = extract(net, torch.cat([SUPPORT, QUERIES]), stat_rows=len(SUPPORT))[len(SUPPORT) :]
    for row, query in enumerate(QUERIES):
        torch.testing.assert_close(fixed.features(query[None])[0], expected[row], rtol=1e-10, atol=1e-10)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_mixture_whose_edges_share_pools_is_fixed_too() -> None:
    net = MixedSupernet(3, 1, 16, "darts", channels=2, cells=2, nodes=2, affine=False, norm_pools=True).double()
    fixed = frozen(net, lambda copied: copied.features(SUPPORT))
    expected = extract(net, torch.cat([SUPPORT, QUERIES]), stat_rows=len(SUPPORT))[len(SUPPORT) :]
    torch.testing.assert_close(fixed.features(QUERIES), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(fixed.features(QUERIES[:1]), expected[:1], rtol=1e-9, atol=1e-9)


def test_running_statistics_need_no_images(net: Conv4) -> None:
    keep_running_statistics(net)
    net.train()
    for _ in range(3):
        net.features(SUPPORT)
    torch.testing.assert_close(frozen(net, None).features(QUERIES), extract(net, QUERIES, running=True))


def test_per_step_layers_are_those_of_the_first_step(net: Conv4) -> None:
    make_per_step(net, 2, statistics=True, affine=True)
    for parameter in net.parameters():
        if parameter.ndim == 2 and parameter.shape[0] == 2:
            parameter.data[1] += 3
    with forward_context(0, len(SUPPORT)):
        expected = net.features(torch.cat([SUPPORT, QUERIES]))[len(SUPPORT) :]
    fixed = frozen(net, lambda copied: copied.features(SUPPORT))
    torch.testing.assert_close(fixed.features(QUERIES), expected, rtol=1e-10, atol=1e-10)


def test_without_images_a_layer_that_keeps_nothing_is_named(net: Conv4) -> None:
    with pytest.raises(ValueError, match=r"body\.1 keeps no running statistics"):
        frozen(net, None)
