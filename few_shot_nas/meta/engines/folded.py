"""Run all tasks of a meta-batch in one batch, where every task has statistics and weights of its own."""

from few_shot_nas.episode import Episode
from few_shot_nas.meta.engines.unroll import unrolled
from few_shot_nas.meta.problem import MakeProblem, Outcome, Plan
from few_shot_nas.nn.convolution import shared_by_tasks


def folded(make: MakeProblem, batch: Episode, plan: Plan) -> Outcome:
    """As :func:`unroll` on every task of ``batch``, in one pass; the loss is the sum over the tasks.

    For networks that :func:`few_shot_nas.meta.functional.takes_tasks`. In the first inner step all tasks still share
    the weights. These are expanded, not copied, and the layers see that one convolution will do.

    Example:
        >>> import torch
        >>> from few_shot_nas.meta.problem import Problem
        >>> theta = {"w": torch.tensor(1.0, requires_grad=True)}
        >>> def make(t):
        ...     return Problem(
        ...         theta, {}, lambda p, rest, step: ((p["w"] - t.support_x) ** 2).sum(),
        ...         lambda p, rest, step: (((p["w"] - t.query_x) ** 2).sum(), p["w"]),
        ...     )
        >>> goals, labels = torch.tensor([0.0, 3.0]), torch.zeros(2)
        >>> outcome = folded(make, Episode(goals, labels, goals, labels), Plan(lr=lambda name, step: 0.25, num_steps=1))
        >>> outcome.loss.item(), outcome.logits.tolist()
        (1.25, [0.5, 2.0])
    """
    problem = make(batch)
    count = len(batch.support_x)
    moved = {name: shared_by_tasks(value, count) for name, value in problem.moved.items()}
    return unrolled(problem, moved, plan)
