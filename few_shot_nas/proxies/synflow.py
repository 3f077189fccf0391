"""SynFlow: the product of all weights along all paths."""

import math
import sys

import torch
from torch import nn

from few_shot_nas.nn.norm import BatchNorm2d
from few_shot_nas.proxies.gradients import weights_of
from few_shot_nas.proxies.proxy import Proxy, ScoredTask


def synflow(net: nn.Module, task: ScoredTask) -> float:
    """Logarithm of ``sum w * dR/dw`` with ``R = sum of the logits``, absolute weights, an image of ones and no norm.

    Source: Tanaka et al., NeurIPS 2020, arXiv:2006.05467, equation 2, summed over a network as in Abdelfattah et al.,
    ICLR 2021, arXiv:2101.08134, equation 1. Batch normalisation is taken out, as there. Deviations: float64, and the
    logarithm, because the products overflow; biases are zero, so that every term is a path from the input.

    A network without a path from the image to the logits scores the logarithm of the least positive number.
    """
    net = net.double()
    for name, layer in list(net.named_modules()):
        if isinstance(layer, (BatchNorm2d, nn.BatchNorm2d)):
            net.set_submodule(name, nn.Identity())
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.copy_(parameter.abs() if not name.endswith("bias") else torch.zeros_like(parameter))
    weights = weights_of(net)
    out = net(torch.ones_like(task.support_x[:1], dtype=torch.double))
    gradients = torch.autograd.grad(out.sum(), weights, allow_unused=True)
    flow = sum(float((g * w.detach()).sum()) for g, w in zip(gradients, weights, strict=True) if g is not None)
    return math.log(max(flow, sys.float_info.min))


SYNFLOW = Proxy(synflow)
