"""Differentiable inner loop: adapt parameters to one episode by gradient descent.

This is the only place where fast weights are computed. Learners and the controller's clone differ in *which* parameters
they pass and which rate they ask for, never in this loop. Pure: no module, buffer or random state is modified.

Source: Finn et al., ICML 2017, arXiv:1703.03400, equation (1) and Algorithm 1; first order as in its section 5.2.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad

from few_shot_nas.meta.functional import Params
from few_shot_nas.meta.inner_optimizer import PLAIN, InnerRule, Slots

SupportLoss = Callable[[Params, int], Tensor]
#: (parameters, step) -> gradient.
Gradient = Callable[[Params, int], Params]
LearningRate = Callable[[str, int], float | Tensor]


def tape_gradient(loss: SupportLoss) -> Gradient:
    """Return the gradient of ``loss`` for its parameters by torch's tape: ``torch.func.grad`` outside transformations.

    It costs less than ``torch.func.grad``, above all where layers have derivatives of their own, and cannot be used
    inside ``vmap``, ``jvp`` or another ``torch.func.grad``. It records a graph for the outer gradient where gradients
    are enabled, and works where they are not.

    Example:
        >>> gradient = tape_gradient(lambda params, step: (params["w"] ** 2).sum())
        >>> gradient({"w": torch.tensor([1.0, 3.0])}, 0)["w"].tolist()
        [2.0, 6.0]
    """

    def gradient(params: Params, step: int) -> Params:
        recorded = torch.is_grad_enabled()
        with torch.enable_grad():
            inputs = {n: v if v.requires_grad else v.detach().requires_grad_() for n, v in params.items()}
            value, wanted = loss(inputs, step), list(inputs.values())
            found = torch.autograd.grad(value, wanted, create_graph=recorded, allow_unused=True)
        pairs = zip(inputs.items(), found, strict=True)
        return {name: torch.zeros_like(value) if g is None else g for (name, value), g in pairs}

    return gradient


class Descent(NamedTuple):
    """Result of :func:`descend`.

    Attributes:
        trajectory: ``[theta_0, ..., theta_T]``.
        slots: what the rule remembers after the last update.
    """

    trajectory: list[Params]
    slots: Slots


def adapt(
    support_loss: SupportLoss,
    params: Mapping[str, Tensor],
    *,
    lr: LearningRate,
    num_steps: int,
    second_order: bool = True,
    rule: InnerRule = PLAIN,
    differentiate: Callable[[SupportLoss], Gradient] = grad,
) -> list[Params]:
    """Run ``num_steps`` updates on the support set and keep every iterate.

    Args:
        support_loss: maps (parameters, step) to a scalar loss. Paper rates refer to the loss reduction of the paper;
            ours is the mean over the support images, N times smaller than the one in Finn's code.
        params: name -> tensor, any shapes; what the support loss does not use gets a zero gradient and stays put.
        lr: maps (name, step) to a step size in parameter units per unit gradient; a number or a tensor that
            broadcasts against the parameter, which may itself be learned.
        num_steps: number of updates T >= 0; 0 returns the start alone (the unadapted score).
        second_order: differentiate through the update. ``False`` detaches the gradients (FOMAML): the iterates are the
            same, and no graph through the support passes is kept.
        rule: what turns gradients into directions; plain gradient descent by default.
        differentiate: how a loss becomes its gradient: ``torch.func.grad``, or :func:`tape_gradient`.

    Returns:
        ``[theta_0, ..., theta_T]``, T + 1 dicts with the keys and shapes of ``params``. ``theta_0`` holds the tensors
        passed in, so an outer gradient flows to them.

    Raises:
        ValueError: if ``num_steps`` is negative.

    Note:
        The gradient is ``torch.func.grad`` by default, so this runs as it is under Lightning's ``no_grad`` in
        validation, inside ``vmap`` and inside another ``grad``.

    Example:
        >>> theta = {"w": torch.tensor(1.0, requires_grad=True)}
        >>> iterates = adapt(lambda params, step: params["w"] ** 2, theta, lr=lambda name, step: 0.25, num_steps=2)
        >>> [params["w"].item() for params in iterates]
        [1.0, 0.5, 0.25]
        >>> torch.autograd.grad(iterates[-1]["w"], theta["w"])[0].item()
        0.25
    """
    return descend(
        support_loss, params, lr=lr, num_steps=num_steps, second_order=second_order, rule=rule,
        differentiate=differentiate,
    ).trajectory  # fmt: skip


def descend(
    support_loss: SupportLoss,
    params: Mapping[str, Tensor],
    *,
    lr: LearningRate,
    num_steps: int,
    second_order: bool = True,
    rule: InnerRule = PLAIN,
    slots: Slots | None = None,
    differentiate: Callable[[SupportLoss], Gradient] = grad,
) -> Descent:
    """As :func:`adapt`, for callers that carry what the rule remembers from task to task.

    Args:
        support_loss: as in :func:`adapt`, like all arguments but ``slots``.
        params: theta_0.
        lr: step sizes.
        num_steps: number of updates.
        second_order: differentiate through the update.
        rule: what turns gradients into directions.
        slots: what the rule remembers from before; None starts afresh.
        differentiate: how a loss becomes its gradient.

    Returns:
        The trajectory and the slots after it.

    Raises:
        ValueError: if ``num_steps`` is negative.

    Example:
        >>> theta = {"w": torch.tensor(1.0)}
        >>> found = descend(lambda params, step: params["w"] ** 2, theta, lr=lambda name, step: 0.5, num_steps=3)
        >>> found.trajectory[-1]["w"].item(), found.slots.updates
        (0.0, 3)
    """
    if num_steps < 0:
        raise ValueError(f"adapt() takes num_steps >= 0, got {num_steps}")
    gradient = differentiate(support_loss)
    trajectory: list[Params] = [dict(params)]
    slots = rule.start(trajectory[0]) if slots is None else slots
    for step in range(num_steps):
        current = trajectory[-1]
        if second_order:
            grads = gradient(current, step)
        else:
            # no_grad stops the outer tape only: torch.func.grad still differentiates its own level.
            with torch.no_grad():
                grads = gradient({name: value.detach() for name, value in current.items()}, step)
        directions, slots = rule.direction(grads, slots)
        trajectory.append({name: _moved(value, lr(name, step), directions[name]) for name, value in current.items()})
    return Descent(trajectory, slots)


def _moved(value: Tensor, rate: float | Tensor, direction: Tensor) -> Tensor:
    """Return ``value - rate * direction``, by one operation where the rate is a number and launches are what costs.

    On the CPU a rate gives the same bits as a number and as a tensor.
    """
    if isinstance(rate, Tensor) or value.device.type == "cpu":
        return value - rate * direction
    return torch.sub(value, direction, alpha=rate)
