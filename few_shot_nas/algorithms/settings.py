"""Settings that many algorithms share, as frozen dataclasses. The command line offers their fields as flat flags."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from few_shot_nas.errors import InputError
from few_shot_nas.meta.heads import HEADS, Head
from few_shot_nas.meta.inner_optimizer import PLAIN, Adam, InnerRule
from few_shot_nas.meta.schedule import cosine_with_restarts
from few_shot_nas.ranges import Count, NonNegative, Number, Positive, Share
from few_shot_nas.search.rewards import REWARDS, RewardFunction, reward_named
from few_shot_nas.settings import Settings

#: A network that was trained to adapt in one step adapts better in three; more hardly help.
LEAST_EVAL_STEPS = 3

#: What a meta-step of a search by rewards trains: the shared weights on uniform children, the shared weights, the
#: policy, or both.
Phase = Literal["warmup", "weights", "policy", "joint"]


@dataclass(frozen=True)
class InnerLoop(Settings):
    """How one task is adapted to.

    Attributes:
        inner_lr: step size of the inner loop, whose loss is the mean over the support images. With N ways the loss of
            the MAML paper is N times larger, so multiply its rates by N.
        inner_steps: updates per task in training.
        eval_inner_steps: updates per task in validation and test; None takes inner_steps, but at least 3 (Finn et al.
            train on Omniglot with 1 and test with 3).
        first_order: treat the inner gradients as constants (FOMAML): cheaper, slightly less accurate.
        engine: how the meta-gradient is computed. All engines give the same up to rounding. unroll takes a task at a
            time and keeps the activations of every inner step. sweep keeps the activations of one inner step at a time
            and takes somewhat longer. folded takes all tasks of the meta-batch at once (networks such as Conv4). graph
            captures folded on a GPU once and replays it. vmap maps over the tasks of any network. auto times unroll,
            folded and graph on the first meta-batch, where they can run, and keeps the choice in the cache folder.
            docs/performance.md says which is the fastest where.
        inner_optimizer: sgd, or adam: bias-corrected, differentiable, started afresh for every task.
        zero_head: start meta-training with the linear head at 0 instead of at random. No class is favoured then, and
            the first inner step makes a head of the support features alone. Training is far faster.
    """

    inner_lr: Positive = 0.4
    inner_steps: Count = 1
    eval_inner_steps: Number | None = None
    first_order: bool = False
    engine: Literal["unroll", "sweep", "folded", "vmap", "graph", "auto"] = "unroll"
    inner_optimizer: Literal["sgd", "adam"] = "sgd"
    zero_head: bool = False

    def steps(self, training: bool) -> int:
        """Return the number of updates in training or in evaluation."""
        if training:
            return self.inner_steps
        return max(self.inner_steps, LEAST_EVAL_STEPS) if self.eval_inner_steps is None else self.eval_inner_steps

    def rule(self) -> InnerRule:
        """Return what turns gradients into directions."""
        return Adam() if self.inner_optimizer == "adam" else PLAIN


#: The default of searches. The second order makes a child half again as expensive; T-NAS and Auto-MAML go without.
FIRST_ORDER = InnerLoop(first_order=True)


if TYPE_CHECKING:
    RewardName = str
else:  # the command line offers the names of the table
    RewardName = Literal[tuple(REWARDS)]


@dataclass(frozen=True)
class Scoring(Settings):
    """How the children of a search classify, and what they are rewarded for.

    Attributes:
        head: linear takes inner steps with the head of the supernet. prototype (nearest class mean) and ridge
            (regression on the labels) are closed forms on the support features: a child costs one pass and takes no
            inner step.
        reward: what a search maximises; docs/maml_enas.md has the formulas.
    """

    head: Literal["linear", "prototype", "ridge"] = "linear"
    reward: RewardName = "query_accuracy"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.reward_function()

    def reward_function(self) -> RewardFunction:
        """Return the reward that the flags name."""
        return reward_named(self.reward, "reward", self.head)

    def closed_form(self) -> Head | None:
        """Return the closed-form head; None where children adapt by an inner loop."""
        return None if self.head == "linear" else HEADS[self.head]


@dataclass(frozen=True)
class OuterLoop(Settings):
    """How the meta-parameters are updated and watched.

    Attributes:
        max_meta_steps: outer updates in the whole run; 0 tests what init_from gives, without training.
        outer_lr: learning rate of Adam on the meta-parameters.
        outer_schedule: constant, or cosine or linear from outer_lr to outer_lr_min over max_meta_steps, or sgdr:
            cosines from outer_lr to outer_lr_min that start again, on the network alone (a controller's rate stays).
        outer_lr_min: the rate at which outer_schedule ends, or each cycle of sgdr; without effect on a constant one.
            Other rates, such as controller_lr, fall by the same factor; under sgdr they stay.
        restart_steps: meta-steps of the first cycle of sgdr, T_0. ENAS takes 10 epochs.
        restart_factor: each cycle of sgdr takes this many times the steps of the one before, T_mul.
        weight_decay: L2 penalty of Adam.
        label_smoothing: share of every training label that is spread evenly over all classes, in the outer loss alone.
        meta_grad_clip: largest norm of the meta-gradient; None does not clip.
        bn_mode: what normalises the queries in validation: the queries themselves (transductive), the support set, the
            support set and one query at a time (per_query; Reptile with per_query_bn) or the statistics of training
            (running; flat pre-training, and MAMLPlusPlus with per_step_statistics). The test reports all that there
            are.
        score_modes: the bn_modes that the tasks of validation and test are scored in. all takes every bn_mode that the
            network has. bn_mode takes the one that the flag bn_mode names, and saves the passes of the others.
        log_every: meta-steps between two rows of training metrics.
        log_grad_norm: order p of the norm of the meta-gradient to log; None logs none.
        log_inner_steps: let the validation of MAML and its relatives also score the queries before and after every
            inner step, and the support set. Each score costs a pass over the images.
        patience: validations without a better accuracy in bn_mode after which training stops; None never stops early.
        on_nonfinite: what a meta-step with a loss or gradient that is not finite does: stop ends the run, skip leaves
            out the update and counts it.
    """

    max_meta_steps: Number = 1000
    outer_lr: Positive = 2e-3
    outer_schedule: Literal["constant", "cosine", "linear", "sgdr"] = "constant"
    outer_lr_min: NonNegative = 0.0
    restart_steps: Count = 100
    restart_factor: Count = 2
    weight_decay: NonNegative = 0.0
    label_smoothing: Share = 0.0
    meta_grad_clip: Positive | None = None
    bn_mode: Literal["transductive", "support", "per_query", "running"] = "transductive"
    score_modes: Literal["all", "bn_mode"] = "all"
    log_every: Count = 50
    log_grad_norm: Positive | None = None
    log_inner_steps: bool = True
    patience: Count | None = None
    on_nonfinite: Literal["stop", "skip"] = "stop"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.outer_lr_min > self.outer_lr:
            raise InputError(f"outer_lr_min={self.outer_lr_min}: must lie in 0 .. outer_lr={self.outer_lr}")

    def rate_factor(self, meta_step: int) -> float:
        """Return the fraction of every learning rate at ``meta_step``: from 1 to ``outer_lr_min / outer_lr``."""
        done, floor = meta_step / self.max_meta_steps, self.outer_lr_min / self.outer_lr
        if self.outer_schedule == "constant":
            return 1.0
        if self.outer_schedule == "sgdr":
            return cosine_with_restarts(meta_step, self.restart_steps, self.restart_factor, floor)
        left = 1.0 - done if self.outer_schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
        return floor + (1.0 - floor) * left
