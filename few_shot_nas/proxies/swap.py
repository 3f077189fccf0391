"""SWAP: how many different ways of sorting the images a network's units have."""

from torch import nn

from few_shot_nas.kernels.activation_codes import activation_codes
from few_shot_nas.kernels.linear_regions import distinct_rows
from few_shot_nas.proxies.proxy import Proxy, ScoredTask


def swap(net: nn.Module, task: ScoredTask) -> float:
    """Number of different patterns over the images among all units: a unit's pattern says which images switch it on.

    Needs no labels. At most ``2^S`` for S images, so that it tells large networks apart with many images only. Source:
    Peng et al., ICLR 2024, arXiv:2403.04161, definition 3.2; without their regularisation by size.
    """
    return distinct_rows(activation_codes(net, task.support_x).T)


SWAP = Proxy(swap)
