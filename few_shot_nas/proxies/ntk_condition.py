"""Condition number of the tangent kernel: how evenly gradient descent learns the images."""

import torch
from torch import nn

from few_shot_nas.kernels.ntk import ntk
from few_shot_nas.kernels.spectrum import condition_number
from few_shot_nas.nn.group_norm import group_normalised
from few_shot_nas.proxies.proxy import Proxy, ScoredTask

#: Groups of channels that are normalised together.
GROUPS = 4


def ntk_condition(net: nn.Module, task: ScoredTask) -> float:
    """Logarithm of the condition number of the NTK of the support images; lower is better. Needs no labels.

    The kernel is that of the summed logits by the weights of convolutions and linear layers. Batch normalisation is
    replaced by group normalisation of :data:`GROUPS` groups, as in MetaNTK-NAS (16 there): with the statistics of the
    batch the logits of a network that ends in a normalisation have a constant sum over the batch, and the kernel is
    singular whatever the architecture. So it is with one channel a group, where the mean over the pixels is constant.

    Source: Chen et al., ICLR 2021, arXiv:2102.11535, section 3.1.1. Deviations: group normalisation; scales of
    normalisation layers are left out (there every parameter named weight counts); a spectrum that rounding decides
    counts as the worst.
    """
    images, net = task.support_x, group_normalised(net, GROUPS)
    return condition_number(ntk(net, net.modules(), images), eps=torch.finfo(images.dtype).eps).log


NTK_CONDITION = Proxy(ntk_condition, higher_is_better=False)
