"""Update rules of the inner loop: what is multiplied by the learning rate and subtracted.

A rule is a pure function of the gradients and of what it remembers (:class:`Slots`), so that one can differentiate
through it, sweep back over it, or carry what it remembers to the next task.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from few_shot_nas.meta.functional import Params


class Slots(NamedTuple):
    """What a rule remembers between two updates.

    Attributes:
        updates: number of updates so far.
        moments: one dict of tensors per moment, each with the keys and shapes of the parameters.
    """

    updates: int
    moments: tuple[Params, ...]


class InnerRule(Protocol):
    """How gradients become a direction."""

    def start(self, params: Params) -> Slots:
        """Return what the rule remembers before the first update."""

    def direction(self, gradients: Params, slots: Slots) -> tuple[Params, Slots]:
        """Return what the learning rate multiplies, and the slots after this update."""


@dataclass(frozen=True)
class SGD:
    """Plain gradient descent: the direction is the gradient."""

    def start(self, params: Params) -> Slots:
        """No moments, and no update yet."""
        return Slots(0, ())

    def direction(self, gradients: Params, slots: Slots) -> tuple[Params, Slots]:
        """The gradients themselves."""
        return gradients, Slots(slots.updates + 1, ())


PLAIN = SGD()


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba, ICLR 2015, arXiv:1412.6980, Algorithm 1), bias-corrected and differentiable.

    The direction is ``m_hat / (sqrt(v_hat + root_eps) + eps)``. The derivative of a square root at zero is infinite,
    and a parameter whose gradient is zero (a bias before BatchNorm, a dead ReLU) has ``v_hat = 0`` there: with the
    textbook's ``root_eps = 0`` the second order is 0 * inf = nan. With ``root_eps`` the derivative is at most
    ``1 / sqrt(root_eps)``. Deviation from the textbook: ``eps`` is inside the root by default, ``1e-8`` there being
    like ``1e-4`` outside.

    Attributes:
        beta1: decay of the mean of the gradients; 0 keeps none.
        beta2: decay of the mean of the squared gradients.
        root_eps: added under the root.
        eps: added to the root.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    root_eps: float = 1e-8
    eps: float = 0.0

    def start(self, params: Params) -> Slots:
        """Zero moments."""
        zeros = {name: value.detach().new_zeros(value.shape) for name, value in params.items()}
        return Slots(0, (zeros, dict(zeros)))

    def direction(self, gradients: Params, slots: Slots) -> tuple[Params, Slots]:
        """The bias-corrected mean gradient over the root of the bias-corrected mean square."""
        count = slots.updates + 1
        means, squares = slots.moments
        means = {name: self.beta1 * means[name] + (1 - self.beta1) * value for name, value in gradients.items()}
        squares = {
            name: self.beta2 * squares[name] + (1 - self.beta2) * value * value for name, value in gradients.items()
        }
        mean_scale, square_scale = 1 / (1 - self.beta1**count), 1 / (1 - self.beta2**count)
        directions: dict[str, Tensor] = {
            name: mean_scale * means[name] / ((square_scale * squares[name] + self.root_eps).sqrt() + self.eps)
            for name in gradients
        }
        return directions, Slots(count, (means, squares))
