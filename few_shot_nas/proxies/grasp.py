"""GraSP: how removing each weight would change the flow of gradients."""

import torch
from torch import nn

from few_shot_nas.proxies.gradients import loss_gradients, weights_of
from few_shot_nas.proxies.proxy import Proxy, ScoredTask


def grasp(net: nn.Module, task: ScoredTask) -> float:
    """``-sum (H g) * w`` over the weights of convolutions and linear layers; ``g`` and ``H`` of the support loss.

    Source: Wang et al., ICLR 2020, arXiv:2002.07376, equation 8, summed as in Abdelfattah et al., ICLR 2021,
    arXiv:2101.08134, equation 1. ``H g`` is half the gradient of ``g . g``: one backward pass through a backward pass.
    Deviation: no temperature divides the logits (GraSP's code takes 200).
    """
    weights = weights_of(net)
    gradients = loss_gradients(net, task.support_x, task.support_y, weights, create_graph=True)
    squared = torch.stack([g.square().sum() for g in gradients]).sum() / 2
    products = torch.autograd.grad(squared, weights, allow_unused=True)
    return -sum(float((p * w.detach()).sum()) for p, w in zip(products, weights, strict=True) if p is not None)


GRASP = Proxy(grasp)
