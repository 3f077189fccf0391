"""Tangent kernels against explicit gradients of single examples, and against closed forms of linear networks."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from few_shot_nas.kernels.ntk import jacobian_ntk, nngp, ntk, taps
from few_shot_nas.nn.norm import BatchNorm2d

LAYERS = {
    "conv": lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "pointwise": lambda: nn.Conv2d(4, 6, 1, stride=2),
    "depthwise": lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False),
    "grouped": lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2),
    "dilated": lambda: nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4, bias=False),
    "asymmetric": lambda: nn.Sequential(nn.Conv2d(4, 5, (1, 5), 2, (0, 2)), nn.Conv2d(5, 3, (5, 1), 1, (2, 0))),
    "group norm": lambda: nn.Sequential(nn.GroupNorm(4, 4), nn.Conv2d(4, 4, 3), nn.GroupNorm(1, 4), nn.ReLU()),
    "linear": lambda: nn.Sequential(nn.Flatten(2), nn.Linear(64, 5), nn.Unflatten(2, (5, 1))),
}


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


class Net(nn.Module):
    """A layer between group-normalised convolutions, and a head."""

    def __init__(self, layer):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU())
        self.layer = layer
        self.last = nn.Sequential(nn.LazyConv2d(4, 1, bias=False), nn.GroupNorm(2, 4), nn.ReLU())
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        return self.head(self.last(self.layer(self.stem(x))).mean((2, 3)))


def make_net(layer=None):
    torch.manual_seed(0)
    net = Net(layer or nn.Identity()).double()
    net(noise(2, 3, 8, 8))
    return net


def explicit(net, images, params):
    """The kernel by one backward pass per example and the whole Jacobian."""
    rows = []
    for image in images:
        gradients = torch.autograd.grad(net(image.unsqueeze(0)).sum(), params)
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    jacobian = torch.stack(rows)
    return jacobian @ jacobian.T


def weights(net, biases=False):
    layers = [module for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    return [p for m in layers for p in ((m.weight, m.bias) if biases and m.bias is not None else (m.weight,))]


@pytest.mark.parametrize("kind", LAYERS)
def test_the_sum_over_layers_is_the_kernel_of_explicit_gradients(kind):
    net, images = make_net(LAYERS[kind]()), noise(5, 3, 8, 8, seed=1)
    found = ntk(net, net.modules(), images)
    torch.testing.assert_close(found, explicit(net, images, weights(net)), rtol=1e-9, atol=0)
    # In pieces of one output channel, and with the biases.
    torch.testing.assert_close(ntk(net, net.modules(), images, piece=1), found, rtol=1e-12, atol=0)
    with_biases = explicit(net, images, weights(net, biases=True))
    torch.testing.assert_close(ntk(net, net.modules(), images, biases=True), with_biases, rtol=1e-9, atol=0)
    assert torch.equal(found, found.T) and float(torch.linalg.eigvalsh(found)[0]) > -1e-9 * float(found.trace())


def test_float32_gives_the_kernel_to_its_own_precision_and_float64_grams_can_be_asked_for():
    net, images = make_net(LAYERS["conv"]()), noise(5, 3, 8, 8, seed=1)
    exact = ntk(net, net.modules(), images)
    net, images = net.float(), images.float()
    single, wide = ntk(net, net.modules(), images), ntk(net, net.modules(), images, dtype=torch.float64)
    assert single.dtype == wide.dtype == torch.float64
    torch.testing.assert_close(single, exact, rtol=1e-4, atol=0)
    assert 0 < float((single - wide).abs().max()) < 1e-4 * float(exact.max())


def test_a_layer_that_is_called_twice_has_the_sum_of_both_gradients():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh()).double()
    forward, images = (lambda x: net(net(x))), noise(4, 3)
    found = ntk(forward, net.modules(), images, biases=True)
    torch.testing.assert_close(found, explicit(forward, images, list(net.parameters())), rtol=1e-9, atol=0)


def test_nothing_of_the_network_changes_and_frozen_networks_have_the_same_kernel():
    net, images = make_net(LAYERS["grouped"]()).eval(), noise(3, 3, 8, 8, seed=1)
    expected = ntk(net, net.modules(), images)
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(module._forward_hooks for module in net.modules())
    net.requires_grad_(False)
    with torch.no_grad():
        assert torch.equal(ntk(net, net.modules(), images), expected)
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_linear_networks_have_closed_forms():
    first, second = noise(4, 3, seed=1), noise(5, 4, seed=2)
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 5, bias=False)).double()
    with torch.no_grad():
        net[0].weight.copy_(first)
        net[1].weight.copy_(second)
    x = noise(6, 3)
    hidden, column = x @ first.T, second.sum(0)
    expected = (column @ column) * (x @ x.T) + 5 * hidden @ hidden.T
    torch.testing.assert_close(ntk(net, net.modules(), x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ntk(net[0], net[0].modules(), x), 4 * x @ x.T, rtol=1e-12, atol=1e-12)


def test_the_kernel_of_the_head_is_nngp_and_the_rest_is_positive_semidefinite():
    net, images = make_net(LAYERS["depthwise"]()), noise(6, 3, 8, 8, seed=1)
    features = net.last(net.layer(net.stem(images))).mean((2, 3))
    head = nngp(features, n_way=5)
    torch.testing.assert_close(head, ntk(net, net.head.modules(), images), rtol=1e-12, atol=0)
    torch.testing.assert_close(head, 5 * features.detach() @ features.detach().T, rtol=1e-12, atol=0)
    rest = torch.linalg.eigvalsh(ntk(net, net.modules(), images) - head)
    assert float(rest[0]) > -1e-12 * float(rest[-1])


def test_rows_of_a_jacobian_give_the_kernel_of_networks_whose_images_interact():
    body = nn.Sequential(nn.Conv2d(3, 4, 3), BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Flatten())
    net, images = nn.Sequential(body, nn.Linear(32, 3)).double(), noise(5, 3, 8, 8, seed=1)
    params = list(net.parameters())
    outputs = net(images).sum(1)
    rows = [torch.cat([g.flatten() for g in torch.autograd.grad(net(images)[n].sum(), params)]) for n in range(5)]
    expected = torch.stack(rows) @ torch.stack(rows).T
    torch.testing.assert_close(jacobian_ntk(outputs, params), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(jacobian_ntk(outputs, params, piece=5), expected, rtol=1e-9, atol=1e-12)
    # Where the images do not interact both ways agree.
    net = make_net(LAYERS["dilated"]())
    both = jacobian_ntk(net(images).sum(1), weights(net)), ntk(net, net.modules(), images)
    torch.testing.assert_close(*both, rtol=1e-9, atol=0)
    # Of parameters of any kind, such as scales and shifts of group normalisation.
    every = list(net.parameters())
    found = jacobian_ntk(net(images).sum(1), every)
    torch.testing.assert_close(found, explicit(net, images, every), rtol=1e-9, atol=0)
    assert not torch.allclose(found, both[1])


def test_parameters_without_effect_count_nothing():
    used, unused = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    assert jacobian_ntk(used * 2, [used, unused]).tolist() == [[4.0, 0.0], [0.0, 4.0]]
    net = nn.ModuleList([nn.Linear(3, 2), nn.Linear(3, 2)]).double()
    forward, x = (lambda x: net[0](x) + 0 * F.relu(net[1](x)).detach()), noise(4, 3)
    assert torch.equal(ntk(forward, net.modules(), x), ntk(net[0], net[0].modules(), x))


def test_padding_other_than_zeros_is_refused():
    net = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1, padding_mode="circular"), nn.Flatten()).double()
    with pytest.raises(ValueError, match="pad a number of zeros.*circular"):
        ntk(net, net.modules(), noise(2, 3, 8, 8))
    assert len(taps(net, net.modules(), noise(2, 3, 8, 8))[1]) == 1
