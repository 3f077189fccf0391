"""Average gradients over the tasks of a meta-batch, on one rank or many."""

from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

from few_shot_nas.runtime.ranks import meet, world


__all__ = ["average_buffers", "average_gradients", "gather_rows", "world"]

Row = TypeVar("Row")


def gather_rows(rows: list[Row]) -> list[Row]:
    """Return the rows of all ranks, rank 0's first, on every rank. A collective: every rank must call it."""
    if world()[1] == 1:
        return rows
    meet()
    gathered: list[list[Row] | None] = [None] * world()[1]
    torch.distributed.all_gather_object(gathered, rows)
    return [row for part in gathered if part is not None for row in part]


def average_buffers(module: nn.Module) -> None:
    """Replace the floating-point buffers of ``module`` by their means over the ranks, in place. A collective."""
    buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    if world()[1] == 1 or not buffers:
        return
    meet()
    flat = torch.cat([buffer.flatten().float() for buffer in buffers])
    torch.distributed.all_reduce(flat)
    means = (flat / world()[1]).split([buffer.numel() for buffer in buffers])
    for buffer, mean in zip(buffers, means, strict=True):
        buffer.copy_(mean.view_as(buffer))


def average_gradients(parameters: Iterable[nn.Parameter], num_tasks: int, sums: Tensor) -> Tensor:
    """Turn gradients summed over this rank's tasks into the mean over the whole meta-batch, in place.

    One all-reduce of a flat float32 buffer ``[used mask | number of tasks | sums | gradients]``. The mask keeps
    ``grad = None`` for parameters that no rank touched: a zero instead would let momentum and weight decay move
    candidate ops that were not sampled.

    Args:
        parameters: all parameters of the module, in the same order on every rank.
        num_tasks: tasks this rank has summed over; ranks may differ.
        sums: ``[E]`` further sums over this rank's tasks, e.g. of losses.

    Returns:
        ``sums`` of all ranks divided by the number of tasks of all ranks.
    """
    parameters = list(parameters)
    if world()[1] == 1:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if gradients:
            torch._foreach_div_(gradients, num_tasks)
        return sums / num_tasks
    meet()
    device = sums.device
    used = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.float32, device=device)
    count = torch.tensor([float(num_tasks)], device=device)
    grads = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten().float() for p in parameters]
    flat = torch.cat([used, count, sums.float(), *grads])
    torch.distributed.all_reduce(flat)
    mask, total, summed, rest = flat.split([len(parameters), 1, sums.numel(), sum(g.numel() for g in grads)])
    for parameter, was_used, mean in zip(
        parameters, mask.tolist(), (rest / total).split([g.numel() for g in grads]), strict=True
    ):
        parameter.grad = mean.view_as(parameter).to(parameter.dtype) if was_used else None
    return summed / total
