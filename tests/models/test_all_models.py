"""What every network promises."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call, grad, jvp

from few_shot_nas.models import MODELS
from few_shot_nas.nn.cost import count_macs
from few_shot_nas.spaces import SPACES
from few_shot_nas.spaces.supernet import Supernet

PLAIN = [name for name in MODELS if name != "Supernet"]
SMALL = {"Conv4": {"width": 4}, "MixedSupernet": {"channels": 4}}


@pytest.fixture
def make_model(tmp_path):
    def make(name, in_channels=1, image_size=28):
        torch.manual_seed(0)
        flags = dict(SMALL.get(name, {}))
        if name == "GenotypeNetwork":
            space = SPACES["darts_fewshot"](4, 2, 2)
            space.decode(space.sample(torch.Generator().manual_seed(2))).save(tmp_path / "genotype.json")
            flags["genotype"] = str(tmp_path / "genotype.json")
        return MODELS[name](n_way=5, in_channels=in_channels, image_size=image_size, **flags)

    return make


def test_the_supernet_is_listed():
    assert MODELS["Supernet"] is Supernet


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("image_size", [28, 42, 84])
@pytest.mark.parametrize("name", PLAIN)
def test_logits_are_the_linear_head_on_features_for_every_image_size(make_model, name, image_size, in_channels):
    net = make_model(name, in_channels, image_size)
    x = torch.randn(2, in_channels, image_size, image_size)
    with torch.no_grad():
        features, logits = net.features(x), net(x)
    assert features.shape == (2, net.feature_dim)
    assert isinstance(net.head, torch.nn.Linear)
    assert logits.shape == (2, 5)
    assert torch.allclose(logits, net.head(features), atol=1e-5)


@pytest.mark.parametrize("name", PLAIN)
def test_train_and_eval_mode_agree_and_no_buffer_is_kept(make_model, name):
    net = make_model(name)
    x = torch.randn(4, 1, 28, 28)
    with torch.no_grad():
        assert torch.equal(net.train()(x), net.eval()(x))
    assert not list(net.buffers())


@pytest.mark.parametrize("name", PLAIN)
def test_second_derivatives_by_double_backward_and_by_jvp_over_grad_agree(make_model, name):
    net = make_model(name, image_size=16).double()
    x, y = torch.randn(3, 1, 16, 16, dtype=torch.double), torch.arange(3)
    params = dict(net.named_parameters())

    def loss(p):
        return F.cross_entropy(functional_call(net, p, (x,)), y)

    gradients = torch.autograd.grad(loss(params), list(params.values()), create_graph=True)
    along = {name: g.detach() for name, g in zip(params, gradients, strict=True)}
    product = sum((g * g.detach()).sum() for g in gradients)
    reverse = torch.autograd.grad(product, list(params.values()), allow_unused=True)
    _, forward = jvp(grad(loss), ({name: p.detach() for name, p in params.items()},), (along,))
    scale = max(value.abs().max() for value in forward.values())
    assert scale > 0
    for (key, expected), value in zip(forward.items(), reverse, strict=True):
        found = torch.zeros_like(expected) if value is None else value
        assert torch.allclose(found, expected, atol=1e-9 * float(scale)), key


@pytest.mark.parametrize("name", PLAIN)
def test_counting_leaves_the_network_and_the_generator_as_they_were(make_model, name):
    net = make_model(name).train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    state = torch.get_rng_state()
    assert count_macs(net, 1, 28) == count_macs(net, 1, 28) > 0
    assert net.training
    assert torch.equal(torch.get_rng_state(), state)
    after = net.state_dict()
    assert all(torch.equal(after[key], value) and after[key].device.type == "cpu" for key, value in before.items())
