"""Run a network with parameters that are not its own."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from few_shot_nas.forward_context import forward_context
from few_shot_nas.nn.convolution import Conv2d
from few_shot_nas.nn.linear import Linear
from few_shot_nas.nn.norm import BatchNorm2d, PerStepBatchNorm2d
from few_shot_nas.nn.precision import full_precision

Params = dict[str, Tensor]


def trainable(net: nn.Module) -> Params:
    """Return the network's parameters that require grad, by name, as the tensors themselves (no copy).

    Example:
        >>> import torch
        >>> net = nn.Linear(2, 3)
        >>> net.bias.requires_grad_(False).shape
        torch.Size([3])
        >>> list(trainable(net))
        ['weight']
    """
    return {name: value for name, value in net.named_parameters() if value.requires_grad}


def call(
    net: nn.Module,
    params: Mapping[str, Tensor],
    x: Tensor,
    *,
    step: int = 0,
    stat_rows: int | None = None,
    running: bool = False,
    **inputs: Any,
) -> Tensor:
    """Run ``net`` on ``x`` with ``params`` in place of its own tensors of those names.

    Args:
        net: any module; parameters not named in ``params`` are used as they are.
        params: name -> tensor, e.g. one iterate of :func:`few_shot_nas.meta.inner_loop.adapt`.
        x: the network's input, ``[B, C, H, W]``; or ``[B, D]`` for a head on features. With the tasks of a meta-batch
            in front, ``[M, B, C, H, W]`` or ``[M, B, D]``, for networks that :func:`takes_tasks`: every task is
            normalised on its own, and tensors of ``params`` may have the tasks in front too.
        step: inner step, for layers that keep something per step.
        stat_rows: batch statistics are taken from the first ``stat_rows`` rows (of each task) only; None takes all.
        running: layers that keep running statistics normalise by these.
        **inputs: further keyword inputs of the network, e.g. ``genotype``.

    Returns:
        What the network returns, usually logits ``[B, N]`` or ``[M, B, N]``, float32 or wider.

    Note:
        Buffers are passed as clones, because ``functional_call`` would let a layer write its own buffers in place:
        after ``call`` the module's state_dict is bit-identical.

    Example:
        >>> import torch
        >>> net = nn.Linear(2, 1)
        >>> call(net, {"weight": torch.tensor([[1.0, 2.0]]), "bias": torch.zeros(1)}, torch.tensor([[3.0, 4.0]])).item()
        11.0
    """
    buffers = {name: value.clone() for name, value in net.named_buffers()}
    with forward_context(step, stat_rows, running, number_of_tasks(x)):
        out = functional_call(net, {**buffers, **params}, (in_one_batch(x),), inputs)
    return full_precision(by_task(out, x))


def number_of_tasks(x: Tensor) -> int:
    """Return M for ``[M, B, C, H, W]`` or ``[M, B, D]``, and 1 for ``[B, C, H, W]`` or ``[B, D]``.

    Example:
        >>> import torch
        >>> number_of_tasks(torch.zeros(5, 3, 8, 8)), number_of_tasks(torch.zeros(4, 5, 3, 8, 8))
        (1, 4)
    """
    return len(x) if x.ndim % 2 else 1


def in_one_batch(x: Tensor) -> Tensor:
    """Return images or features ``x`` of M tasks as one batch; an ``x`` of one task is returned as it is.

    Example:
        >>> import torch
        >>> in_one_batch(torch.zeros(4, 5, 3, 8, 8)).shape
        torch.Size([20, 3, 8, 8])
    """
    return x.flatten(0, 1) if x.ndim % 2 else x


def by_task(out: Tensor, x: Tensor) -> Tensor:
    """Undo :func:`in_one_batch` for what a network made of ``x``.

    Example:
        >>> import torch
        >>> images = torch.zeros(4, 5, 3, 8, 8)
        >>> by_task(in_one_batch(images).mean((2, 3)), images).shape
        torch.Size([4, 5, 3])
    """
    return out.unflatten(0, (len(x), -1)) if x.ndim % 2 else out


def takes_tasks(net: nn.Module) -> bool:
    """Whether all parameters of ``net`` are those of layers that can run many tasks at once; see :func:`call`.

    Example:
        >>> takes_tasks(nn.Sequential(Conv2d(3, 4, 3), BatchNorm2d(4))), takes_tasks(nn.Conv2d(3, 4, 3))
        (True, False)
    """
    owners = [module for module in net.modules() if any(True for _ in module.parameters(recurse=False))]
    return all(type(module) in _TAKE_TASKS for module in owners)


_TAKE_TASKS = (Conv2d, Linear, BatchNorm2d, PerStepBatchNorm2d)
