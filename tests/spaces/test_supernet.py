"""The supernet runs one path, and the derived network is that path."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call, grad, jvp

from few_shot_nas.errors import InputError
from few_shot_nas.forward_context import forward_context
from few_shot_nas.nn.init import xavier_init
from few_shot_nas.spaces import SPACES
from few_shot_nas.spaces.genotype import Edge, Genotype
from few_shot_nas.spaces.supernet import DerivedNetwork, Supernet, space_of


def make_supernet(space, in_channels=1, image_size=28, **sizes):
    torch.manual_seed(0)
    return Supernet(5, in_channels, image_size, space=space, **{"channels": 4, **sizes})


def genotypes(net, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [net.space.decode(net.space.sample(generator)) for _ in range(count)]


@pytest.fixture(params=SPACES)
def net(request):
    return make_supernet(request.param)


@pytest.fixture
def x():
    return torch.randn(6, 1, 28, 28, generator=torch.Generator().manual_seed(3))


def test_twenty_architectures_equal_their_derived_networks_with_copied_weights(net, x):
    weights = net.state_dict()
    for genotype in genotypes(net, 20):
        derived = DerivedNetwork(5, 1, 28, genotype)
        derived.load_state_dict({name: weights[name] for name in derived.state_dict()})
        assert torch.allclose(derived(x), net(x, genotype), atol=1e-6)
        assert torch.allclose(derived.features(x), net.features(x, genotype), atol=1e-6)
        assert derived.feature_dim == net.feature_dim


def test_a_deeper_supernet_equals_its_derived_network_too(x):
    net = make_supernet("darts_fewshot", cells=4, nodes=2)
    (genotype,) = genotypes(net, 1)
    derived = DerivedNetwork(5, 1, 28, genotype)
    derived.load_state_dict({name: net.state_dict()[name] for name in derived.state_dict()})
    assert torch.allclose(derived(x), net(x, genotype), atol=1e-6)


def test_active_params_are_the_derived_networks_parameters_in_its_order(net):
    for genotype in genotypes(net, 5):
        derived = DerivedNetwork(5, 1, 28, genotype)
        assert net.active_params(genotype) == tuple(name for name, _ in derived.named_parameters())


def test_gradients_are_none_exactly_off_the_path(net, x):
    names, parameters = zip(*net.named_parameters(), strict=True)
    for genotype in genotypes(net, 5):
        loss = F.cross_entropy(net(x, genotype), torch.arange(6) % 5)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        touched = tuple(name for name, gradient in zip(names, gradients, strict=True) if gradient is not None)
        assert touched == net.active_params(genotype)


def test_parameter_order_is_the_same_in_every_construction(net):
    again = make_supernet(net.space.name)
    assert [name for name, _ in again.named_parameters()] == [name for name, _ in net.named_parameters()]


def test_defaults_give_both_spaces_their_published_size():
    assert Supernet(5, 1, 28).space.size() == (18 * 49**3) ** 2
    assert Supernet(5, 1, 28, space="chain").space.size() == 125


def test_sizes_given_are_the_spaces_sizes():
    space = make_supernet("chain", channels=6, cells=2, nodes=4).space
    assert (space.channels, space.cells, space.nodes) == (6, 2, 4)


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("image_size", [28, 42, 84])
@pytest.mark.parametrize("space", SPACES)
def test_images_of_every_data_source_fit(space, image_size, in_channels):
    net = make_supernet(space, in_channels, image_size)
    (genotype,) = genotypes(net, 1)
    assert net(torch.randn(2, in_channels, image_size, image_size), genotype).shape == (2, 5)


def test_head_is_linear_on_the_features(net, x):
    (genotype,) = genotypes(net, 1)
    features = net.features(x, genotype)
    assert features.shape == (6, net.feature_dim) == (6, net.head.in_features)
    assert torch.equal(net(x, genotype), net.head(features))


def test_support_rows_do_not_feel_the_queries_and_queries_do_not_feel_each_other(net, x):
    for genotype in genotypes(net, 3):
        alone = net(x[:4], genotype)
        with forward_context(stat_rows=4):
            both = net(x, genotype)
            swapped = net(x[[0, 1, 2, 3, 5, 4]], genotype)
        assert torch.allclose(both[:4], alone, atol=1e-5)
        assert torch.allclose(swapped[[0, 1, 2, 3, 5, 4]], both, atol=1e-5)


def test_jvp_over_grad_equals_a_finite_difference_of_gradients_along_a_path(net, x):
    net, x, y = net.double(), x.double(), torch.arange(6) % 5
    (genotype,) = genotypes(net, 1, seed=4)
    shared = dict(net.named_parameters())
    params = {name: shared[name].detach() for name in net.active_params(genotype)}
    generator = torch.Generator().manual_seed(1)
    along = {name: torch.randn(p.shape, generator=generator, dtype=p.dtype) for name, p in params.items()}

    def gradient(params):
        return grad(lambda p: F.cross_entropy(functional_call(net, p, (x,), {"genotype": genotype}), y))(params)

    _, forward_over_reverse = jvp(gradient, (params,), (along,))
    step = 1e-8  # a longer step crosses kinks of ReLU and max-pool, where gradients jump
    plus, minus = ({name: p + sign * step * along[name] for name, p in params.items()} for sign in (1, -1))
    above, below = gradient(plus), gradient(minus)
    for name, value in forward_over_reverse.items():
        assert torch.allclose(value, (above[name] - below[name]) / (2 * step), atol=1e-5), name


def test_double_backward_equals_jvp_over_grad_along_a_path(net, x):
    net, x, y = net.double(), x.double(), torch.arange(6) % 5
    (genotype,) = genotypes(net, 1, seed=4)
    shared = dict(net.named_parameters())
    params = {name: shared[name] for name in net.active_params(genotype)}

    def loss(p):
        return F.cross_entropy(functional_call(net, p, (x,), {"genotype": genotype}), y)

    gradients = torch.autograd.grad(loss(params), list(params.values()), create_graph=True)
    detached = {name: p.detach() for name, p in params.items()}
    along = {name: g.detach() for name, g in zip(params, gradients, strict=True)}
    product = sum((g * g.detach()).sum() for g in gradients)
    reverse = torch.autograd.grad(product, list(params.values()), allow_unused=True)
    _, forward = jvp(grad(loss), (detached,), (along,))
    for (name, expected), value in zip(forward.items(), reverse, strict=True):
        # None: the gradient does not depend on this parameter (the head's bias under some heads).
        assert torch.allclose(torch.zeros_like(expected) if value is None else value, expected, atol=1e-9), name


def test_weights_start_xavier_uniform_and_biases_at_zero():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3), torch.nn.Linear(30, 20))
    xavier_init(net)
    for layer, bound in ((net[0], (6 / (9 * 8 + 9 * 16)) ** 0.5), (net[1], (6 / 50) ** 0.5)):
        assert 0.9 * bound < layer.weight.abs().max() <= bound
        assert abs(layer.weight.std() - bound / 3**0.5) < 0.1 * bound
        assert not layer.bias.any()


def test_a_supernet_starts_from_that_law(net):
    for name, module in net.named_modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            fan_in, fan_out = torch.nn.init._calculate_fan_in_and_fan_out(module.weight)
            assert module.weight.abs().max() <= (6 / (fan_in + fan_out)) ** 0.5, name
    assert not net.head.bias.any()


def test_an_unknown_space_is_named_with_a_suggestion():
    with pytest.raises(InputError, match="space=chian: unknown. Did you mean chain"):
        make_supernet("chian")
    with pytest.raises(InputError, match="space=chian"):
        space_of(Genotype("chian", 4, 2, 1, ()))


def test_a_genotype_of_another_space_is_refused_by_the_forward_pass_and_by_active_params(x):
    net, other = make_supernet("chain"), make_supernet("darts_fewshot")
    (genotype,) = genotypes(other, 1)
    for use in (lambda: net(x, genotype), lambda: net.features(x, genotype), lambda: net.active_params(genotype)):
        with pytest.raises(InputError, match="space=darts_fewshot does not fit space chain"):
            use()


def test_a_derived_network_refuses_an_op_its_space_does_not_have():
    genotype = Genotype("chain", 4, 1, 1, (("chain", (Edge("conv_7x7", 0, 1),)),))
    with pytest.raises(InputError, match="op conv_7x7 on edge 0->1"):
        DerivedNetwork(5, 1, 28, genotype)


def test_a_chain_too_long_for_the_images_is_refused():
    with pytest.raises(InputError, match="image_size=28 with cells=4 .* image_size=32 is needed"):
        make_supernet("chain", cells=4)
