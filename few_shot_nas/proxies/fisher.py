"""Fisher: how much the loss would change if each channel were removed."""

import torch
import torch.nn.functional as F
from torch import nn

from few_shot_nas.kernels.ntk import taps
from few_shot_nas.proxies.proxy import Proxy, ScoredTask


def fisher(net: nn.Module, task: ScoredTask) -> float:
    """``sum_c mean_n (sum_hw z * dL/dz)^2 / 2`` over the channels of the outputs ``z`` of all convolutions.

    ``L`` is the sum of the support images' losses, so that ``dL/dz_n`` is that of an image's own loss but for batch
    statistics. Source: Theis et al., 2018, arXiv:1801.05787, equation 5, as a score of networks in Turner et al., ICLR
    2020, arXiv:1906.04113, and Abdelfattah et al., ICLR 2021, arXiv:2101.08134. Deviation from the code of the
    last: only convolutions, because the logits' channels cannot be removed.
    """
    logits, calls = taps(net, (m for m in net.modules() if isinstance(m, nn.Conv2d)), task.support_x)
    outs = [call.out for call in calls]
    loss = F.cross_entropy(logits, task.support_y, reduction="sum")
    found = torch.autograd.grad(loss, outs, allow_unused=True) if outs else ()
    pairs = [(z.detach(), g) for z, g in zip(outs, found, strict=True) if g is not None]
    return sum(float((z * g).flatten(2).sum(2).square().mean(0).sum()) / 2 for z, g in pairs)


FISHER = Proxy(fisher)
