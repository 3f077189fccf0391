"""Go back over stored iterates, with the memory of one inner step; see :mod:`few_shot_nas.meta.reverse_sweep`."""

from few_shot_nas.episode import Episode, Task
from few_shot_nas.meta.engines.unroll import unroll
from few_shot_nas.meta.problem import MakeProblem, Outcome, Plan
from few_shot_nas.meta.reverse_sweep import swept_loss


def sweep(make: MakeProblem, task: Task | Episode, plan: Plan) -> Outcome:
    """As :func:`unroll`, with an iterate per inner step in memory instead of its activations.

    The first order has no graph through the inner steps, and is unrolled.

    Example:
        >>> import torch
        >>> from few_shot_nas.meta.problem import Problem
        >>> theta = {"w": torch.tensor(1.0, requires_grad=True)}
        >>> def make(task):
        ...     return Problem(
        ...         theta, {}, lambda p, rest, step: p["w"] ** 2, lambda p, rest, step: (p["w"] ** 2, p["w"])
        ...     )
        >>> outcome = sweep(make, None, Plan(lr=lambda name, step: 0.25, num_steps=1))
        >>> outcome.loss.item(), [params["w"].item() for params in outcome.trajectory]
        (0.25, [1.0, 0.5])
    """
    if not plan.second_order:
        return unroll(make, task, plan)
    problem = make(task)
    swept = swept_loss(
        problem.support,
        problem.query,
        problem.moved,
        problem.fixed,
        lr=plan.lr,
        num_steps=plan.num_steps,
        weights=plan.weights,
        rule=plan.rule,
    )
    return Outcome(swept.loss, swept.aux, swept.trajectory)
