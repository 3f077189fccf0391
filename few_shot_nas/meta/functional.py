"""Run a network with parameters that are not its own."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from few_shot_nas.forward_context import forward_context

Params = dict[str, Tensor]


def trainable(net: nn.Module) -> Params:
    """Return the network's parameters that require grad, by name, as the tensors themselves (no copy)."""
    return {name: value for name, value in net.named_parameters() if value.requires_grad}


def full_precision(x: Tensor) -> Tensor:
    """Return ``x`` as float32 or wider.

    Under mixed precision a network's output is narrower, and a softmax or a distance of it would lose digits.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


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
        x: the network's input, ``[B, C, H, W]``.
        step: inner step, for layers that keep something per step.
        stat_rows: batch statistics are taken from the first ``stat_rows`` rows only; None takes all rows.
        running: layers that keep running statistics normalise by these.
        **inputs: further keyword inputs of the network, e.g. ``genotype``.

    Returns:
        What the network returns, usually logits ``[B, N]``, float32 or wider.

    Note:
        Buffers are passed as clones, because ``functional_call`` would let a layer write its own buffers in place:
        after ``call`` the module's state_dict is bit-identical.
    """
    buffers = {name: value.clone() for name, value in net.named_buffers()}
    with forward_context(step, stat_rows, running):
        return full_precision(functional_call(net, {**buffers, **params}, (x,), inputs))
