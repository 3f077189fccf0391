"""Split one task into the two disjoint draws that meta-learning a controller needs."""

import torch

from few_shot_nas.episode import Task
from few_shot_nas.errors import InputError


def two_draws(task: Task) -> tuple[Task, Task]:
    """Return (train1, val1) and (train2, val2): disjoint images of the same classes.

    The published experiment draws twice as many images per class. That is more than Omniglot's 20 for one shot and 15
    queries, so the second support set and both query sets are cut out of the task's queries: of each class's n_query
    images the first K become the support set of the second draw; the rest is halved.

    Args:
        task: one task, with the same number of queries of each class.

    Returns:
        Two tasks with K support images a class. Of an odd number of queries left the first task gets one more.

    Raises:
        InputError: if a class has fewer than K + 2 queries.
    """
    n_way = int(task.query_y.max()) + 1
    k_shot = task.support_y.shape[0] // n_way
    n_query = task.query_y.shape[0] // n_way
    if n_query < k_shot + 2:
        raise InputError(
            f"a controller is meta-learned on two disjoint draws per task: n_query={n_query} is too small for "
            f"k_shot={k_shot}, at least {k_shot + 2} queries a class are needed; raise n_query"
        )
    by_class = torch.argsort(task.query_y, stable=True).view(n_way, n_query)
    first = k_shot + (n_query - k_shot + 1) // 2
    support, query1, query2 = (
        by_class[:, columns].flatten() for columns in (slice(0, k_shot), slice(k_shot, first), slice(first, None))
    )
    x, y = task.query_x, task.query_y
    return (
        Task(task.support_x, task.support_y, x[query1], y[query1], task.task_id),
        Task(x[support], y[support], x[query2], y[query2], task.task_id),
    )
