"""Batch normalisation without running statistics, and the layer that keeps them."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call, grad, jvp, vmap

from few_shot_nas.errors import InputError
from few_shot_nas.forward_context import forward_context
from few_shot_nas.meta.functional import call
from few_shot_nas.meta.bn_mode import bn_modes
from few_shot_nas.nn.group_norm import group_normalised
from few_shot_nas.nn.norm import (
    BatchNorm2d,
    PerStepBatchNorm2d,
    RunningBatchNorm2d,
    keep_running_statistics,
    make_per_step,
    norm_parameters,
    per_step_layers,
    recorded_statistics,
    update_statistics,
)


@pytest.fixture
def norm():
    layer = BatchNorm2d(3).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, 1.5, -2.0]))
        layer.bias.copy_(torch.tensor([0.1, 0.0, -0.3]))
    return layer


@pytest.fixture
def x():
    return torch.randn(6, 3, 4, 5, dtype=torch.double, generator=torch.Generator().manual_seed(0)) * 3 + 1


def test_it_equals_torch_batch_norm_in_train_mode_and_keeps_that_in_eval_mode(norm, x):
    reference = torch.nn.BatchNorm2d(3).double().train()
    reference.load_state_dict(norm.state_dict(), strict=False)
    expected = reference(x)
    assert torch.equal(norm.train()(x), expected)
    assert torch.equal(norm.eval()(x), expected)


def test_it_has_no_buffers_and_without_affine_no_parameters():
    assert not list(BatchNorm2d(3).buffers())
    assert not BatchNorm2d(3, affine=False).state_dict()


def test_output_has_zero_mean_and_biased_unit_variance(x):
    out = BatchNorm2d(3, eps=1e-30, affine=False).double()(x)
    assert torch.allclose(out.mean(dim=(0, 2, 3)), torch.zeros(3, dtype=torch.double), atol=1e-12)
    assert torch.allclose((out**2).mean(dim=(0, 2, 3)), torch.ones(3, dtype=torch.double), atol=1e-12)


def test_statistics_rows_get_to_the_last_bit_what_they_get_alone(norm, x):
    alone = norm(x[:2])
    with forward_context(stat_rows=2):
        assert torch.equal(norm(x)[:2], alone)


def test_all_rows_as_statistics_rows_is_the_ordinary_case(norm, x):
    with forward_context(stat_rows=6):
        assert torch.equal(norm(x), norm(x[:6]))


@pytest.mark.parametrize("affine", [True, False])
def test_other_rows_are_normalised_by_the_first_rows_as_a_plain_loop_does_it(norm, x, affine):
    layer = norm if affine else BatchNorm2d(3, affine=False).double()
    with forward_context(stat_rows=2):
        out = layer(x)
    for channel in range(3):
        values = x[:2, channel].flatten()
        mean = values.sum() / len(values)
        deviation = (((values - mean) ** 2).sum() / len(values) + layer.eps) ** 0.5
        expected = (x[:, channel] - mean) / deviation
        if affine:
            expected = expected * layer.weight[channel] + layer.bias[channel]
        assert torch.allclose(out[:, channel], expected, atol=1e-12)


def test_a_query_gets_the_same_whatever_other_queries_come_with_it_and_in_which_order(norm, x):
    order = torch.tensor([0, 1, 5, 3, 2, 4])
    with forward_context(stat_rows=2):
        together, shuffled = norm(x), norm(x[order])
        singly = torch.cat([norm(torch.cat((x[:2], x[row : row + 1])))[2:] for row in range(2, 6)])
    assert torch.equal(shuffled, together[order])
    assert torch.equal(singly, together[2:])


def test_images_normalised_by_the_first_rows_keep_the_channels_of_a_pixel_side_by_side(norm, x):
    with forward_context(stat_rows=2):
        assert norm(x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_a_pool_before_the_scaling_gives_the_bits_of_one_after_it(norm, x, turned, mapped):
    with torch.no_grad():
        norm.weight.abs_().mul_(torch.tensor([1.0, -1.0 if turned else 1.0, 1.0]))
    with forward_context(stat_rows=2):
        expected = F.max_pool2d(norm(x), 2)
        found = torch.vmap(lambda one: norm(one, pool=True))(x[None])[0] if mapped else norm(x, pool=True)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12) if mapped else torch.equal(found, expected)


@pytest.mark.parametrize("rows", [0, -1, 7])
def test_statistics_rows_outside_the_batch_are_refused(norm, x, rows):
    with forward_context(stat_rows=rows), pytest.raises(ValueError, match=f"stat_rows={rows} .*6 rows"):
        norm(x)


@pytest.mark.parametrize("rows", [None, 2])
def test_first_and_second_derivatives_agree_with_finite_differences(norm, x, rows):
    small = x[:3, :, :2, :2].clone().requires_grad_()
    inputs = (small, norm.weight, norm.bias)

    def run(x, weight, bias):
        with forward_context(stat_rows=rows):
            return functional_call(norm, {"weight": weight, "bias": bias}, (x,)).sin()

    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)


@pytest.mark.parametrize("rows", [None, 2])
def test_jvp_over_grad_equals_a_finite_difference_of_gradients(norm, x, rows):
    direction = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))

    def gradient(point):
        with forward_context(stat_rows=rows):
            return grad(lambda z: norm(z).tanh().pow(3).sum())(point)

    _, along = jvp(gradient, (x,), (direction,))
    step = 1e-6
    expected = (gradient(x + step * direction) - gradient(x - step * direction)) / (2 * step)
    assert torch.allclose(along, expected, atol=1e-7)


def test_vmap_equals_a_loop_over_tasks(norm, x):
    batch = torch.stack((x, 2 * x.flip(0), x**2))
    assert torch.allclose(vmap(norm)(batch), torch.stack([norm(task) for task in batch]), atol=1e-12)


# ---- running statistics ----------------------------------------------------------------------------------------------


@pytest.fixture
def pair(norm):
    """The remembering layer beside torch's, with the same scale and shift."""
    layer = RunningBatchNorm2d(3).double()
    layer.load_state_dict(norm.state_dict(), strict=False)
    reference = torch.nn.BatchNorm2d(3).double()
    reference.load_state_dict(norm.state_dict(), strict=False)
    return layer, reference


def test_running_statistics_and_outputs_are_those_of_torch_batch_norm(pair, x):
    layer, reference = pair
    for factor in (1.0, 2.0, -0.5):
        assert torch.equal(layer.train()(factor * x), reference.train()(factor * x))
    assert torch.equal(layer.running_mean, reference.running_mean)
    assert torch.equal(layer.running_var, reference.running_var)
    with forward_context(running=True):
        for mode in (True, False):
            assert torch.equal(layer.train(mode)(x), reference.eval()(x))
    assert torch.equal(layer.running_mean, reference.running_mean)


def test_running_statistics_move_in_ordinary_training_passes_only(pair, norm, x):
    layer = pair[0]
    assert torch.equal(layer.eval()(x), norm(x))
    with forward_context(stat_rows=2):
        assert torch.equal(layer.train()(x), norm(x))
    call(layer, dict(layer.named_parameters()), x)
    assert layer.running_mean.tolist() == [0, 0, 0] and layer.running_var.tolist() == [1, 1, 1]
    layer(x)
    assert torch.allclose(layer.running_mean, 0.1 * x.mean(dim=(0, 2, 3)))


def test_a_network_told_to_remember_computes_what_it_did_with_the_same_parameters():
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), BatchNorm2d(2), torch.nn.Sequential(BatchNorm2d(2, eps=1e-3, affine=False))
    ).double()
    images = torch.randn(4, 1, 6, 6, dtype=torch.double)
    before, parameters = net(images), dict(net.named_parameters())
    assert bn_modes(net) == ("transductive", "support")
    keep_running_statistics(net, momentum=0.2)
    assert torch.equal(net(images), before) and bn_modes(net) == ("transductive", "support", "running")
    assert [id(p) for p in net.parameters()] == [id(p) for p in parameters.values()]
    new = {f"{layer}.running_{what}" for layer in ("1", "2.0") for what in ("mean", "var")}
    assert set(net.state_dict()) - set(parameters) == new
    layers = [m for m in net.modules() if isinstance(m, BatchNorm2d)]
    assert [(m.eps, m.momentum) for m in layers] == [(1e-5, 0.2), (1e-3, 0.2)]
    keep_running_statistics(net)
    assert [m for m in net.modules() if isinstance(m, BatchNorm2d)] == layers


def test_a_network_without_batch_norm_cannot_remember():
    with pytest.raises(InputError, match="Linear has no batch normalisation"):
        keep_running_statistics(torch.nn.Linear(2, 2))


# ---- per step --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("affine", [True, False])
def test_a_per_step_layer_starts_as_the_layer_it_replaces(norm, x, affine):
    layer = PerStepBatchNorm2d(norm, 3, statistics=True, affine=affine)
    for step in (0, 2, 5):
        with forward_context(step=step):
            assert torch.equal(layer(x), norm(x))
        with forward_context(step=step, stat_rows=2):
            first, expected = layer(x), norm(x)
        assert torch.equal(first, expected)
    assert layer.running_mean.shape == (3, 3) and layer.running_mean.dtype == torch.double


@pytest.mark.parametrize("statistics", [True, False])
def test_a_network_has_the_running_mode_if_its_per_step_layers_keep_statistics(norm, statistics):
    net = torch.nn.Sequential(norm)
    make_per_step(net, 2, statistics=statistics, affine=True)
    assert bn_modes(net) == (("transductive", "support", "running") if statistics else ("transductive", "support"))
    assert bn_modes(net, per_query=True)[-1] == "per_query"


def test_every_step_has_its_own_scale_shift_and_statistics(norm, x):
    layer = PerStepBatchNorm2d(norm, 2, statistics=True, affine=True)
    with torch.no_grad():
        layer.weight[1] *= 2.0
        layer.bias[1] += 1.0
        layer.running_mean[1] = 5.0
        layer.running_var[1] = 4.0
    with forward_context(step=0):
        plain = layer(x)
    with forward_context(step=1):
        torch.testing.assert_close(layer(x), (plain - norm.bias.view(1, 3, 1, 1)) * 2 + norm.bias.view(1, 3, 1, 1) + 1)
    with forward_context(step=1, running=True):
        expected = (x - 5.0) / (4.0 + 1e-5) ** 0.5 * layer.weight[1].view(1, 3, 1, 1) + layer.bias[1].view(1, 3, 1, 1)
        torch.testing.assert_close(layer(x), expected)


def test_layers_are_replaced_wherever_they_are_and_recorded_passes_move_the_statistics(norm, x):
    net = torch.nn.Sequential(torch.nn.Sequential(norm), BatchNorm2d(3, affine=False).double())
    make_per_step(net, 2, statistics=True, affine=True)
    assert list(per_step_layers(net)) == ["0.0", "1"]
    assert norm_parameters(net) == {"0.0.weight", "0.0.bias"}
    with recorded_statistics(net) as seen:
        net(x)
    net(x + 1)
    torch.testing.assert_close(seen["0.0"], torch.stack((x.mean((0, 2, 3)), x.var((0, 2, 3)))))
    update_statistics(net, {name: torch.stack([value, 2 * value]) for name, value in seen.items()}, momentum=0.5)
    torch.testing.assert_close(net[0][0].running_mean[1], x.mean((0, 2, 3)))
    torch.testing.assert_close(net[0][0].running_var[0], 0.5 + 0.5 * x.var((0, 2, 3)))
    with pytest.raises(ValueError, match="per-step BatchNorm2d already"):
        make_per_step(net, 2, statistics=True, affine=True)


def test_a_forward_pass_writes_nothing(norm, x):
    layer = PerStepBatchNorm2d(norm, 2, statistics=True, affine=True).train()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    with forward_context(step=1):
        layer(x)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def test_a_network_without_batch_norm_is_refused():
    with pytest.raises(InputError, match="Linear has no BatchNorm2d"):
        make_per_step(torch.nn.Linear(2, 2), 2, statistics=True, affine=False)


def test_group_normalisation_takes_the_place_of_batch_normalisation_in_a_copy(x):
    layers = [BatchNorm2d(3), torch.nn.Conv2d(3, 8, 1), BatchNorm2d(8, affine=False), torch.nn.Conv2d(8, 6, 1)]
    net = torch.nn.Sequential(*layers, torch.nn.Sequential(BatchNorm2d(6))).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([0.5, 1.5, -2.0]))
    before, kinds = net(x), [type(module) for module in net.modules()]
    grouped = group_normalised(net, groups=4)
    assert [type(module) for module in net.modules()] == kinds and torch.equal(net(x), before)
    norms = [module for module in grouped.modules() if isinstance(module, torch.nn.GroupNorm)]
    assert [(norm.num_groups, norm.num_channels) for norm in norms] == [(3, 3), (4, 8), (2, 6)]
    assert torch.equal(norms[0].weight, net[0].weight)
    # An image's output does not depend on the others, and the original shares no memory with the copy.
    torch.testing.assert_close(grouped(x)[1:2], grouped(x[1:2]))
    with torch.no_grad():
        norms[0].weight.zero_()
    assert torch.equal(net(x), before)
