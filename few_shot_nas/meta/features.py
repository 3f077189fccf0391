"""Features of the two halves of a task, under each way of normalising them."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from few_shot_nas.episode import Episode, SupportSet
from few_shot_nas.forward_context import forward_context
from few_shot_nas.meta.functional import full_precision
from few_shot_nas.meta.outer_loss import check_bn_mode


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
    """
    with forward_context(stat_rows=stat_rows, running=running):
        features: Tensor = cast(Any, net).features(x, **inputs)
    return full_precision(features)


def support_features(
    net: nn.Module, task: Episode | SupportSet, *, running: bool = False, **inputs: Any
) -> Tensor:
    """Features ``[S, D]`` of the support images of one task.

    They are normalised by the running statistics if ``running``, else by the support batch: in the transductive as in
    the support bn_mode.
    """
    return extract(net, task.support_x, running=running, **inputs)


def query_features(net: nn.Module, task: Episode, bn_mode: str, **inputs: Any) -> Tensor:
    """Features ``[Q, D]`` of the query images of one task.

    Args:
        net: the network.
        task: one task, without the meta-batch axis.
        bn_mode: what normalises them, as in :func:`few_shot_nas.meta.outer_loss.query_logits`.
        **inputs: further keyword inputs of the network.

    Raises:
        InputError: for another ``bn_mode``, or ``running`` where the network keeps no running statistics.
    """
    check_bn_mode(net, bn_mode)
    if bn_mode == "transductive":
        return extract(net, task.query_x, **inputs)
    if bn_mode == "running":
        return extract(net, task.query_x, running=True, **inputs)
    rows = task.support_x.shape[0]
    return extract(net, torch.cat([task.support_x, task.query_x]), stat_rows=rows, **inputs)[rows:]
