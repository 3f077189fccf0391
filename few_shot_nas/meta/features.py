"""Features of the two halves of a task, under each way of normalising them."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from few_shot_nas.episode import Episode
from few_shot_nas.forward_context import forward_context


def extract(net: nn.Module, x: Tensor, *, stat_rows: int | None = None) -> Tensor:
    """Features ``[B, D]`` of images ``x [B, C, H, W]``, float32 or wider: distances in half precision cancel.

    Args:
        net: a network of MODELS; its own parameters are used, and its head is not.
        x: the images.
        stat_rows: batch statistics are taken from the first ``stat_rows`` images only; None takes all.
    """
    with forward_context(stat_rows=stat_rows):
        features: Tensor = cast(Any, net).features(x)
    return features.to(torch.promote_types(features.dtype, torch.float32))


def support_features(net: nn.Module, task: Episode) -> Tensor:
    """Features ``[S, D]`` of the support images of one task, normalised by these images in every bn_mode."""
    return extract(net, task.support_x)


def query_features(net: nn.Module, task: Episode, bn_mode: str) -> Tensor:
    """Features ``[Q, D]`` of the query images of one task.

    Args:
        net: the network.
        task: one task, without the meta-batch axis.
        bn_mode: ``transductive``: normalised by the batch of queries. ``support``: by the support set, each query
            on its own.

    Raises:
        ValueError: for another ``bn_mode``.
    """
    if bn_mode == "transductive":
        return extract(net, task.query_x)
    if bn_mode == "support":
        rows = task.support_x.shape[0]
        return extract(net, torch.cat([task.support_x, task.query_x]), stat_rows=rows)[rows:]
    raise ValueError(f"bn_mode={bn_mode!r} is neither transductive nor support")
