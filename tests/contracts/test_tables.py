"""Properties of every model, search space and source in the tables."""

import pytest
import torch

from few_shot_nas.data.sources import SOURCES
from few_shot_nas.errors import InputError
from few_shot_nas.meta.functional import call, trainable
from few_shot_nas.models import MODELS
from few_shot_nas.spaces import SPACES
from few_shot_nas.spaces.genotype import Genotype
from few_shot_nas.spaces.mixed_supernet import MixedSupernet
from few_shot_nas.spaces.supernet import DerivedNetwork, Supernet


def build(name, tmp_path, n_way=4, in_channels=3, image_size=28):
    """Return the model and what its forward pass takes beside images."""
    space = SPACES["chain"](channels=4)
    genotype = space.decode(space.sample(torch.Generator().manual_seed(0)))
    if name == "GenotypeNetwork":
        genotype.save(tmp_path / "genotype.json")
        return MODELS[name](n_way, in_channels, image_size, genotype=str(tmp_path / "genotype.json")), {}
    if name == "Supernet":
        return MODELS[name](n_way, in_channels, image_size, space="chain", channels=4), {"genotype": genotype}
    if name == "MixedSupernet":
        return MODELS[name](n_way, in_channels, image_size, space="chain", channels=4), {}
    return MODELS[name](n_way, in_channels, image_size), {}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_gives_features_and_a_linear_head_on_them(name, tmp_path):
    net, inputs = build(name, tmp_path)
    images = torch.randn(5, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features, logits = net.features(images, **inputs), net(images, **inputs)
    assert features.shape == (5, net.feature_dim) and logits.shape == (5, 4)
    torch.testing.assert_close(net.head(features), logits)


@pytest.mark.parametrize("name", MODELS)
def test_a_functional_call_equals_the_module_and_leaves_it_alone(name, tmp_path):
    net, inputs = build(name, tmp_path)
    images = torch.randn(5, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    moved = {key: value + 0.01 for key, value in trainable(net).items()}
    with torch.no_grad():
        plain = net(images, **inputs)
        torch.testing.assert_close(call(net, trainable(net), images, **inputs), plain, rtol=0, atol=0)
        assert not torch.allclose(call(net, moved, images, **inputs), plain)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("name", MODELS)
def test_training_and_evaluation_mode_agree_because_normalisation_is_stateless(name, tmp_path):
    net, inputs = build(name, tmp_path)
    images = torch.randn(5, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(net.train()(images, **inputs), net.eval()(images, **inputs), rtol=0, atol=0)


@pytest.mark.parametrize("name", SPACES)
def test_decisions_genotypes_and_json_go_there_and_back(name):
    space = SPACES[name](channels=4)
    stream = torch.Generator().manual_seed(0)
    for _ in range(30):
        decisions = space.sample(stream)
        genotype = space.decode(decisions)
        assert space.encode(genotype) == decisions
        assert Genotype.from_json(genotype.to_json()) == genotype and hash(genotype) == hash(space.decode(decisions))


@pytest.mark.parametrize("name", SPACES)
def test_the_size_is_the_number_of_architectures_or_refuses_to_list_them(name):
    space = SPACES[name](channels=4)
    if space.size() <= 100_000:
        listed = list(space.enumerate())
        assert len({space.decode(decisions) for decisions in listed}) == len(listed) == space.size()
    else:
        with pytest.raises(InputError, match=str(space.size())):
            list(space.enumerate())


@pytest.mark.parametrize("name", SPACES)
def test_the_supernet_runs_a_genotype_as_the_derived_network_with_its_weights_does(name):
    torch.manual_seed(0)
    supernet = Supernet(4, 1, 28, space=name, channels=4)
    images = torch.randn(6, 1, 28, 28)
    stream = torch.Generator().manual_seed(0)
    for _ in range(5):
        genotype = supernet.space.decode(supernet.space.sample(stream))
        net = DerivedNetwork(4, 1, 28, genotype)
        weights = supernet.state_dict()
        net.load_state_dict({key: weights[key] for key in net.state_dict()})
        torch.testing.assert_close(net(images), supernet(images, genotype), rtol=0, atol=1e-6)
        assert sorted(supernet.active_params(genotype)) == sorted(dict(net.named_parameters()))


def mixed_supernet(name, **flags):
    """Return a small supernet with alphas in float64 whose parameters, shifts of BN included, are all drawn anew."""
    net = MixedSupernet(4, 1, 28, space=name, channels=4, **flags).double()
    stream = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=stream)
    return net, torch.randn(6, 1, 28, 28, generator=stream, dtype=torch.float64)


@pytest.mark.parametrize("name", SPACES)
def test_a_one_hot_mixture_is_the_single_path_to_the_last_bit_and_stands_for_its_architecture(name):
    net, images = mixed_supernet(name)
    stream = torch.Generator().manual_seed(2)
    for _ in range(5):
        genotype = net.space.decode(net.space.sample(stream))
        mixture = net.space.one_hot(genotype)
        assert net.space.discretise(mixture) == genotype
        with torch.no_grad():
            mixed = net.mixed_features(images, mixture, net.space.active_ops(mixture))
            assert torch.equal(mixed, net.features(images, genotype)), genotype


@pytest.mark.parametrize("name", SPACES)
def test_a_derived_network_is_the_search_network_without_affine_norms_at_one_hot_alphas(name):
    net, images = mixed_supernet(name, affine=False)
    stream = torch.Generator().manual_seed(3)
    for _ in range(3):
        genotype = net.space.decode(net.space.sample(stream))
        derived, weights = DerivedNetwork(4, 1, 28, genotype).double(), net.state_dict()
        own = derived.state_dict()  # what the search network lacks keeps its start: scales 1, shifts 0
        derived.load_state_dict({key: weights.get(key, value) for key, value in own.items()})
        one_hot = net.space.one_hot(genotype)
        active = net.space.active_ops(one_hot)
        with torch.no_grad():
            for cell_type, alphas in net.alphas.items():
                alphas.copy_(torch.where(one_hot[cell_type] > 0, 1e4, 0.0))
            mixed = net.head(net.mixed_features(images, net.mixture(), active))
            torch.testing.assert_close(mixed, derived(images), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SPACES)
def test_alphas_count_by_their_differences_within_an_edge_alone(name):
    net, images = mixed_supernet(name)
    logits = net(images)
    gradients = torch.autograd.grad(logits.square().sum(), list(net.alphas.values()))
    for gradient in gradients:
        torch.testing.assert_close(gradient.sum(1), torch.zeros(len(gradient)).double(), rtol=0, atol=1e-9)
    assert max(float(gradient.abs().max()) for gradient in gradients) > 1e-3
    with torch.no_grad():
        for alphas in net.alphas.values():
            alphas += torch.linspace(-3, 3, len(alphas), dtype=torch.float64)[:, None]
        torch.testing.assert_close(net(images), logits, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", SPACES)
def test_a_menu_with_fewer_ops_gives_a_smaller_network_that_computes_the_mixture_of_those(name):
    net, images = mixed_supernet(name)
    menu = {
        cell_type: {place: ops if index % 2 else ops[:-1] for index, (place, ops) in enumerate(edges.items())}
        for cell_type, edges in net.space.menu().items()
    }
    small = MixedSupernet(4, 1, 28, space=name, channels=4, menu=menu).double()
    weights = net.state_dict()
    assert set(small.state_dict()) <= set(weights)
    small.load_state_dict({key: weights[key] for key in small.state_dict()})
    stream, held = torch.Generator().manual_seed(4), []
    for genotype in (net.space.decode(net.space.sample(stream)) for _ in range(30)):
        chosen = [(edges[place], op) for cell_type, edges in menu.items()
                  for place, (op,) in net.space.chosen(genotype)[cell_type].items()]  # fmt: skip
        held.append(all(op in ops for ops, op in chosen))
        if held[-1]:
            assert torch.equal(small.features(images, genotype), net.features(images, genotype))
            assert small.active_params(genotype) == net.active_params(genotype)
        else:
            for use in (small.features, lambda _, genotype: small.active_params(genotype)):
                with pytest.raises(InputError, match="is not held by this supernet; it has"):
                    use(images, genotype)
    assert False in held
    mixture = small.mixture()
    for cell_type, edges in menu.items():
        expected = torch.stack([
            torch.nn.functional.pad(alphas[: len(ops)].softmax(0), (0, len(alphas) - len(ops)))
            for alphas, ops in zip(net.alphas[cell_type], edges.values(), strict=True)
        ])  # fmt: skip
        torch.testing.assert_close(mixture[cell_type], expected, rtol=0, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(
            small.features(images), net.mixed_features(images, mixture, menu), rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_without_its_data_says_so_or_makes_its_own(name, tmp_path):
    source = SOURCES[name](data_dir=str(tmp_path / "empty"), cache_dir=str(tmp_path / "cache"))
    assert source.in_channels in (1, 3) and source.image_size > 0
    assert len(source.mean) == len(source.std) == source.in_channels
    if name == "Glyphs":
        assert source.has_split("train")
    else:
        with pytest.raises(InputError, match=str(tmp_path / "empty")):
            source.prepare()
        assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").glob("*/*.npy"))
