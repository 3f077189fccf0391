"""Batch normalisation without running statistics."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from few_shot_nas import forward_context


class BatchNorm2d(nn.Module):
    """Normalise every channel of ``[B, C, H, W]`` by the statistics of the batch it is in.

    The layer keeps no buffers and acts alike in train and eval mode, so inner loops can run it functionally. The
    variance is the biased one, as in :class:`torch.nn.BatchNorm2d` in train mode, which it equals.

    When :func:`few_shot_nas.forward_context.current` says ``stat_rows = r``, mean and variance come from the first
    ``r`` rows and normalise every row. The first ``r`` rows then get exactly what they would get alone, and what a
    later row gets does not depend on the other later rows (inductive evaluation: support first, queries after it).

    Args:
        num_features: channels C.
        eps: added to the variance.
        affine: learn a scale (from 1) and a shift (from 0) per channel.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x [B, C, H, W]``.

        Raises:
            ValueError: if ``stat_rows`` is not in 1..B.
        """
        rows = forward_context.current().stat_rows
        if rows is None or rows == x.shape[0]:
            return self._by_own_statistics(x)
        if not 0 < rows < x.shape[0]:
            raise ValueError(f"stat_rows={rows} does not fit a batch of {x.shape[0]} rows; it must be in 1..rows")
        first, rest = x[:rows], x[rows:]
        variance, mean = torch.var_mean(first, dim=(0, 2, 3), correction=0, keepdim=True)
        scale = (variance + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight.view(1, -1, 1, 1)
        normed = (rest - mean) * scale
        if self.bias is not None:
            normed = normed + self.bias.view(1, -1, 1, 1)
        # The first rows go through the same kernel as when they are alone: equal to the last bit, not to rounding.
        return torch.cat((self._by_own_statistics(first), normed))

    def _by_own_statistics(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)

    def extra_repr(self) -> str:
        """Show the constructor's arguments in ``print(net)``."""
        return f"{self.num_features}, eps={self.eps}, affine={self.weight is not None}"
