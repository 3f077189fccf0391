"""The exact second-order meta-gradient without a deep graph: a reverse sweep over stored iterates.

Unrolling keeps the activations of every inner step until the outer backward pass. Here the forward pass stores the
iterates ``theta_0..theta_T`` alone. Going back, each step costs one derivative of the support gradient along a
direction, so the memory of activations does not grow with T. With ``g_s = grad L_s(theta_s, phi)``, an update
``(theta_{s+1}, m_{s+1}) = U(theta_s, g_s, m_s, alpha_s)`` that works element by element (gradient descent:
``theta_s - alpha_s * g_s``, no slots m), and ``v, w`` the outer loss's gradients for ``theta_{s+1}, m_{s+1}``::

    (v', u, w', d outer / d alpha_s) = vector-Jacobian product of U with (v, w)
    (h, k) = gradient of (theta, phi) -> <u, grad_theta L_s(theta, phi)>
    v <- v' + h,    w <- w',    d outer / d phi <- d outer / d phi + k

``phi`` are tensors that the losses use but the inner loop does not move. All derivatives are those of torch's tape:
``torch.func`` would take about a millisecond for each call of a layer that has derivatives of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from few_shot_nas.meta.attach import attach
from few_shot_nas.meta.functional import Params
from few_shot_nas.meta.inner_loop import LearningRate, tape_gradient
from few_shot_nas.meta.inner_optimizer import PLAIN, InnerRule, Slots

#: (adapted parameters, tensors that are not adapted, inner step) -> scalar.
SweptSupportLoss = Callable[[Params, Params, int], Tensor]
#: The same -> (scalar, anything to hand back, e.g. logits).
SweptQueryLoss = Callable[[Params, Params, int], tuple[Tensor, Any]]


class Swept(NamedTuple):
    """Result of :func:`swept_loss`.

    Attributes:
        loss: the outer loss; its backward pass gives the exact second-order gradient.
        aux: what the query loss handed back at the last iterate.
        trajectory: ``[theta_0, ..., theta_T]``, detached.
    """

    loss: Tensor
    aux: Any
    trajectory: list[Params]


class _Step(NamedTuple):
    """What the forward pass leaves behind for one step of the sweep."""

    theta: Params
    gradient: Params
    slots: Slots
    rates: Params
    random_state: "_RandomState"


class _RandomState(NamedTuple):
    """State of the global generators, so that a step that is recomputed draws the same dropout masks."""

    cpu: Tensor
    cuda: Tensor | None

    @classmethod
    def now(cls, device: torch.device) -> "_RandomState":
        """Read the state of the CPU's generator and, on a GPU, of that GPU's."""
        return cls(torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None)

    def restore(self, device: torch.device) -> None:
        """Set the generators back to this state."""
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, device)


def swept_loss(
    support_loss: SweptSupportLoss,
    query_loss: SweptQueryLoss,
    params: Mapping[str, Tensor],
    shared: Mapping[str, Tensor],
    *,
    lr: LearningRate,
    num_steps: int,
    weights: Sequence[float] | Tensor | None = None,
    rule: InnerRule = PLAIN,
) -> Swept:
    """Adapt, take the outer loss and differentiate it exactly, keeping one step's activations at a time.

    The value and the gradient equal those of :func:`few_shot_nas.meta.inner_loop.adapt` with ``second_order=True``
    followed by the query loss, up to rounding. Dropout draws the same masks in a step and in its recomputation.

    Args:
        support_loss: loss of the inner loop; must use nothing differentiable but its arguments.
        query_loss: loss of the outer loop, likewise; its step is the index of the update that led to the iterate.
        params: theta_0, what the inner loop moves.
        shared: phi, what else the losses use: parameters, or tensors computed from parameters.
        lr: maps (name, step) to a number or a tensor that broadcasts against the parameter; tensors that require grad
            get their gradient too.
        num_steps: number of updates T >= 1.
        weights: weight of the query loss after each update, ``[T]``; None is the loss after the last one alone.
        rule: what turns gradients into directions.

    Returns:
        The loss, whose backward pass reaches ``params``, ``shared`` and the learned rates; what the query loss handed
        back beside its value; the iterates.

    Raises:
        ValueError: if ``num_steps`` is less than 1 or there are not as many weights.

    Example:
        >>> theta, phi = {"w": torch.tensor(1.0, requires_grad=True)}, {"c": torch.tensor(0.5, requires_grad=True)}
        >>> def support(params, rest, step):
        ...     return (params["w"] - rest["c"]) ** 2
        >>> def query(params, rest, step):
        ...     return params["w"] ** 2, params["w"]
        >>> swept = swept_loss(support, query, theta, phi, lr=lambda name, step: 0.25, num_steps=2)
        >>> swept.loss.backward()
        >>> swept.loss.item(), theta["w"].grad.item(), phi["c"].grad.item()
        (0.390625, 0.3125, 0.9375)
    """
    if num_steps < 1:
        raise ValueError(f"swept_loss() takes num_steps >= 1, got {num_steps}")
    weights = [0.0] * (num_steps - 1) + [1.0] if weights is None else [float(weight) for weight in weights]
    if len(weights) != num_steps:
        raise ValueError(f"swept_loss() needs one weight per step: {num_steps} steps, {len(weights)} weights")
    rates = [{name: lr(name, step) for name in params} for step in range(num_steps)]
    with torch.no_grad():
        phi = {name: value.detach() for name, value in shared.items()}
        theta = {name: value.detach() for name, value in params.items()}
        device = next(iter(theta.values())).device
        slots, steps = rule.start(theta), []
        gradient = tape_gradient(lambda params, step: support_loss(params, phi, step))
        for step in range(num_steps):
            state = _RandomState.now(device)
            by_name = {name: _as_number(rate, theta[name]) for name, rate in rates[step].items()}
            steps.append(_Step(theta, gradient(theta, step), slots, by_name, state))
            theta, slots = _update(rule, *steps[-1][:4])
        total, v, phi_bar, rate_bars, aux = _sweep(support_loss, query_loss, rule, steps, theta, slots, phi, weights)
    learned = [
        (rate, rate_bars[step][name].to(rate))
        for step, named in enumerate(rates)
        for name, rate in named.items()
        if isinstance(rate, Tensor) and rate.requires_grad
    ]
    inputs = [*params.values(), *shared.values(), *(rate for rate, _ in learned)]
    gradients = [*(v[name] for name in params), *(phi_bar[name] for name in shared), *(bar for _, bar in learned)]
    return Swept(attach(total, gradients, inputs), aux, [*(step.theta for step in steps), theta])


def _as_number(rate: float | Tensor, like: Tensor) -> Tensor:
    """Return a rate as a leaf of the graph; one that is learned requires a gradient."""
    learned = isinstance(rate, Tensor) and rate.requires_grad
    return torch.as_tensor(rate, dtype=like.dtype, device=like.device).detach().requires_grad_(learned)


def _update(rule: InnerRule, theta: Params, gradient: Params, slots: Slots, rates: Params) -> tuple[Params, Slots]:
    directions, slots = rule.direction(gradient, slots)
    return {name: value - rates[name] * directions[name] for name, value in theta.items()}, slots


def _sweep(
    support_loss: SweptSupportLoss,
    query_loss: SweptQueryLoss,
    rule: InnerRule,
    steps: list[_Step],
    theta: Params,
    slots: Slots,
    phi: Params,
    weights: Sequence[float],
) -> tuple[Tensor, Params, Params, list[Params], Any]:
    """Return outer loss, gradients for theta_0, phi and every rate, and the query loss's extra at the last iterate.

    ``theta`` and ``slots`` are those after the last step.
    """
    first = next(iter(theta.values()))
    v = {name: torch.zeros_like(value) for name, value in theta.items()}
    w = tuple({name: torch.zeros_like(value) for name, value in moment.items()} for moment in slots.moments)
    phi_bar = {name: torch.zeros_like(value) for name, value in phi.items()}
    rate_bars: list[Params] = [{} for _ in steps]
    total, aux = torch.zeros((), dtype=first.dtype, device=first.device), None
    after = _RandomState.now(first.device)
    for index in reversed(range(len(steps))):
        step = steps[index]
        if weights[index]:
            reached = theta if index == len(steps) - 1 else steps[index + 1].theta
            to_theta, to_phi, value, extra = _outer_gradient(query_loss, reached, phi, index)
            total = total + weights[index] * value
            v = {name: v[name] + weights[index] * to_theta[name] for name in v}
            phi_bar = {name: phi_bar[name] + weights[index] * to_phi[name] for name in phi_bar}
            if index == len(steps) - 1:
                aux, after = extra, _RandomState.now(first.device)
        v, u, w, rate_bars[index] = _pull_back(rule, step, v, w)
        step.random_state.restore(first.device)
        h, k = _hessian_product(support_loss, step.theta, phi, index, u)
        v = {name: v[name] + h[name] for name in v}
        phi_bar = {name: phi_bar[name] + k[name] for name in phi_bar}
    after.restore(first.device)
    return total, v, phi_bar, rate_bars, aux


def _pull_back(
    rule: InnerRule, step: _Step, v: Params, w: tuple[Params, ...]
) -> tuple[Params, Params, tuple[Params, ...], Params]:
    """Pull (v, w) back through one update, to its parameters, gradients, moments, learned rates; no network is run."""
    with torch.enable_grad():
        theta, gradient = _leaves(step.theta), _leaves(step.gradient)
        moments = tuple(_leaves(moment) for moment in step.slots.moments)
        moved, after = _update(rule, theta, gradient, Slots(step.slots.updates, moments), step.rates)
    learned = {name: rate for name, rate in step.rates.items() if rate.requires_grad}
    sides = (theta, gradient, *moments, learned)
    outputs = [*moved.values(), *(value for moment in after.moments for value in moment.values())]
    along = [*v.values(), *(value for moment in w for value in moment.values())]
    to_theta, to_gradient, *to_moments, to_rates = _gradients(outputs, along, sides)
    return to_theta, to_gradient, tuple(to_moments), to_rates


def _leaves(values: Params) -> Params:
    return {name: value.detach().requires_grad_() for name, value in values.items()}


def _gradients(
    outputs: Sequence[Tensor], along: Sequence[Tensor] | None, sides: Sequence[Params]
) -> list[Params]:
    """Return the gradients of the outputs, weighted by ``along``, for the tensors of each side; zeros where none is."""
    inputs = [value for side in sides for value in side.values()]
    found = torch.autograd.grad(outputs, inputs, along, allow_unused=True) if outputs else [None] * len(inputs)
    whole = iter(torch.zeros_like(value) if g is None else g for g, value in zip(found, inputs, strict=True))
    return [{name: next(whole) for name in side} for side in sides]


def _outer_gradient(
    query_loss: SweptQueryLoss, theta: Params, phi: Params, step: int
) -> tuple[Params, Params, Tensor, Any]:
    """Return the gradients of the query loss for theta and phi, its value and its extra."""
    with torch.enable_grad():
        theta, phi = _leaves(theta), _leaves(phi)
        value, extra = query_loss(theta, phi, step)
        to_theta, to_phi = _gradients([value], None, (theta, phi))
    return to_theta, to_phi, value.detach(), tree_map_only(Tensor, Tensor.detach, extra)


def _hessian_product(
    support_loss: SweptSupportLoss, theta: Params, phi: Params, step: int, direction: Params
) -> tuple[Params, Params]:
    """Return (H_theta,theta u, H_phi,theta u) of the support loss at (theta, phi): the gradient of <u, gradient>."""
    with torch.enable_grad():
        theta, phi = _leaves(theta), _leaves(phi)
        loss, inputs = support_loss(theta, phi, step), list(theta.values())
        first = torch.autograd.grad(loss, inputs, create_graph=True, allow_unused=True)
        named = {name: g for name, g in zip(theta, first, strict=True) if g is not None and g.requires_grad}
        h, k = _gradients(list(named.values()), [direction[name] for name in named], (theta, phi))
    return h, k
