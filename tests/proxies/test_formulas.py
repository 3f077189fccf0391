"""Every proxy against its formula, written as plain loops over examples, weights and units."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from few_shot_nas.episode import SupportSet, Task
from few_shot_nas.errors import InputError
from few_shot_nas.kernels.activation_codes import activation_codes
from few_shot_nas.kernels.linear_regions import crop_pool
from few_shot_nas.kernels.meta_ntk import meta_ntk
from few_shot_nas.models.conv4 import Conv4
from few_shot_nas.nn.cost import count_parameters
from few_shot_nas.nn.group_norm import group_normalised
from few_shot_nas.nn.norm import BatchNorm2d
from few_shot_nas.proxies import PROXIES
from few_shot_nas.proxies.linear_regions import thin_network
from few_shot_nas.proxies.meta_ntk_condition import halves
from few_shot_nas.seeding import generator
from few_shot_nas.spaces import SPACES
from few_shot_nas.spaces.supernet import DerivedNetwork


class Small(nn.Module):
    """Two convolutions, one normalised, and a head; no images mix without the norm."""

    def __init__(self, norm=True):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = BatchNorm2d(4) if norm else nn.Identity()
        self.second = nn.Conv2d(4, 3, 3, stride=2)
        self.head = nn.Linear(3, 3)

    def features(self, x):
        return F.relu(self.second(F.relu(self.norm(self.first(x))))).mean((2, 3))

    def forward(self, x):
        return self.head(self.features(x))


def make_net(norm=True):
    torch.manual_seed(0)
    return Small(norm).double()


def make_task(shots=2):
    g = torch.Generator().manual_seed(1)
    images = torch.randn(6 + 3 * shots, 1, 6, 6, generator=g, dtype=torch.double)
    return Task(images[6:], torch.arange(3).repeat(shots), images[:6], torch.arange(3).repeat(2))


def layers(net):
    return [net.first.weight, net.second.weight, net.head.weight]


def gradients(net, task):
    return torch.autograd.grad(F.cross_entropy(net(task.support_x), task.support_y), layers(net))


def score(name, net, task):
    return PROXIES[name].score(net, task)


def test_grad_norm_and_snip_are_sums_over_layers_and_weights():
    net, task = make_net(), make_task()
    expected = sum(math.sqrt(sum(float(v) ** 2 for v in g.flatten())) for g in gradients(net, task))
    assert score("grad_norm", net, task) == pytest.approx(expected, rel=1e-9)
    pairs = zip(gradients(net, task), layers(net), strict=True)
    expected = sum(abs(float(a) * float(b)) for g, w in pairs for a, b in zip(g.flatten(), w.flatten(), strict=True))
    assert score("snip", net, task) == pytest.approx(expected, rel=1e-9)


def test_grasp_is_minus_the_weights_times_the_curvature_along_the_gradient():
    net, task, step = make_net(), make_task(), 1e-5
    start, along = [w.detach().clone() for w in layers(net)], gradients(net, task)
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            for weight, origin, direction in zip(layers(net), start, along, strict=True):
                weight.copy_(origin + sign * step * direction)
        ends.append(gradients(net, task))
    with torch.no_grad():
        for weight, origin in zip(layers(net), start, strict=True):
            weight.copy_(origin)
    products = [(a - b) / (2 * step) for a, b in zip(*ends, strict=True)]
    expected = -sum(float((p * w).sum()) for p, w in zip(products, start, strict=True))
    assert abs(expected) > 1e-3 and score("grasp", net, task) == pytest.approx(expected, rel=1e-5)


def test_synflow_of_a_linear_chain_counts_its_paths_once_per_layer_and_scales_with_each():
    net, task = make_net(), make_task()
    paths = torch.ones(1, 1, 6, 6, dtype=torch.double)
    for layer, weight in ((net.first, net.first.weight), (net.second, net.second.weight)):
        paths = F.conv2d(paths, weight.abs(), stride=layer.stride, padding=layer.padding)
    expected = float((net.head.weight.abs() @ paths.mean((2, 3)).T).sum())
    assert score("synflow", net, task) == pytest.approx(math.log(3 * expected), rel=1e-9)
    before = score("synflow", net, task)
    with torch.no_grad():
        net.second.weight.mul_(-4.0)
        net.first.bias.add_(5.0)
    assert score("synflow", net, task) == pytest.approx(before + math.log(4), rel=1e-9)


def test_jacobian_entropy_is_that_of_the_shares_of_the_spectrum_of_explicit_gradients():
    net, task = make_net(norm=False), make_task()
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(net(image.unsqueeze(0)).sum(), layers(net))])
        for image in task.support_x
    ]
    singular = torch.linalg.svdvals(torch.stack(rows)).tolist()
    total = sum(value**2 for value in singular)
    expected = -sum(value**2 / total * math.log(value**2 / total) for value in singular)
    assert 0 < expected < math.log(6) and score("jacobian_entropy", net, task) == pytest.approx(expected, rel=1e-9)
    alike = task._replace(support_x=task.support_x[:1].expand(6, -1, -1, -1))
    assert score("jacobian_entropy", net, alike) == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    assert score("jacobian_entropy", net, task) == 0


def test_fisher_is_the_mean_over_images_of_squared_channel_sums():
    net, task = make_net(norm=False), make_task()
    total = 0.0
    for image, label in zip(task.support_x, task.support_y, strict=True):
        first = net.first(image.unsqueeze(0))
        second = net.second(F.relu(first))
        loss = F.cross_entropy(net.head(F.relu(second).mean((2, 3))), label.unsqueeze(0))
        for z, g in zip((first, second), torch.autograd.grad(loss, (first, second)), strict=True):
            total += sum(float((z[0, c] * g[0, c]).sum()) ** 2 / 2 for c in range(z.shape[1]))
    assert score("fisher", net, task) == pytest.approx(total / len(task.support_x), rel=1e-9)


def test_jacov_is_the_formula_on_the_correlation_of_single_gradients():
    net, task = make_net(norm=False), make_task()
    rows = []
    for image in task.support_x:
        image = image.clone().requires_grad_()
        rows.append(torch.autograd.grad(net(image.unsqueeze(0)).sum(), image)[0].flatten().numpy())
    values = np.linalg.eigvalsh(np.corrcoef(np.array(rows))) + 1e-5
    assert score("jacov", net, task) == pytest.approx(-float((np.log(values) + 1 / values).sum()), rel=1e-6)


def test_zico_is_the_sum_over_layers_of_the_log_of_summed_ratios():
    net, task = make_net(), make_task(shots=3)
    order = [0, 3, 6, 1, 4, 7, 2, 5, 8]  # by label, ties as they come
    sizes = []
    for part in (order[::2], order[1::2]):
        half = task._replace(support_x=task.support_x[part], support_y=task.support_y[part])
        sizes.append([g.abs().flatten().tolist() for g in gradients(net, half)])
    expected = 0.0
    for one, two in zip(*sizes, strict=True):
        expected += math.log(sum((a + b) / 2 / (abs(a - b) / 2) for a, b in zip(one, two, strict=True) if a != b))
    assert score("zico", net, task) == pytest.approx(expected, rel=1e-9)
    with pytest.raises(InputError, match="zico: 3 support images given.*k_shot"):
        score("zico", net, make_task(shots=1))


def test_swap_counts_the_patterns_of_units_over_images():
    net, task = make_net(), make_task(shots=4)
    codes = activation_codes(net, task.support_x).tolist()
    expected = len({tuple(row[unit] for row in codes) for unit in range(len(codes[0]))})
    assert 1 < score("swap", net, task) == expected < 2**12


def test_zen_does_not_see_the_weights_or_the_images_and_grows_by_a_scaled_feature():
    net, task = make_net(), make_task()
    found = score("zen", net, task)
    with torch.no_grad():
        net.first.weight.mul_(3.0)
        net.head.weight.mul_(3.0)
    assert score("zen", net, task) == score("zen", net, task._replace(support_x=0 * task.support_x)) == found
    with pytest.raises(ValueError, match="batch normalisation"):
        score("zen", make_net(norm=False), task)


def test_zen_is_the_change_of_the_features_and_the_scale_that_the_norm_takes_away():
    net, task = make_net(), make_task()
    found = score("zen", net, task)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for layer in (net.first, net.second, net.head):
            nn.init.normal_(layer.weight)
        images = torch.randn(16, 1, 6, 6).double()
        changed = images + 0.01 * torch.randn(16, 1, 6, 6).double()
    change = float((net.features(images) - net.features(changed)).abs().mean())
    variance = float(net.first(images).var((0, 2, 3), correction=0).mean())
    assert found == pytest.approx(math.log(change) + math.log(math.sqrt(variance)), rel=1e-9)


def explicit_kernel(net, images):
    weights = [m.weight for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    rows = []
    for image in images:
        found = torch.autograd.grad(net(image.unsqueeze(0)).sum(), weights)
        rows.append(torch.cat([g.flatten() for g in found]))
    return torch.stack(rows) @ torch.stack(rows).T


def condition(matrix):
    values = np.linalg.eigvalsh(matrix.numpy())
    return math.log(values[-1] / values[0])


def test_the_two_conditions_are_those_of_kernels_of_explicit_gradients_under_group_norm():
    net, task = make_net(), make_task()
    grouped = group_normalised(net, 4)
    expected = condition(explicit_kernel(grouped, task.support_x))
    assert score("ntk_condition", net, task) == pytest.approx(expected, rel=1e-8)
    gram = explicit_kernel(grouped, torch.cat([task.query_x, task.support_x]))
    meta = meta_ntk(gram, gram, n_query=6, n_support=6, inner_lr_time=math.inf, reg=1e-3)
    assert score("meta_ntk_condition", net, task) == pytest.approx(condition(meta), rel=1e-6)


def test_without_queries_half_of_each_class_takes_their_part():
    task = make_task(shots=3)
    support, query = halves(SupportSet(task.support_x, task.support_y))
    assert torch.equal(support, task.support_x[[0, 1, 2]])
    assert torch.equal(query, task.support_x[[3, 6, 4, 7, 5, 8]])
    assert halves(task)[1] is task.query_x
    with pytest.raises(ValueError, match="two support images of each class"):
        halves(SupportSet(task.support_x[:3], task.support_y[:3]))


@pytest.mark.parametrize("space", ["darts", "darts_fewshot", "metantk", "metanas", "nb201"])
def test_linear_regions_are_the_different_codes_of_the_thin_network(space):
    chosen = SPACES[space](channels=4, cells=3)
    genotype = chosen.decode(chosen.sample(torch.Generator().manual_seed(5)))
    task = make_task()
    net = DerivedNetwork(3, 1, 8, genotype).double()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body, thin = thin_network(genotype)
    body = body.double()
    pool = crop_pool(task.support_x, 1000, generator(0, "crops"))
    codes = activation_codes(lambda x: body(x, thin), pool)
    assert pool.shape == (1000, 1, 3, 3) and count_parameters(body) < count_parameters(net)
    assert score("linear_regions", net, task) == len(torch.unique(codes, dim=0))


def test_linear_regions_need_an_architecture_of_cells():
    task, chain = make_task(), SPACES["chain"](channels=4, cells=1)
    with pytest.raises(InputError, match="space chain given.*darts_fewshot, darts, .*nb201"):
        score("linear_regions", DerivedNetwork(3, 1, 8, chain.decode((0,))), task)
    with pytest.raises(InputError, match="Conv4 has no genotype"):
        score("linear_regions", Conv4(3, 1, 16), task)
