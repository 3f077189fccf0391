"""ZiCo: gradients that are large and differ little from batch to batch."""

import math

import torch
from torch import nn

from few_shot_nas.errors import InputError
from few_shot_nas.proxies.gradients import loss_gradients, weights_of
from few_shot_nas.proxies.proxy import Proxy, ScoredTask


def zico(net: nn.Module, task: ScoredTask) -> float:
    """``sum_l log sum_w mean |g_w| / std |g_w|`` over the layers l and their weights w.

    Mean and standard deviation (that of the population) are over batches: the support images in the order of their
    labels, dealt out to two batches in turn. Weights whose gradients do not differ are left out, and layers without
    any other weight. Source: Li et al., ICLR 2023, arXiv:2301.11300, equation 15. Deviation: two batches of half a
    support set, where the paper takes two of 128 images.

    Raises:
        InputError: if there are fewer than four images.
    """
    order = torch.argsort(task.support_y, stable=True)
    if len(order) < 4:
        raise InputError(f"zico: {len(order)} support images given, two batches of two are needed; raise k_shot")
    weights = weights_of(net)
    parts = (order[::2], order[1::2])
    batches = [loss_gradients(net, task.support_x[part], task.support_y[part], weights) for part in parts]
    score = 0.0
    for layer in zip(*batches, strict=True):
        sizes = torch.stack(layer).abs()
        spread = sizes.std(dim=0, correction=0)
        ratio = float((sizes.mean(dim=0) / spread)[spread > 0].sum())
        score += math.log(ratio) if ratio > 0 else 0.0
    return score


ZICO = Proxy(zico)
