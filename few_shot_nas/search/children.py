"""The children of a search: architectures with the shared weights of one supernet, trained and rewarded on tasks.

A child is one architecture with fast weights: the parameters on its path, adapted to one task from the shared ones and
dropped afterwards. Parameters off the path are not touched. With a closed-form head the shared parameters are used as
they are, and the outer loop trains them by the query loss through the head (as ProtoNet and R2D2).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from few_shot_nas.episode import HasSupport, SingleTask, SupportSet, Task
from few_shot_nas.meta.bn_mode import check_bn_mode, run_queries
from few_shot_nas.meta.features import extract, support_features
from few_shot_nas.meta.functional import Params, call
from few_shot_nas.meta.heads import Head
from few_shot_nas.meta.inner_loop import adapt
from few_shot_nas.meta.inner_optimizer import InnerRule
from few_shot_nas.meta.metric import ways
from few_shot_nas.meta.outer_loss import support_loss
from few_shot_nas.search.derivation import Decisions
from few_shot_nas.search.rewards import RewardFunction, SupportReward, check_shots
from few_shot_nas.spaces.genotype import Genotype
from few_shot_nas.spaces.supernet import DerivedNetwork, Supernet
from few_shot_nas.stats.statistics import accuracy


class InnerSettings(Protocol):
    """What children ask of the settings of an inner loop; :class:`few_shot_nas.algorithms.settings.InnerLoop` fits."""

    @property
    def inner_lr(self) -> float:
        """Step size."""

    @property
    def first_order(self) -> bool:
        """Whether inner gradients are constants to the outer loop."""

    def steps(self, training: bool) -> int:
        """Return the number of updates in training or in evaluation."""

    def rule(self) -> InnerRule:
        """Return what turns gradients into directions."""


class AdaptedChild(NamedTuple):
    """A child after its inner loop on one training task.

    Attributes:
        loss: outer loss of the queries, a scalar.
        logits: of the queries, ``[Q, N]``.
        weights: the fast weights; none under a closed-form head.
    """

    loss: Tensor
    logits: Tensor
    weights: Params


class SharedChild(NamedTuple):
    """One architecture with the shared weights, as a reward function sees it."""

    children: "Children"
    genotype: Genotype

    def logits(self, support: SupportSet, images: Tensor) -> Tensor:
        """Adapt to a support set and classify ``images [B, C, H, W]``: ``[B, N]``."""
        return self.children.predict(support, images, self.genotype)

    def left_out(self, support: SupportSet) -> Tensor:
        """Classify every support image by the closed-form head of the others: ``[S, N]``."""
        head = self.children.head
        if head is None:
            raise ValueError("a head that is fitted by an inner loop has no closed form to leave images out of")
        features = support_features(self.children.supernet, support, genotype=self.genotype)
        return head.left_out(features, support.support_y, ways(support.support_y))

    def network(self, images: Tensor) -> DerivedNetwork:
        """Return the architecture's own network for images like ``images``, with copies of the shared weights."""
        return derived_network(self.children.supernet, images, self.genotype)


def derived_network(supernet: Supernet, images: Tensor, genotype: Genotype) -> DerivedNetwork:
    """Return the network of one architecture with copies of a supernet's weights, not adapted.

    What a derived network has and the supernet has not, scales and shifts of a supernet with ``affine=False``, is 1
    and 0. No generator is advanced.

    Args:
        supernet: the shared weights.
        images: ``[B, C, H, W]``, of the sizes that the network is for; their values do not matter.
        genotype: the architecture.
    """
    with torch.random.fork_rng(devices=[]):
        net = DerivedNetwork(
            supernet.head.out_features, images.shape[1], images.shape[-1], genotype, supernet.pad
        )
    shared, own = supernet.state_dict(), net.state_dict()
    net.load_state_dict({**own, **{name: shared[name] for name in own if name in shared}})
    return net.to(next(supernet.parameters()))


class Children:
    """The architectures of a supernet on single tasks.

    Args:
        supernet: the shared weights.
        inner: the inner loop of every child; without effect under a closed-form head.
        head: the closed-form head; None adapts the supernet's own linear one.
        reward_function: what :meth:`reward` gives when no other reward function is named.
        outer_loss: (logits ``[Q, N]``, labels ``[Q]``) -> loss of a training task, a scalar.
    """

    def __init__(
        self,
        supernet: Supernet,
        inner: InnerSettings,
        *,
        head: Head | None,
        reward_function: RewardFunction,
        outer_loss: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        self.supernet = supernet
        self.inner = inner
        self.head = head
        self.reward_function = reward_function
        self.outer_loss = outer_loss

    def decode(self, decisions: Decisions) -> Genotype:
        """Return the architecture that ``decisions`` name."""
        return self.supernet.space.decode(decisions)

    # ---- from an architecture to its logits and loss ----------------------------------------------------------------

    def fast_weights(
        self, task: HasSupport, genotype: Genotype, *, training: bool, second_order: bool
    ) -> Params:
        """Return the fast weights of ``genotype`` after the inner loop on the support set; none for a closed form."""
        if self.head is not None:
            return {}
        shared = dict(self.supernet.named_parameters())
        return adapt(
            lambda params, step: support_loss(self.supernet, task, params, step, genotype=genotype),
            {name: shared[name] for name in self.supernet.active_params(genotype)},
            lr=lambda name, step: self.inner.inner_lr,
            num_steps=self.inner.steps(training),
            second_order=second_order,
            rule=self.inner.rule(),
        )[-1]

    def logits(
        self,
        support: HasSupport,
        images: Tensor,
        genotype: Genotype,
        weights: Params,
        *,
        training: bool,
        bn_mode: str,
    ) -> Tensor:
        """Classify ``images [B, C, H, W]`` by a child with the fast weights ``weights``: ``[B, N]``.

        The one road from a child to its logits: losses, rewards and scores all take it.

        Args:
            support: what the child was adapted to; a closed-form head is fitted to it here.
            images: the images to classify.
            genotype: the architecture.
            weights: what :meth:`fast_weights` returned for it.
            training: whether it took the training's number of inner steps or the evaluation's.
            bn_mode: what normalises the images, see :func:`few_shot_nas.meta.bn_mode.run_queries`.
        """
        check_bn_mode(self.supernet, bn_mode)
        if self.head is not None:
            extracted = partial(extract, self.supernet, genotype=genotype)
            features = extracted(support.support_x, running=bn_mode == "running")
            queries = run_queries(extracted, support.support_x, images, bn_mode)
            return self.head.logits(features, support.support_y, queries, ways(support.support_y))
        last = max(self.inner.steps(training) - 1, 0)
        run = partial(call, self.supernet, weights, step=last, genotype=genotype)
        return run_queries(run, support.support_x, images, bn_mode)

    def predict(self, support: SupportSet, images: Tensor, genotype: Genotype) -> Tensor:
        """Adapt a child to a support set and classify ``images [B, C, H, W]`` by their own batch statistics."""
        weights = self.fast_weights(support, genotype, training=True, second_order=False)
        return self.logits(support, images, genotype, weights, training=True, bn_mode="transductive")

    def query_logits(self, task: SingleTask, genotype: Genotype, modes: Sequence[str]) -> dict[str, Tensor]:
        """Adapt a child as in evaluation and return its query logits ``[Q, N]`` for every bn_mode of ``modes``."""
        weights = self.fast_weights(task, genotype, training=False, second_order=False)
        return {
            mode: self.logits(task, task.query_x, genotype, weights, training=False, bn_mode=mode) for mode in modes
        }

    def adapted_child(self, task: Task, genotype: Genotype) -> AdaptedChild:
        """Adapt a child to one training task and take the outer loss of its queries, differentiable."""
        weights = self.fast_weights(task, genotype, training=True, second_order=not self.inner.first_order)
        logits = self.logits(task, task.query_x, genotype, weights, training=True, bn_mode="transductive")
        return AdaptedChild(self.outer_loss(logits, task.query_y), logits, weights)

    def mean_loss(self, task: Task, architectures: Sequence[Decisions]) -> tuple[Tensor, Tensor]:
        """Return the mean outer loss and the mean query accuracy of some children on one training task."""
        losses, accuracies = [], []
        for decisions in architectures:
            child = self.adapted_child(task, self.decode(decisions))
            losses.append(child.loss)
            accuracies.append(accuracy(child.logits, task.query_y))
        return torch.stack(losses).mean(), torch.stack(accuracies).mean()

    # ---- rewards ----------------------------------------------------------------------------------------------------

    def reward(self, decisions: Decisions, task: Task, reward_function: RewardFunction | None = None) -> float:
        """Reward of a child on one task; a reward function that needs no queries does not get them.

        The shared weights stay as they are.

        Args:
            decisions: the architecture.
            task: one task.
            reward_function: what rewards; None takes the children's own.
        """
        reward_function = reward_function or self.reward_function
        if isinstance(reward_function, SupportReward):
            return self.support_reward(decisions, task.support_set(), reward_function)
        with torch.no_grad():
            logits = self.predict(task.support_set(), task.query_x, self.decode(decisions))
            return float(reward_function.score(logits, task))

    def support_reward(self, decisions: Decisions, support: SupportSet, reward_function: SupportReward) -> float:
        """Reward of a child by a reward function that sees the support set alone.

        Raises:
            InputError: if there are too few shots for it.
        """
        check_shots(reward_function, support)
        with torch.no_grad():
            return float(reward_function.score(SharedChild(self, self.decode(decisions)), support))
