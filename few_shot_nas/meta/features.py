"""Features of the two halves of a task, under each way of normalising them."""

from functools import partial
from typing import Any, cast

from torch import Tensor, nn

from few_shot_nas.episode import HasQueries, HasSupport
from few_shot_nas.forward_context import forward_context
from few_shot_nas.meta.bn_mode import BN_MODES, check_bn_mode, run_queries
from few_shot_nas.meta.functional import full_precision


def extract(
    net: nn.Module, x: Tensor, *, stat_rows: int | None = None, running: bool = False, **inputs: Any
) -> Tensor:
    """Features ``[B, D]`` of images ``x [B, C, H, W]``, float32 or wider: distances in half precision cancel.

    Args:
        net: a network of MODELS; its own parameters are used, and its head is not.
        x: the images.
        stat_rows: batch statistics are taken from the first ``stat_rows`` images only; None takes all.
        running: layers that keep running statistics normalise by these.
        **inputs: further keyword inputs of the network, e.g. ``genotype``.

    Example:
        >>> import torch
        >>> class Net(nn.Module):
        ...     def features(self, x):
        ...         return x.flatten(1)
        >>> features = extract(Net(), torch.ones(2, 3, 4, 4).half())
        >>> features.shape, features.dtype
        (torch.Size([2, 48]), torch.float32)
    """
    with forward_context(stat_rows=stat_rows, running=running):
        features: Tensor = cast(Any, net).features(x, **inputs)
    return full_precision(features)


def support_features(
    net: nn.Module, task: HasSupport, *, running: bool = False, **inputs: Any
) -> Tensor:
    """Features ``[S, D]`` of the support images of one task.

    The running statistics normalise them if ``running`` is set. In every other bn_mode the support batch itself does.

    Example:
        >>> import torch
        >>> class Net(nn.Module):
        ...     def features(self, x):
        ...         return x.mean((2, 3))
        >>> from few_shot_nas.episode import SupportSet
        >>> support_features(Net(), SupportSet(torch.ones(4, 3, 8, 8), torch.tensor([0, 0, 1, 1]))).shape
        torch.Size([4, 3])
    """
    return extract(net, task.support_x, running=running, **inputs)


def query_features(net: nn.Module, task: HasQueries, bn_mode: str, **inputs: Any) -> Tensor:
    """Features ``[Q, D]`` of the query images of one task.

    Args:
        net: the network.
        task: one task.
        bn_mode: what normalises them, see :func:`few_shot_nas.meta.bn_mode.run_queries`.
        **inputs: further keyword inputs of the network.

    Raises:
        InputError: for another ``bn_mode``, or ``running`` where the network keeps no running statistics.

    Example:
        >>> import torch
        >>> class Net(nn.Module):
        ...     def features(self, x):
        ...         return x.mean((2, 3))
        >>> from few_shot_nas.episode import Task
        >>> labels = torch.tensor([0, 1])
        >>> task = Task(torch.ones(2, 3, 8, 8), labels, torch.ones(6, 3, 8, 8), labels.repeat(3))
        >>> query_features(Net(), task, "support").shape
        torch.Size([6, 3])
    """
    if bn_mode not in BN_MODES:  # those are every network's
        check_bn_mode(net, bn_mode)
    return run_queries(partial(extract, net, **inputs), task.support_x, task.query_x, bn_mode)
