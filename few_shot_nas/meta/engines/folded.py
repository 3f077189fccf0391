"""Run all tasks of a meta-batch at once: one batch, statistics and weights of each task's own."""

from few_shot_nas.episode import Episode
from few_shot_nas.meta.engines.unroll import unrolled
from few_shot_nas.meta.problem import MakeProblem, Outcome, Plan


def folded(make: MakeProblem, batch: Episode, plan: Plan) -> Outcome:
    """As :func:`unroll` on every task of ``batch``, in one pass; the loss is the sum over the tasks.

    For networks that :func:`few_shot_nas.meta.functional.takes_tasks`. The first inner step still has the weights that
    all tasks share: they are expanded, not copied, and the layers see that one convolution will do.
    """
    problem = make(batch)
    count = len(batch.support_x)
    moved = {name: value.unsqueeze(0).expand(count, *value.shape) for name, value in problem.moved.items()}
    return unrolled(problem, moved, plan)
