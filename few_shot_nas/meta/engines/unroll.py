"""Keep the activations of every inner step and differentiate through all of them: the reference of the engines."""

from collections.abc import Callable

from few_shot_nas.episode import Episode, Task
from few_shot_nas.meta.functional import Params
from few_shot_nas.meta.inner_loop import Gradient, SupportLoss, adapt, tape_gradient
from few_shot_nas.meta.outer_loss import weighted_sum
from few_shot_nas.meta.problem import MakeProblem, Outcome, Plan, Problem


def unroll(make: MakeProblem, task: Task | Episode, plan: Plan) -> Outcome:
    """Adapt to ``task`` and take its outer loss; one graph holds all inner steps.

    Example:
        >>> import torch
        >>> from few_shot_nas.meta.problem import Problem
        >>> theta = {"w": torch.tensor(1.0, requires_grad=True)}
        >>> def make(task):
        ...     return Problem(
        ...         theta, {}, lambda p, rest, step: p["w"] ** 2, lambda p, rest, step: (p["w"] ** 2, p["w"])
        ...     )
        >>> outcome = unroll(make, None, Plan(lr=lambda name, step: 0.25, num_steps=1))
        >>> outcome.loss.item(), torch.autograd.grad(outcome.loss, theta["w"])[0].item()
        (0.25, 0.5)
    """
    problem = make(task)
    return unrolled(problem, problem.moved, plan)


def unrolled(
    problem: Problem,
    moved: Params,
    plan: Plan,
    differentiate: Callable[[SupportLoss], Gradient] = tape_gradient,
) -> Outcome:
    """Unroll from ``moved``, which may have the tasks of a meta-batch in front.

    Example:
        >>> import torch
        >>> theta = {"w": torch.tensor(1.0)}
        >>> problem = Problem(theta, {}, lambda p, rest, step: p["w"] ** 2, lambda p, rest, step: (p["w"] ** 2, 0.0))
        >>> plan = Plan(lr=lambda name, step: 0.25, num_steps=2, weights=[0.5, 0.5])
        >>> unrolled(problem, theta, plan).loss.item()
        0.15625
    """
    trajectory = adapt(
        lambda params, step: problem.support(params, problem.fixed, step),
        moved,
        lr=plan.lr,
        num_steps=plan.num_steps,
        second_order=plan.second_order,
        rule=plan.rule,
        differentiate=differentiate,
    )
    if plan.weights is None:
        loss, logits = problem.query(trajectory[-1], problem.fixed, plan.num_steps - 1)
        return Outcome(loss, logits, trajectory)
    scored = [problem.query(params, problem.fixed, step) for step, params in enumerate(trajectory[1:])]
    return Outcome(weighted_sum([loss for loss, _ in scored], plan.weights), scored[-1][1], trajectory)
