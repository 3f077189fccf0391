"""Numbers wide enough for sums, differences and logarithms."""

import torch
from torch import Tensor


def full_precision(x: Tensor) -> Tensor:
    """Return ``x`` as float32 or wider.

    Under mixed precision what convolutions give is narrower, and a softmax, a distance or a variance of it would lose
    digits.

    Example:
        >>> full_precision(torch.ones(1).half()).dtype, full_precision(torch.ones(1).double()).dtype
        (torch.float32, torch.float64)
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))
