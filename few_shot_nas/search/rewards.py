"""What an architecture is rewarded for on one task, and what of the task a reward function may see.

A reward is a number; a higher one means a better architecture. The type of a reward function says what it may see. A
:class:`QueryReward` takes a :class:`few_shot_nas.episode.Task` with the labels of the queries; a learner has these
while it is meta-trained, and never at meta-test. A :class:`SupportReward` takes a
:class:`few_shot_nas.episode.SupportSet`, which has no queries.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from few_shot_nas.episode import SupportSet, Task
from few_shot_nas.errors import InputError
from few_shot_nas.proxies import PROXIES
from few_shot_nas.proxies.proxy import Proxy
from few_shot_nas.registry import lookup
from few_shot_nas.stats.statistics import accuracy

#: An image is shifted by its size over this, in each of the four diagonal directions, to give four views.
VIEW_SHIFT = 14


class Child(Protocol):
    """One architecture with the shared weights, as a reward function sees it. Nothing here changes these weights."""

    def logits(self, support: SupportSet, images: Tensor) -> Tensor:
        """Adapt to a support set, as the search does, and classify ``images [B, C, H, W]``: ``[B, N]``."""

    def left_out(self, support: SupportSet) -> Tensor:
        """Classify every support image by the closed-form head of the others: ``[S, N]``."""

    def network(self, images: Tensor) -> nn.Module:
        """Return the architecture's own network, not adapted, for images like ``images``; the weights are copies."""


@dataclass(frozen=True)
class QueryReward:
    """A reward function that needs the labels of the queries.

    Attributes:
        score: (query logits ``[Q, N]`` of the adapted child, the task) -> a scalar.
    """

    score: Callable[[Tensor, Task], Tensor]


@dataclass(frozen=True)
class SupportReward:
    """A reward function that sees the support set alone, and so can be had at meta-test.

    Attributes:
        score: (child, support set) -> a scalar.
        closed_form: whether it needs a head of :data:`few_shot_nas.meta.heads.HEADS`.
        least_shots: support images of a class that it needs.
    """

    score: Callable[[Child, SupportSet], Tensor | float]
    closed_form: bool = False
    least_shots: int = 1


#: What gives the reward of an architecture on a task; :data:`REWARDS` has all by name.
RewardFunction = QueryReward | SupportReward


def _query_accuracy(logits: Tensor, task: Task) -> Tensor:
    return accuracy(logits, task.query_y)


def _negative_query_loss(logits: Tensor, task: Task) -> Tensor:
    return -F.cross_entropy(logits, task.query_y)


def _support_loo(child: Child, support: SupportSet) -> Tensor:
    return accuracy(child.left_out(support), support.support_y)


def _negative_support_loo_loss(child: Child, support: SupportSet) -> Tensor:
    return -F.cross_entropy(child.left_out(support), support.support_y)


def _support_loss(child: Child, support: SupportSet) -> Tensor:
    return -F.cross_entropy(child.logits(support, support.support_x), support.support_y)


def _support_views(child: Child, support: SupportSet) -> Tensor:
    views = shifted_views(support.support_x)
    return accuracy(child.logits(support, views), support.support_y.repeat(len(views) // len(support.support_y)))


def _by_proxy(proxy: Proxy) -> SupportReward:
    """Return the reward of a child at the shared weights, not adapted, by a proxy."""
    return SupportReward(
        lambda child, support: proxy.reward(child.network(support.support_x), support), least_shots=proxy.least_shots
    )


def shifted_views(images: Tensor) -> Tensor:
    """Shift ``[S, C, H, W]`` in the four diagonal directions, edges repeated: ``[4 S, C, H, W]``, shift by shift.

    The shift is the size over 14 (2 pixels of 28, 6 of 84), at least 1. No random numbers: the same task gives every
    architecture the same views.
    """
    height, width = images.shape[-2:]
    down, right = max(height // VIEW_SHIFT, 1), max(width // VIEW_SHIFT, 1)
    padded = F.pad(images, (right, right, down, down), mode="replicate")
    corners = [(top, left) for top in (0, 2 * down) for left in (0, 2 * right)]
    return torch.cat([padded[..., top : top + height, left : left + width] for top, left in corners])


REWARDS: dict[str, RewardFunction] = {
    "query_accuracy": QueryReward(_query_accuracy),
    # Continuous where an accuracy has Q + 1 values: less noise from few queries.
    "negative_query_loss": QueryReward(_negative_query_loss),
    "support_loo": SupportReward(_support_loo, closed_form=True, least_shots=2),
    "support_loo_loss": SupportReward(_negative_support_loo_loss, closed_form=True, least_shots=2),
    # What T-NAS adapts its architecture on. Fits, rather than generalises.
    "support_loss": SupportReward(_support_loss),
    # The held-out images that one shot does not have.
    "support_views": SupportReward(_support_views),
    **{name: _by_proxy(proxy) for name, proxy in PROXIES.items()},
}


def reward_named(name: str, flag: str, head: str) -> RewardFunction:
    """Return ``REWARDS[name]``.

    Args:
        name: the reward.
        flag: the flag that named it, for messages.
        head: what the children classify with.

    Raises:
        InputError: if there is no such reward, or it needs a closed-form head.
    """
    reward = lookup(REWARDS, name, flag)
    if isinstance(reward, SupportReward) and reward.closed_form and head == "linear":
        raise InputError(
            f"{flag}={name}: leaves each support image out of a closed-form head, but head={head} is fitted by an "
            "inner loop; set head=prototype or head=ridge"
        )
    return reward


def reward_at_test(name: str, head: str) -> SupportReward:
    """Return a reward that a task without query labels can give.

    Args:
        name: the reward.
        head: what the children classify with.

    Raises:
        InputError: if there is no such reward, it needs the labels of the queries, or another head.
    """
    reward = reward_named(name, "test_reward", head)
    if isinstance(reward, QueryReward):
        allowed = ", ".join(key for key, other in REWARDS.items() if isinstance(other, SupportReward))
        raise InputError(
            f"test_reward={name}: needs the labels of the queries, which a task does not have at meta-test; choose "
            f"one of {allowed}, or set oracle_adaptation=true to see an upper bound that uses these labels"
        )
    return reward


def check_shots(reward: SupportReward, support: SupportSet) -> None:
    """Raise InputError if ``support`` has fewer images of a class than ``reward`` needs."""
    if reward.least_shots == 1:
        return
    shots = int(torch.bincount(support.support_y).min())
    if shots < reward.least_shots:
        name = next(key for key, other in REWARDS.items() if other is reward)
        raise InputError(
            f"reward {name}: k_shot={shots} given, it parts the images of each class; set k_shot={reward.least_shots} "
            "or more, or take support_views (augmented views) or support_loss"
        )
