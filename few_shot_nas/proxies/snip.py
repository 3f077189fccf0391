"""SNIP: how much the loss would change if each weight were removed."""

from torch import nn

from few_shot_nas.proxies.gradients import loss_gradients, weights_of
from few_shot_nas.proxies.proxy import Proxy, ScoredTask


def snip(net: nn.Module, task: ScoredTask) -> float:
    """``sum |dL/dw * w|`` over the weights of convolutions and linear layers, ``L`` the support loss.

    Source: Lee et al., ICLR 2019, arXiv:1810.02340, equation 5, summed over a network as in Abdelfattah et al., ICLR
    2021, arXiv:2101.08134, equation 1.
    """
    weights = weights_of(net)
    gradients = loss_gradients(net, task.support_x, task.support_y, weights)
    return sum(float((g * w.detach()).abs().sum()) for g, w in zip(gradients, weights, strict=True))


SNIP = Proxy(snip)
