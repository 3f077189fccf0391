"""Map the meta-step of one task over a few tasks at a time, for any network."""

import torch
from torch import Tensor
from torch.func import grad

from few_shot_nas.episode import Episode
from few_shot_nas.meta.engines.unroll import unrolled
from few_shot_nas.meta.functional import Params
from few_shot_nas.meta.problem import MakeProblem, Outcome, Plan

#: Tasks that are mapped over at a time: their activations are in memory together.
CHUNK = 8


def mapped(make: MakeProblem, batch: Episode, plan: Plan) -> Outcome:
    """As :func:`unroll` on every task of ``batch``, by ``torch.vmap``; the loss is the sum over the tasks.

    Every layer must have a batching rule, and no layer may write a buffer. Dropout draws other masks than in a loop
    over the tasks.
    """

    def one(
        support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor
    ) -> tuple[Tensor, Tensor, list[Params]]:
        problem = make(Episode(support_x, support_y, query_x, query_y))
        return tuple(unrolled(problem, problem.moved, plan, grad))  # type: ignore[return-value]

    losses, logits, trajectory = torch.vmap(one, randomness="different", chunk_size=CHUNK)(*batch[:4])
    return Outcome(losses.sum(), logits, trajectory)
