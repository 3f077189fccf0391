"""Control variates: what is subtracted from rewards, and where each may be subtracted.

The flags call them baselines. There are three places, each with a condition of its own:

- ``inner``: the advantages ``A_k = r_k - b_k`` of the clone's step. They give an unbiased gradient of the expected
  reward if b_k does not depend on a_k. The meta-gradient of J_I is exact for any inner advantages, because J_I is
  defined with them.
- ``outer``: the weights of the samples that the clone drew. Given the clone, b' must not depend on a'_m.
- ``correction``: the weights of the inner samples' scores. Given theta, c_k must not depend on a_k. The mean inner
  reward is not allowed here, because it contains r_k; a reward of the clone is not, because the clone depends on a_k.

All three conditions assume that no reward depends on another sample. This holds where every child starts from the same
weights.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from few_shot_nas.errors import InputError
from few_shot_nas.meta.policy_gradient import leave_one_out
from few_shot_nas.registry import lookup

Place = Literal["inner", "outer", "correction"]


class MovingAverage(NamedTuple):
    """Exponential moving average of rewards, divided by its weights so that it does not start near zero.

    Attributes:
        total: sum of the rewards, weighted by powers of the decay. ENAS's code takes this number as its baseline: it
            starts at 0, so that the first hundred advantages are positive.
        weight: sum of the weights, ``1 - decay^n`` after n updates.
    """

    total: float = 0.0
    weight: float = 0.0

    @property
    def value(self) -> float:
        """The average; 0 before the first update."""
        return self.total / self.weight if self.weight else 0.0

    def updated(self, reward: float, decay: float) -> "MovingAverage":
        """Return the average after one more reward. Use the baseline first: it must not contain this reward."""
        return MovingAverage(decay * self.total + (1 - decay) * reward, decay * self.weight + (1 - decay))


class Evidence(NamedTuple):
    """What a control variate may be computed from.

    Attributes:
        rewards: rewards ``[n]`` of the samples that it is subtracted from.
        task: inner rewards ``[K]`` of the same task.
        average: moving average of the rewards of earlier steps.
        greedy: reward of the policy's greedy architecture on the same data; None where nobody asked for it.
    """

    rewards: Tensor
    task: Tensor
    average: MovingAverage = MovingAverage()
    greedy: float | None = None


def _none(evidence: Evidence) -> Tensor:
    return torch.zeros_like(evidence.rewards)


def _moving_average(evidence: Evidence) -> Tensor:
    return torch.full_like(evidence.rewards, evidence.average.value)


def _per_task(evidence: Evidence) -> Tensor:
    return evidence.task.mean().expand_as(evidence.rewards)


def _leave_one_out(evidence: Evidence) -> Tensor:
    return leave_one_out(evidence.rewards)


def _self_critical(evidence: Evidence) -> Tensor:
    if evidence.greedy is None:
        raise ValueError("the self_critical baseline needs the reward of the greedy architecture")
    return torch.full_like(evidence.rewards, evidence.greedy)


@dataclass(frozen=True)
class ControlVariate:
    """A number per sample that is subtracted from its reward, for less variance.

    Attributes:
        value: maps the evidence to one number per sample, ``[n]``.
        legal: the places where subtracting it does not change the expected gradient.
        greedy: whether it needs one more reward: that of the greedy architecture of the policy that drew the samples.
    """

    value: Callable[[Evidence], Tensor]
    legal: frozenset[Place] = frozenset({"inner", "outer", "correction"})
    greedy: bool = False


CONTROL_VARIATES: dict[str, ControlVariate] = {
    "none": ControlVariate(_none),
    # Sutton and Barto; decay 0.99 in ENAS. Independent of all samples of this step.
    "moving_average": ControlVariate(_moving_average),
    # Given the clone, the inner rewards are numbers.
    "per_task": ControlVariate(_per_task, frozenset({"outer"})),
    # Kool et al. 2019; zero if there is one sample.
    "leave_one_out": ControlVariate(_leave_one_out),
    # Rennie et al. 2017, arXiv:1612.00563. In the correction: greedy of theta, never of the clone.
    "self_critical": ControlVariate(_self_critical, greedy=True),
}


def legal_control_variate(name: str, place: Place, flag: str) -> ControlVariate:
    """Return ``CONTROL_VARIATES[name]``.

    Args:
        name: the baseline.
        place: where it is to be subtracted.
        flag: the flag that named it, for messages.

    Raises:
        InputError: if there is no such baseline, or it biases the gradient at that place.

    Example:
        >>> evidence = Evidence(rewards=torch.tensor([1.0, 0.0, 0.5]), task=torch.tensor([0.2, 0.4]))
        >>> legal_control_variate("leave_one_out", "inner", "inner_baseline").value(evidence).tolist()
        [0.25, 0.75, 0.5]
        >>> legal_control_variate("per_task", "inner", "inner_baseline")
        Traceback (most recent call last):
        few_shot_nas.errors.InputError: inner_baseline=per_task: the baseline of the inner samples ...
    """
    baseline = lookup(CONTROL_VARIATES, name, flag)
    if place not in baseline.legal:
        legal = ", ".join(key for key, other in CONTROL_VARIATES.items() if place in other.legal)
        raise InputError(
            f"{flag}={name}: the baseline of the {place} samples would depend on the sample it is subtracted from; "
            f"choose one of {legal}"
        )
    return baseline
