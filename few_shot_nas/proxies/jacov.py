"""Jacobian covariance: how differently a network reacts to small changes of different images."""

import torch
from torch import nn

from few_shot_nas.proxies.proxy import Proxy, ScoredTask

#: Keeps the score finite where images react alike; k of the paper.
K = 1e-5


def jacov(net: nn.Module, task: ScoredTask) -> float:
    """``-sum_i (log(v_i + k) + 1 / (v_i + k))``, ``v`` the eigenvalues of the correlation of the images' gradients.

    The gradient of an image is that of the sum of all logits by its pixels. Needs no labels. Source: Mellor et al.,
    first version of arXiv:2006.04647, section 4. Deviation: eigenvalues of a symmetric matrix, float64.
    """
    images = task.support_x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(images).sum(), images, allow_unused=True, materialize_grads=True)
    values = torch.linalg.eigvalsh(torch.corrcoef(gradient.flatten(1).double()).nan_to_num())
    shifted = values.clamp(min=0) + K
    return -float((shifted.log() + 1 / shifted).sum())


JACOV = Proxy(jacov)
