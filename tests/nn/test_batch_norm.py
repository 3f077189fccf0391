"""Hand-written derivatives of batch normalisation against autograd through the definition, in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import grad, jvp, vmap

from few_shot_nas.nn.batch_norm import batch_norm, pooled_batch_norm
from few_shot_nas.nn.moments import moments_in_passes
from few_shot_nas.nn.windows import largest, picked, spread

GROUPS = 2


def by_definition(x, weight, bias, eps=1e-5, pool=False):
    """Every task on its own, every step an operation of torch."""
    out = []
    for group, images in enumerate(x.chunk(GROUPS)):
        mean = images.mean(dim=(0, 2, 3), keepdim=True)
        variance = ((images - mean) ** 2).mean(dim=(0, 2, 3), keepdim=True)
        w, b = (v.expand(GROUPS, -1)[group].view(1, -1, 1, 1) for v in (weight, bias))
        out.append((images - mean) / (variance + eps).sqrt() * w + b)
    return F.max_pool2d(torch.cat(out), 2) if pool else torch.cat(out)


def ours(x, weight, bias, pool):
    return (pooled_batch_norm if pool else batch_norm)(x, weight, bias, 1e-5, GROUPS)


def make(pool, per_task, size=(5, 4)):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(GROUPS * 2, 3, *size, dtype=torch.double, generator=generator) * 2 + 1
    shape = (GROUPS, 3) if per_task else (3,)
    weight = torch.randn(shape, dtype=torch.double, generator=generator)
    weight[..., 0], weight[..., 1] = -0.7, 1.3  # turned around, and not
    bias = torch.randn(shape, dtype=torch.double, generator=generator)
    return [value.requires_grad_() for value in (x, weight, bias)]


CASES = pytest.mark.parametrize(("pool", "per_task"), [(False, False), (False, True), (True, False), (True, True)])


@CASES
def test_values_gradients_and_their_gradients_are_those_of_the_definition(pool, per_task):
    found = []
    for function in (lambda *a: ours(*a, pool), lambda *a: by_definition(*a, pool=pool)):
        inputs = make(pool, per_task)
        out = function(*inputs)
        first = torch.autograd.grad((out**3).sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(g.sin().sum() for g in first), inputs)
        found.append([out, *first, *second])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


@CASES
def test_finite_differences_agree_with_first_and_second_derivatives(pool, per_task):
    inputs = make(pool, per_task, size=(3, 2))
    assert torch.autograd.gradcheck(lambda *a: ours(*a, pool), inputs)
    assert torch.autograd.gradgradcheck(lambda *a: ours(*a, pool), inputs)


@pytest.mark.parametrize("pool", [False, True])
def test_third_derivatives_are_those_of_the_definition(pool):
    found = []
    for function in (lambda *a: ours(*a, pool), lambda *a: by_definition(*a, pool=pool)):
        inputs = make(pool, True)
        value = (function(*inputs) ** 3).sum()
        for _ in range(2):
            value = sum(g.sin().sum() for g in torch.autograd.grad(value, inputs, create_graph=True))
        found.append(torch.autograd.grad(value, inputs))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-8)


@CASES
def test_jvp_over_grad_and_vmap_agree_with_the_definition(pool, per_task):
    inputs = [value.detach() for value in make(pool, per_task)]
    generator = torch.Generator().manual_seed(1)
    directions = [torch.randn(v.shape, dtype=v.dtype, generator=generator) for v in inputs]

    def along(function):
        gradient = grad(lambda *a: (function(*a) ** 3).sum(), argnums=(0, 1, 2))
        return jvp(gradient, tuple(inputs), tuple(directions))[1]

    for one, other in zip(
        along(lambda *a: ours(*a, pool)), along(lambda *a: by_definition(*a, pool=pool)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)
    batches = [torch.stack((v, 0.5 * v.flip(0))) for v in inputs[:1]]

    def gradients(x):
        return grad(lambda *a: (ours(*a, pool) ** 3).sum(), argnums=(0, 1, 2))(x, *inputs[1:])

    mapped = vmap(gradients)(*batches)
    for index in range(2):
        for one, other in zip(mapped, gradients(batches[0][index]), strict=True):
            torch.testing.assert_close(one[index], other, rtol=0, atol=1e-9)


@pytest.mark.parametrize("size", [(4, 6), (5, 3)])
def test_among_equals_the_first_pixel_counts_as_in_torch(size):
    x = torch.randint(0, 3, (2, 2, *size, 3), generator=torch.Generator().manual_seed(0)).double()
    images = x.flatten(0, 1).permute(0, 3, 1, 2).contiguous().requires_grad_()
    pooled = F.max_pool2d(images, 2)
    found, place = largest(x)
    assert torch.equal(found.flatten(0, 1).permute(0, 3, 1, 2), pooled)
    assert torch.equal(picked(x, place), found)
    g = torch.randn(found.shape, dtype=torch.double)
    (expected,) = torch.autograd.grad(pooled, images, g.flatten(0, 1).permute(0, 3, 1, 2))
    assert torch.equal(spread(torch.zeros_like(x), g, place).flatten(0, 1).permute(0, 3, 1, 2), expected)


def test_nothing_is_learned_without_scale_and_shift():
    x = make(False, False)[0]
    one, zero = torch.ones(3, dtype=torch.double), torch.zeros(3, dtype=torch.double)
    torch.testing.assert_close(batch_norm(x, None, None, 1e-5, GROUPS), by_definition(x, one, zero), rtol=0, atol=1e-12)
    pooled = pooled_batch_norm(x, None, None, 1e-5, GROUPS)
    torch.testing.assert_close(pooled, by_definition(x, one, zero, pool=True), rtol=0, atol=1e-12)


def test_moments_in_passes_are_mean_and_biased_variance():
    rows = torch.randn(2, 7, 3, dtype=torch.double) * 3 + 1
    variance, mean = torch.var_mean(rows, dim=1, correction=0, keepdim=True)
    torch.testing.assert_close(moments_in_passes(rows), (mean, variance), rtol=0, atol=1e-12)
