"""One update of the meta-parameters, piece by piece: optimizer, mean gradient over tasks and ranks, clipping, rates."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from few_shot_nas.algorithms.recorder import Recorder
from few_shot_nas.algorithms.settings import OuterLoop
from few_shot_nas.runtime.gradients import average_gradients

#: The outer loss of one task, differentiable, and scalars of the task by name.
TaskLoss = tuple[Tensor, dict[str, Tensor]]


def adam(groups: list[dict[str, Any]], outer: OuterLoop) -> torch.optim.Adam:
    """Return Adam on the parameter groups; on a GPU as one kernel instead of dozens."""
    on_gpu = all(parameter.device.type == "cuda" for group in groups for parameter in group["params"])
    return torch.optim.Adam(
        groups, lr=outer.outer_lr, weight_decay=outer.weight_decay, fused=True if on_gpu else None
    )


def set_mean_gradient(
    losses: Iterable[TaskLoss],
    count: int,
    parameters: Sequence[nn.Parameter],
    backward: Callable[[Tensor], None],
    device: torch.device,
) -> dict[str, Any]:
    """Set the gradient of every parameter, which starts as None, to that of the mean loss. A collective.

    Args:
        losses: of this rank's tasks, with their scalars. Each is differentiated before the next is taken.
        count: over how many of this rank's tasks the losses are sums; the mean is over the counts of all ranks.
        parameters: what is trained, in the same order on every rank.
        backward: differentiates a loss into the parameters.
        device: where the scalars are.

    Returns:
        The means of the scalars: numbers on the CPU, else tensors ``[]`` that are not waited for.
    """
    names: tuple[str, ...] = ()
    sums = torch.zeros(0, device=device)
    for loss, scalars in losses:
        backward(loss)
        names = tuple(scalars)
        values = [scalar.detach().float() for scalar in scalars.values()]
        sums = (sums if len(sums) else torch.zeros(len(values), device=device)) + torch.stack(values)
    means = average_gradients(parameters, count, sums)
    return dict(zip(names, means.tolist() if means.device.type == "cpu" else means.unbind(), strict=True))


def clip(parameters: Sequence[nn.Parameter], outer: OuterLoop, recorder: Recorder, meta_step: int) -> bool:
    """Clip the meta-gradient to ``meta_grad_clip``, and record its norm where ``log_grad_norm`` asks for it.

    Returns:
        Whether to take the step: not where the gradient is not finite and ``on_nonfinite`` is skip.

    Raises:
        InputError: if the gradient is not finite and ``on_nonfinite`` is stop.
    """
    with_gradient = [parameter for parameter in parameters if parameter.grad is not None]
    gradients = [p.grad for p in with_gradient if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    order = outer.log_grad_norm
    if order is not None:
        logged = norm if order == 2 else nn.utils.get_total_norm(gradients, norm_type=order)
        recorder.add({"train/grad_norm": logged})
    if outer.meta_grad_clip is not None:  # a limit of infinity would multiply every gradient by 1
        nn.utils.clip_grads_with_norm_(with_gradient, outer.meta_grad_clip, norm)
    if outer.on_nonfinite == "skip":  # waits for the device: the step depends on it
        return bool(norm.isfinite())
    recorder.add_norm(norm, meta_step)
    return True


def set_rates(optimizer: LightningOptimizer | torch.optim.Optimizer, factor: float) -> None:
    """Set every group's learning rate to its ``base_lr`` times ``factor``; without it where ``scheduled`` is False."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * (factor if group.get("scheduled", True) else 1.0)
