"""The two controls of every table of proxies: how large a network is."""

from torch import nn

from few_shot_nas.nn.cost import count_macs, count_parameters
from few_shot_nas.proxies.proxy import Proxy, ScoredTask


def parameters(net: nn.Module, task: ScoredTask) -> float:
    """Number of parameters. No earlier proxy beats it consistently, says the abstract of ZiCo (arXiv:2301.11300)."""
    return count_parameters(net)


def macs(net: nn.Module, task: ScoredTask) -> float:
    """Multiply-accumulates of a forward pass on one image of the task's size."""
    return count_macs(net, task.support_x.shape[1], task.support_x.shape[-1])


PARAMS = Proxy(parameters)
MACS = Proxy(macs)
