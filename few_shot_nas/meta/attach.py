"""Give a number that was computed elsewhere its gradients."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Attach(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Sequence[Tensor], *inputs: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *(None if g is None else outer[0] * g for g in ctx.gradients))


def attach(value: Tensor, gradients: Sequence[Tensor | None], inputs: Sequence[Tensor]) -> Tensor:
    """Return ``value`` such that its ``backward`` gives these gradients to these inputs.

    Args:
        value: a scalar that has no graph.
        gradients: one for each input; None leaves the input's gradient as it is.
        inputs: tensors that require grad, or whose gradients nobody will ask for.

    Example:
        >>> theta = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> loss = attach(torch.tensor(5.0), [torch.tensor([0.5, -1.0])], [theta])
        >>> (2 * loss).backward()
        >>> loss.item(), theta.grad.tolist()
        (5.0, [1.0, -2.0])
    """
    return _Attach.apply(value, gradients, *inputs)
