"""Norm of the gradient."""

from torch import nn

from few_shot_nas.proxies.gradients import loss_gradients, weights_of
from few_shot_nas.proxies.proxy import Proxy, ScoredTask


def grad_norm(net: nn.Module, task: ScoredTask) -> float:
    """Sum over the layers of the Euclidean norm of the support loss's gradient by the layer's weight.

    Source: Abdelfattah et al., ICLR 2021, arXiv:2101.08134, section 3.1; as in their code, a sum of norms and not the
    norm of all.
    """
    return sum(float(g.norm()) for g in loss_gradients(net, task.support_x, task.support_y, weights_of(net)))


GRAD_NORM = Proxy(grad_norm)
