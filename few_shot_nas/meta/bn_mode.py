"""What normalises the queries of a task: the ways by name, and the one place that runs a network by them."""

from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn

from few_shot_nas.errors import InputError

#: The ways of normalising queries that every network has and every learner scores.
BN_MODES = ("transductive", "support")
#: Why a mode may be missing, for the error.
_HINTS = {
    "running": "; only flat pre-training and per_step_statistics keep running statistics",
    "per_query": "; only per_query_bn scores it",
}


def bn_modes(net: nn.Module, *, per_query: bool = False) -> tuple[str, ...]:
    """Return the bn_modes that ``net`` has: ``BN_MODES``, and ``running`` if a layer of it keeps running statistics.

    Args:
        net: the network.
        per_query: count ``per_query`` too, which any network has but which costs a pass per query.

    Example:
        >>> from few_shot_nas.nn.norm import BatchNorm2d, keep_running_statistics
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), BatchNorm2d(4))
        >>> bn_modes(net)
        ('transductive', 'support')
        >>> keep_running_statistics(net)
        >>> bn_modes(net, per_query=True)
        ('transductive', 'support', 'running', 'per_query')
    """
    keeps = any(getattr(module, "keeps_running_statistics", False) for module in net.modules())
    return (*BN_MODES, *(["running"] if keeps else []), *(["per_query"] if per_query else []))


def scored_beside(name: str, names: Collection[str]) -> str | None:
    """Return which score of the same tasks another one is to be compared with: ``running`` of ``tuned_running``.

    Args:
        name: of a score: a bn_mode, or something with ``_`` before the name of another score.
        names: of all scores of the tasks.

    Returns:
        The longest such name; None for a bn_mode itself.

    Example:
        >>> names = ("running", "tuned_running", "no_copies_tuned_running")
        >>> [scored_beside(name, names) for name in names]
        [None, 'running', 'tuned_running']
    """
    return max((other for other in names if name.endswith(f"_{other}")), key=len, default=None)


def check_bn_mode(net: nn.Module, bn_mode: str, *, per_query: bool = False) -> None:
    """Raise InputError if ``bn_mode`` is not among :func:`bn_modes`.

    Example:
        >>> check_bn_mode(nn.Linear(3, 2), "support")
        >>> check_bn_mode(nn.Linear(3, 2), "per_query")
        Traceback (most recent call last):
        few_shot_nas.errors.InputError: bn_mode=per_query: Linear has transductive, support here; ...
    """
    modes = bn_modes(net, per_query=per_query)
    if bn_mode not in modes:
        hint = _HINTS.get(bn_mode, "")
        raise InputError(f"bn_mode={bn_mode}: {type(net).__name__} has {', '.join(modes)} here{hint}")


def run_queries(run: Callable[..., Tensor], support_x: Tensor, query_x: Tensor, bn_mode: str) -> Tensor:
    """Run a network on the queries of one task, normalised as ``bn_mode`` says.

    - ``transductive``: by the queries themselves, so that the score of one depends on the others (the protocol of
      Finn's code, MAML++ and T-NAS).
    - ``support``: by the support set alone, so that each query is judged on its own.
    - ``per_query``: by the support set and this one query, a pass per query (Reptile's non-transductive protocol).
    - ``running``: by the statistics of training, in networks that keep them.

    Args:
        run: (images ``[..., B, C, H, W]``, ``stat_rows``, ``running``) -> outputs ``[..., B, D]``, as
            :func:`few_shot_nas.meta.functional.call` and :func:`few_shot_nas.meta.features.extract` take them.
        support_x: ``[..., S, C, H, W]``; leading axes are tasks, for networks that take many at once.
        query_x: ``[..., Q, C, H, W]``.
        bn_mode: one of :func:`bn_modes`, which the caller has checked.

    Returns:
        ``[..., Q, D]``.

    Example:
        A network that subtracts the mean of the rows that give the statistics:

        >>> def run(x, stat_rows=None, running=False):
        ...     x = x.flatten(1)
        ...     return x if running else x - x[:stat_rows].mean()
        >>> support, query = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1), torch.tensor([4.0, 8.0]).view(2, 1, 1, 1)
        >>> [run_queries(run, support, query, mode)[:, 0].tolist() for mode in ("transductive", "support", "running")]
        [[-2.0, 2.0], [2.0, 6.0], [4.0, 8.0]]
    """
    if bn_mode == "transductive":
        return run(query_x)
    if bn_mode == "running":
        return run(query_x, running=True)
    if bn_mode == "per_query":
        batches = (torch.cat([support_x, query], -4) for query in query_x.split(1, -4))
        return torch.stack([run(batch)[..., -1, :] for batch in batches], -2)
    rows = support_x.shape[-4]
    return run(torch.cat([support_x, query_x], -4), stat_rows=rows)[..., rows:, :]
