"""The outer loss of one task: what the query set says about the adapted parameters."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from few_shot_nas.episode import Episode
from few_shot_nas.errors import InputError
from few_shot_nas.meta.functional import Params, call

#: The ways of normalising queries that every network has.
BN_MODES = ("transductive", "support")


def bn_modes(net: nn.Module) -> tuple[str, ...]:
    """Return the bn_modes that ``net`` has: ``BN_MODES``, and ``running`` if it keeps running statistics."""
    keeps = any(getattr(module, "keeps_running_statistics", False) for module in net.modules())
    return (*BN_MODES, "running") if keeps else BN_MODES


def check_bn_mode(net: nn.Module, bn_mode: str) -> None:
    """Raise InputError if ``net`` has no such ``bn_mode``."""
    if bn_mode not in bn_modes(net):
        hint = "; only flat pre-training keeps running statistics" if bn_mode == "running" else ""
        raise InputError(f"bn_mode={bn_mode}: {type(net).__name__} has {', '.join(bn_modes(net))} here{hint}")


def support_loss(net: nn.Module, task: Episode, params: Params, step: int, **inputs: Any) -> Tensor:
    """Mean cross-entropy of ``net`` with ``params`` on the support set of one task: the loss of the inner loop."""
    return F.cross_entropy(call(net, params, task.support_x, step=step, **inputs), task.support_y)


def query_logits(net: nn.Module, task: Episode, params: Params, step: int, bn_mode: str, **inputs: Any) -> Tensor:
    """Logits of the query images of one task.

    Args:
        net: the network.
        task: one task, without the meta-batch axis.
        params: the adapted parameters.
        step: index of the inner step whose per-step statistics apply (the last one taken).
        bn_mode: which images give the batch statistics that normalise the queries. ``transductive``: the queries
            themselves, so a query's score depends on the others (Finn's, MAML++'s and T-NAS's protocol). ``support``:
            the support set alone, so each query is judged on its own. ``running``: neither; the running statistics
            of training do, in networks that keep them.
        **inputs: further keyword inputs of the network.

    Returns:
        ``[Q, N]``.

    Raises:
        InputError: for another ``bn_mode``, or ``running`` where the network keeps no running statistics.
    """
    check_bn_mode(net, bn_mode)
    if bn_mode == "transductive":
        return call(net, params, task.query_x, step=step, **inputs)
    if bn_mode == "running":
        return call(net, params, task.query_x, step=step, running=True, **inputs)
    rows = task.support_x.shape[0]
    images = torch.cat([task.support_x, task.query_x])
    return call(net, params, images, step=step, stat_rows=rows, **inputs)[rows:]
