"""Signal-to-noise ratio of a stochastic gradient, from a window of its samples."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn


def flat_gradient(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Return the gradients that parameters hold as one vector; zeros for a parameter that has none.

    >>> used, unused = nn.Parameter(torch.ones(1, 2)), nn.Parameter(torch.ones(1))
    >>> (3 * used).sum().backward()
    >>> flat_gradient([used, unused])
    tensor([3., 3., 0.])
    """
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    return torch.cat([gradient.flatten() for gradient in gradients])


class GradientWindow(NamedTuple):
    """Sums over the gradients of a window of steps.

    Attributes:
        steps: gradients seen.
        total: their sum, a vector, or None before the first.
        square: sum of their squared norms.
    """

    steps: int = 0
    total: Tensor | None = None
    square: float = 0.0

    def add(self, gradient: Tensor) -> "GradientWindow":
        """Return the window with one more gradient, a vector."""
        gradient = gradient.detach().double()
        total = gradient.clone() if self.total is None else self.total + gradient
        return GradientWindow(self.steps + 1, total, self.square + float(gradient @ gradient))

    def snr(self) -> float | None:
        """Return an estimate of ``|E g|^2 / tr Var g``; None for fewer than 2 gradients, or where they do not vary.

        The squared norm of a mean of n noisy gradients is too large by ``tr Var / n`` on average. This is subtracted,
        so that the estimate can be negative where there is hardly any signal.
        """
        if self.steps < 2 or self.total is None:
            return None
        mean_square = float(self.total @ self.total) / self.steps**2
        variance = (self.square - self.steps * mean_square) / (self.steps - 1)
        return (mean_square - variance / self.steps) / variance if variance > 0 else None
