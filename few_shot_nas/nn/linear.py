"""Linear layers whose weights may have the tasks of a meta-batch in front."""

import torch
from torch import Tensor, nn


class Linear(nn.Linear):
    """:class:`torch.nn.Linear`, or one of every task for weights ``[G, N, D]`` and inputs ``[G*B, D]`` of G tasks."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[B, N]`` for ``x [B, D]``, or ``[G*B, N]``, task 0 first."""
        weight, bias = self.weight, self.bias
        if weight.ndim == 2 and (bias is None or bias.ndim == 1):
            return super().forward(x)
        groups = len(weight) if weight.ndim == 3 else len(bias)
        rows = x.unflatten(0, (groups, -1))
        out = torch.bmm(rows, weight.expand(groups, *weight.shape[-2:]).mT)
        if bias is not None:
            out = out + bias.view(-1, 1, bias.shape[-1])
        return out.flatten(0, 1)
