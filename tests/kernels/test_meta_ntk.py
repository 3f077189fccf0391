"""MetaNTK against its closed forms, its symmetries, and its formula written block by block with scipy's functions."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from few_shot_nas.kernels.meta_ntk import adaptation, meta_ntk
from few_shot_nas.kernels.spectrum import condition_number

TIMES = (0.0, 0.3, 5.0, math.inf)


def kernel(size, seed=0, rank=None):
    """A random positive (semi)definite matrix."""
    factor = torch.randn(size, rank or size + 3, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    return factor @ factor.T / factor.shape[1]


def block_by_block(ntk, k, *, n_query, n_support, inner_lr_time, reg):
    """The four terms of every block, as the paper writes them."""
    ntk, k = ntk.numpy(), k.numpy()
    tasks = len(ntk) // (n_query + n_support)
    q = [np.arange(n_query) + i * n_query for i in range(tasks)]
    s = [np.arange(n_support) + tasks * n_query + i * n_support for i in range(tasks)]
    reach = []
    for i in range(tasks):
        own = k[np.ix_(s[i], s[i])]
        done = np.eye(n_support)
        if not math.isinf(inner_lr_time):
            done = done - scipy.linalg.expm(-inner_lr_time * own)
        reach.append(k[np.ix_(q[i], s[i])] @ scipy.linalg.pinvh(own + reg * np.eye(n_support)) @ done)
    out = np.zeros((tasks * n_query,) * 2)
    for i in range(tasks):
        for j in range(tasks):
            out[np.ix_(q[i], q[j])] = (
                ntk[np.ix_(q[i], q[j])]
                - reach[i] @ ntk[np.ix_(s[i], q[j])]
                - ntk[np.ix_(q[i], s[j])] @ reach[j].T
                + reach[i] @ ntk[np.ix_(s[i], s[j])] @ reach[j].T
            )
    return torch.from_numpy(out)


def close(a, b, rtol=1e-9):
    torch.testing.assert_close(a, b, rtol=rtol, atol=rtol * float(b.abs().max()))


@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("anil", [False, True])
def test_it_is_the_formula_of_the_paper_block_by_block(time, anil):
    ntk = kernel(3 * (4 + 5))
    k = kernel(27, seed=1, rank=3) if anil else ntk
    sizes = {"n_query": 4, "n_support": 5, "inner_lr_time": time, "reg": 1e-3}
    found = meta_ntk(ntk, k, **sizes)
    close(found, block_by_block(ntk, k, **sizes))
    assert torch.equal(found, found.T)
    assert float(torch.linalg.eigvalsh(found)[0]) > -1e-12 * float(ntk.trace())


@pytest.mark.parametrize("time", TIMES)
def test_one_query_and_one_support_image_have_a_closed_form(time):
    a, b, c, reg = 4.0, 1.5, 2.0, 0.25
    u = (1.0 if math.isinf(time) else 1 - math.exp(-time * c)) / (c + reg)
    ntk = torch.tensor([[a, b], [b, c]], dtype=torch.double)
    found = meta_ntk(ntk, ntk, n_query=1, n_support=1, inner_lr_time=time, reg=reg)
    assert float(found) == pytest.approx(a - 2 * b**2 * u + b**2 * c * u**2, rel=1e-14)


def test_at_infinite_time_without_regularisation_it_is_the_schur_complement():
    ntk = kernel(9)
    found = meta_ntk(ntk, ntk, n_query=4, n_support=5, inner_lr_time=math.inf, reg=0.0)
    close(found, ntk[:4, :4] - ntk[:4, 4:] @ torch.linalg.inv(ntk[4:, 4:]) @ ntk[4:, :4])
    close(torch.linalg.inv(found), torch.linalg.inv(ntk)[:4, :4])


def test_without_time_it_is_the_kernel_of_the_queries():
    ntk = kernel(18)
    assert torch.equal(meta_ntk(ntk, ntk, n_query=4, n_support=5, inner_lr_time=0.0, reg=1e-3), ntk[:8, :8])


@pytest.mark.parametrize("time", TIMES)
def test_a_kernel_in_other_units_gives_a_meta_kernel_in_these_units(time):
    ntk, k, unit = kernel(18), kernel(18, seed=1), 7.0
    found = meta_ntk(ntk, k, n_query=4, n_support=5, inner_lr_time=time, reg=0.1)
    scaled = meta_ntk(unit * ntk, unit * k, n_query=4, n_support=5, inner_lr_time=time / unit, reg=0.1 * unit)
    close(scaled, unit * found)
    assert condition_number(scaled).value == pytest.approx(condition_number(found).value, rel=1e-6)


@pytest.mark.parametrize("rank", [1, 6, 18])
@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("reg", [0.0, 1e-5, 1.0])
def test_it_is_positive_semidefinite_whatever_the_rank(rank, time, reg):
    ntk = kernel(18, rank=rank)
    for k in (ntk, kernel(18, seed=1, rank=2)):
        found = meta_ntk(ntk, k, n_query=4, n_support=5, inner_lr_time=time, reg=reg)
        values = torch.linalg.eigvalsh(found)
        # One part in 1e9 of the largest: with reg = 0 the pseudo-inverse of a singular kernel has no better.
        assert float(values[0]) >= -1e-9 * max(float(values[-1]), float(ntk.trace()))


def test_tasks_and_examples_in_another_order_give_the_same_kernel_in_that_order():
    ntk, k = kernel(18), kernel(18, seed=1)
    sizes = {"n_query": 4, "n_support": 5, "inner_lr_time": 2.0, "reg": 0.1}
    found = meta_ntk(ntk, k, **sizes)
    swapped = torch.tensor([4, 5, 6, 7, 0, 1, 2, 3, 13, 14, 15, 16, 17, 8, 9, 10, 11, 12])
    order = swapped[:8]
    close(meta_ntk(ntk[swapped][:, swapped], k[swapped][:, swapped], **sizes), found[order][:, order])
    inside = torch.tensor([3, 1, 0, 2, 4, 5, 6, 7, 12, 10, 9, 8, 11, 13, 14, 15, 16, 17])
    moved = meta_ntk(ntk[inside][:, inside], k[inside][:, inside], **sizes)
    close(torch.linalg.eigvalsh(moved), torch.linalg.eigvalsh(found))


def test_directions_without_kernel_are_not_adapted():
    assert torch.equal(adaptation(torch.zeros(3, 3), math.inf, reg=0.0), torch.zeros(3, 3, dtype=torch.double))
    singular = torch.diag(torch.tensor([2.0, 0.0], dtype=torch.double))
    close(adaptation(singular, math.inf, reg=0.0), torch.diag(torch.tensor([0.5, 0.0], dtype=torch.double)))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"n_query": 3}, r"3 \+ 5.*\[9, 9\]"),
        ({"n_support": 0}, r"4 \+ 0"),
        ({"inner_lr_time": -1.0}, "at least 0, got -1.0"),
        ({"inner_lr_time": math.nan}, "got nan"),
        ({"reg": -0.5}, "and -0.5"),
    ],
)
def test_sizes_and_settings_that_do_not_fit_are_refused(change, complaint):
    sizes = {"n_query": 4, "n_support": 5, "inner_lr_time": 1.0, "reg": 0.0, **change}
    with pytest.raises(ValueError, match=complaint):
        meta_ntk(kernel(9), kernel(9), **sizes)
    with pytest.raises(ValueError, match=r"\[9, 9\] and \[8, 8\]"):
        meta_ntk(kernel(9), kernel(8), n_query=4, n_support=5, inner_lr_time=1.0, reg=0.0)
