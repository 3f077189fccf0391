"""NASWOT: how differently a network's ReLUs treat the images of a batch."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from few_shot_nas.kernels.activation_codes import activation_codes
from few_shot_nas.proxies.proxy import Proxy, ScoredTask

#: Added to the diagonal: two images with the same code give a low score instead of minus infinity.
_JITTER = 1e-6


def naswot(forward: Callable[[Tensor], Tensor], images: Tensor) -> float:
    """Logarithm of the determinant of the kernel ``K_ij = units - hamming(code_i, code_j)``, in nats.

    A code is the pattern of active units of all ReLUs for one image, at the weights as they are. Higher is better: an
    architecture that tells the images apart already is easier to train. Needs no labels. Grows with the number of
    units, so it favours large architectures.

    Source: Mellor et al., ICML 2021, arXiv:2006.04647, equations 2 and 3. Deviation: 1e-6 on the diagonal.

    Args:
        forward: the network, which must call ReLU on batches ``[B, ...]``; nothing is differentiated or modified.
        images: ``[B, C, H, W]``.

    Raises:
        ValueError: if no ReLU ran.
    """
    active = activation_codes(forward, images).double()
    idle = 1 - active
    kernel = active @ active.T + idle @ idle.T + _JITTER * torch.eye(len(active)).to(active)
    return float(torch.linalg.slogdet(kernel).logabsdet)


def of_support(net: nn.Module, task: ScoredTask) -> float:
    """:func:`naswot` of the support images."""
    return naswot(net, task.support_x)


NASWOT = Proxy(of_support)
