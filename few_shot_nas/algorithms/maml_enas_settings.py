"""Settings of MAMLENAS, and which of them exclude each other."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from few_shot_nas.algorithms.settings import Phase, RewardName, Scoring
from few_shot_nas.errors import InputError
from few_shot_nas.meta.policy_objective import PolicyGradient
from few_shot_nas.ranges import Between, Count, NonNegative, Number, Positive
from few_shot_nas.search.rewards import REWARDS, QueryReward, RewardFunction, reward_at_test, reward_named
from few_shot_nas.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ControllerLoop(PolicyGradient):
    """How the controller is adapted and updated: what :class:`PolicyGradient` has, and what needs a network.

    Attributes:
        controller: name of the controller.
        share_archs: try the same K architectures on all tasks of a meta-batch.
        inner_reward: reward of the clone's step; None takes reward. A reward that needs no query labels can be had at
            meta-test too.
        skip_target: prior probability of a skip connection, in spaces that decide on them.
        skip_weight: weight of the clone's divergence from that prior, in reward units per nat.
        task_embedding: give the controller the stem's mean features of the support set.
        promp_epochs: outer steps of the controller per batch of rewards (ProMP); more than 1 needs estimator=lvc.
        promp_clip: largest distance from 1 of a likelihood ratio that ProMP still rewards.
        promp_kl_weight: weight of ProMP's penalty on leaving the policy that drew the architectures.
    """

    controller: str = "LSTM"
    share_archs: bool = False
    inner_reward: RewardName | None = None
    skip_target: Between = 0.4
    skip_weight: NonNegative = 0.0
    task_embedding: bool = False
    promp_epochs: Count = 1
    promp_clip: Positive = 0.3
    promp_kl_weight: NonNegative = 5e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.promp_epochs > 1 and self.estimator != "lvc":
            raise InputError(
                f"promp_epochs={self.promp_epochs}: ProMP's first step is that of estimator=lvc, "
                f"but estimator={self.estimator} given; set estimator=lvc or promp_epochs=1"
            )
        if self.share_archs and self.task_embedding:
            raise InputError(
                "share_archs=true: tasks cannot try the same architectures under task_embedding=true, "
                "where every task has its own policy; set one of the two to false"
            )


@dataclass(frozen=True)
class SharedWeights(Settings):
    """How and when the shared weights are trained beside the controller.

    Attributes:
        weights: fast drops a child's adapted weights and trains the shared ones by the outer loss; persistent writes
            them back, as the first experiment with this method did.
        warmup_steps: meta-steps at the start that train the shared weights alone, on uniformly drawn children.
        strict_fairness: draw the children of the warm-up in groups in which every choice of a decision occurs equally
            often, and average over the group (FairNAS).
        weights_until: meta-step from which the shared weights rest and the controller learns alone; None never.
    """

    weights: Literal["fast", "persistent"] = "fast"
    warmup_steps: Number = 0
    strict_fairness: bool = False
    weights_until: Number | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights_until is not None and self.weights_until < self.warmup_steps:
            raise InputError(
                f"weights_until={self.weights_until}: the shared weights cannot rest before the end of "
                f"warmup_steps={self.warmup_steps}"
            )

    def phase(self, meta_step: int) -> Phase:
        """Return what a meta-step trains; a function of its number alone, so that a resumed run goes on in turn."""
        if meta_step < self.warmup_steps:
            return "warmup"
        return "joint" if self.weights_until is None or meta_step < self.weights_until else "policy"


@dataclass(frozen=True)
class MetaTest(Settings):
    """What happens to the controller on a task of validation or test.

    Attributes:
        test_reward: reward that the controller adapts to before it chooses the task's architecture; None does not
            adapt.
        oracle_adaptation: let test_reward use the labels of the queries that are then scored, for an upper bound.
    """

    test_reward: RewardName | None = None
    oracle_adaptation: bool = False

    def reward_function(self, head: str) -> RewardFunction | None:
        """Return the reward at test; one with query labels only as an oracle."""
        if self.test_reward is None:
            return None
        if self.oracle_adaptation:
            return reward_named(self.test_reward, "test_reward", head)
        return reward_at_test(self.test_reward, head)

    def spent(self, calls: int, before: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a test adds to the summary of a search; warn if it used the labels of the queries.

        Args:
            calls: reward calls of the test.
            before: the summary so far.
        """
        oracle = isinstance(REWARDS[str(self.test_reward)], QueryReward)
        if oracle:
            logger.warning(
                "oracle_adaptation: architectures were chosen by the labels of the queries they are scored on; these "
                "accuracies are an upper bound, not a result"
            )
        total = sum(int(before.get(f"reward_calls_{part}", 0)) for part in ("search", "derive")) + calls
        own = {"reward_calls_test": calls, "test_reward": str(self.test_reward), "oracle_adaptation": oracle}
        return {"reward_calls": total, **own}


def check_together(loop: ControllerLoop, shared: SharedWeights, scoring: Scoring, test: MetaTest) -> None:
    """Raise InputError for settings that exclude each other."""
    outer = scoring.reward_function()
    inner = outer if loop.inner_reward is None else reward_named(loop.inner_reward, "inner_reward", scoring.head)
    if inner is not outer and loop.outer_baseline in ("per_task", "moving_average"):
        raise InputError(
            f"outer_baseline={loop.outer_baseline}: subtracts inner rewards, which inner_reward="
            f"{loop.inner_reward} puts on another scale than reward={scoring.reward}; choose "
            "leave_one_out with outer_archs=2 or more, self_critical or none"
        )
    adapted = test.reward_function(scoring.head)
    if adapted not in (None, inner):
        if loop.inner_baseline == "moving_average":
            raise InputError(
                f"test_reward={test.test_reward}: inner_baseline=moving_average averages another reward; set "
                "inner_reward to the same, or choose leave_one_out, self_critical or none"
            )
        logger.warning(
            "test_reward=%s: the controller is meta-trained to adapt to %s; set inner_reward to the same",
            test.test_reward,
            loop.inner_reward or scoring.reward,
        )
    if shared.weights == "persistent":
        _check_persistent(loop, scoring, (inner, outer))


def _check_persistent(loop: ControllerLoop, scoring: Scoring, rewards: tuple[RewardFunction, RewardFunction]) -> None:
    if scoring.head != "linear":
        raise InputError(
            f"weights=persistent: head={scoring.head} takes no inner step, so nothing would train; set head=linear"
        )
    if not all(isinstance(reward, QueryReward) for reward in rewards):
        raise InputError(
            "weights=persistent: children train while they earn query rewards; set reward and inner_reward to "
            "query_accuracy or negative_query_loss"
        )
    for flag, count in (("inner", loop.inner_archs), ("outer", loop.outer_archs)):
        name = getattr(loop, f"{flag}_baseline")
        if name == "self_critical" or (name == "leave_one_out" and count > 1):
            raise InputError(
                f"{flag}_baseline={name}: with weights=persistent a child starts from what the child before it left, "
                "so rewards of other samples depend on this one and bias the gradient; choose none or moving_average"
            )
