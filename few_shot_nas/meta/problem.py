"""What an engine is given and what it returns: the losses of tasks, how they are adapted to, and the outer loss."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from few_shot_nas.episode import HasQueries
from few_shot_nas.meta.functional import Params
from few_shot_nas.meta.inner_loop import LearningRate
from few_shot_nas.meta.inner_optimizer import PLAIN, InnerRule


class Problem(NamedTuple):
    """One training task as the engines see it; or the tasks of a meta-batch, whose losses are added up.

    Attributes:
        moved: what the inner loop moves.
        fixed: what else the losses use and the outer loop trains: parameters, or tensors computed from parameters.
        support: (moved, fixed, step) -> loss of the inner loop.
        query: (moved, fixed, step) -> loss of the outer loop and logits; ``step`` is the index of the update that
            ``moved`` comes from.
    """

    moved: Params
    fixed: Params
    support: Callable[[Params, Params, int], Tensor]
    query: Callable[[Params, Params, int], tuple[Tensor, Tensor]]


#: One task, or a meta-batch -> its problem.
MakeProblem = Callable[[HasQueries], Problem]


class Plan(NamedTuple):
    """How every task is adapted to.

    Attributes:
        lr: (name, step) -> step size, which may be learned.
        num_steps: number of updates T >= 1.
        second_order: differentiate through the inner gradients.
        weights: weight of the query loss after each update, ``[T]``; None is the loss after the last one alone.
        rule: what turns gradients into directions.
    """

    lr: LearningRate
    num_steps: int
    second_order: bool = True
    weights: Sequence[float] | Tensor | None = None
    rule: InnerRule = PLAIN


class Outcome(NamedTuple):
    """What an engine returns.

    Attributes:
        loss: the outer loss of the task, or its sum over the tasks of a meta-batch; ``backward`` gives the gradient.
        logits: of the queries after the last update, ``[Q, N]`` or ``[M, Q, N]``.
        trajectory: the iterates ``[theta_0, ..., theta_T]``; of a meta-batch, with the tasks in front.
    """

    loss: Tensor
    logits: Tensor
    trajectory: list[Params]
