"""Condition numbers of kernels, guarded against spectra that rounding has decided."""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Condition(NamedTuple):
    """The spectrum of a symmetric matrix, in short.

    Attributes:
        value: largest over smallest eigenvalue; where the smallest is not told from zero, the largest quotient that
            could be told, so that no other matrix ranks worse.
        largest: largest eigenvalue.
        smallest: smallest eigenvalue as computed, negative ones included.
        degenerate: whether the smallest eigenvalue is not told from zero.
    """

    value: float
    largest: float
    smallest: float
    degenerate: bool

    @property
    def log(self) -> float:
        """Natural logarithm of the condition number, finite."""
        return math.log(self.value)


def condition_number(matrix: Tensor, eps: float | None = None) -> Condition:
    """Condition number ``lambda_max / lambda_min`` of a symmetric positive semidefinite matrix.

    An eigenvalue of at most ``n eps lambda_max`` is rounding noise: tiny or negative, its quotient says nothing. So is
    everything about a matrix with an entry that is not finite. The condition number is then its upper limit,
    ``1 / (n eps)``.

    Deviation from the released code of MetaNTK-NAS: there NaN becomes 1e5, infinity becomes 1.8e308, and negative
    quotients pass, and would rank best.

    Args:
        matrix: ``[n, n]``, symmetric.
        eps: relative rounding error of the entries; that of the matrix's type by default. A float64 matrix whose
            entries were computed in float32 has the rounding error of float32.

    Example:
        >>> condition_number(torch.diag(torch.tensor([1.0, 4.0])))
        Condition(value=4.0, largest=4.0, smallest=1.0, degenerate=False)
        >>> condition_number(torch.diag(torch.tensor([1e-12, 4.0]))).degenerate
        True
    """
    limit = 1 / (len(matrix) * (torch.finfo(matrix.dtype).eps if eps is None else eps))
    if not bool(torch.isfinite(matrix).all()):
        return Condition(limit, math.nan, math.nan, True)
    values = torch.linalg.eigvalsh(matrix.double())
    largest, smallest = float(values[-1]), float(values[0])
    if smallest * limit <= abs(largest):
        return Condition(limit, largest, smallest, True)
    return Condition(largest / smallest, largest, smallest, False)
