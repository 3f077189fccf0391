"""Condition numbers: known spectra, and spectra that rounding decides."""

import math

import pytest
import torch

from few_shot_nas.kernels.spectrum import condition_number


def rotated(*values):
    noise = torch.randn(len(values), len(values), generator=torch.Generator().manual_seed(0)).double()
    vectors, _ = torch.linalg.qr(noise)
    return vectors @ torch.diag(torch.tensor(values, dtype=torch.double)) @ vectors.T


def test_it_is_the_quotient_of_the_eigenvalues_and_does_not_depend_on_units():
    found = condition_number(rotated(8.0, 2.0, 4.0))
    assert found.value == pytest.approx(4) and found.log == pytest.approx(math.log(4)) and not found.degenerate
    assert condition_number(1e-9 * rotated(8.0, 2.0, 4.0)).value == pytest.approx(4)


@pytest.mark.parametrize("smallest", [1e-17, 0.0, -1e-9, -3.0])
def test_tiny_and_negative_eigenvalues_are_reported_and_never_rank_best(smallest):
    found = condition_number(rotated(3.0, 1.0, smallest))
    assert found.degenerate and found.value == pytest.approx(2**52 / 3)
    assert found.smallest == pytest.approx(smallest, abs=1e-14) and found.largest == pytest.approx(3)
    assert min([found, condition_number(rotated(1e9, 1.0, 1.0))], key=lambda c: c.log).value == pytest.approx(1e9)


def test_the_rounding_error_is_that_of_the_entries():
    near = rotated(1.0, 1e-8)
    assert condition_number(near).value == pytest.approx(1e8, rel=1e-6)
    assert condition_number(near, eps=torch.finfo(torch.float32).eps).degenerate
    assert condition_number(near.float()).degenerate


@pytest.mark.parametrize("entry", [math.nan, math.inf])
def test_entries_that_are_not_finite_are_the_worst(entry):
    matrix = torch.eye(2)
    matrix[0, 0] = entry
    found = condition_number(matrix)
    assert found.degenerate and math.isnan(found.smallest)


def test_a_zero_matrix_has_no_condition():
    assert condition_number(torch.zeros(3, 3)).degenerate
