"""Map the meta-step of one task over a few tasks at a time, for any network."""

import torch
from torch import Tensor
from torch.func import grad

from few_shot_nas.episode import Episode, Task
from few_shot_nas.meta.engines.unroll import unrolled
from few_shot_nas.meta.functional import Params
from few_shot_nas.meta.problem import MakeProblem, Outcome, Plan

#: Tasks that are mapped over at a time: their activations are in memory together.
CHUNK = 8


def mapped(make: MakeProblem, batch: Episode, plan: Plan) -> Outcome:
    """As :func:`unroll` on every task of ``batch``, by ``torch.vmap``; the loss is the sum over the tasks.

    Every layer must have a batching rule, and no layer may write a buffer. Dropout draws other masks than in a loop
    over the tasks.

    Example:
        >>> from few_shot_nas.meta.problem import Problem
        >>> theta = {"w": torch.tensor(1.0, requires_grad=True)}
        >>> def make(t):
        ...     return Problem(
        ...         theta, {}, lambda p, rest, step: ((p["w"] - t.support_x) ** 2).sum(),
        ...         lambda p, rest, step: (((p["w"] - t.query_x) ** 2).sum(), p["w"]),
        ...     )
        >>> goals, labels = torch.tensor([0.0, 3.0]), torch.zeros(2)
        >>> outcome = mapped(make, Episode(goals, labels, goals, labels), Plan(lr=lambda name, step: 0.25, num_steps=1))
        >>> outcome.loss.item(), outcome.logits.tolist()
        (1.25, [0.5, 2.0])
    """

    def one(
        support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor
    ) -> tuple[Tensor, Tensor, list[Params]]:
        problem = make(Task(support_x, support_y, query_x, query_y))
        return tuple(unrolled(problem, problem.moved, plan, grad))  # type: ignore[return-value]

    losses, logits, trajectory = torch.vmap(one, randomness="different", chunk_size=CHUNK)(*batch[:4])
    return Outcome(losses.sum(), logits, trajectory)
