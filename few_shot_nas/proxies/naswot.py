"""NASWOT: how differently a network's ReLUs treat the images of a batch."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from few_shot_nas.kernels.activation_codes import activation_codes
from few_shot_nas.seeding import derived_seed
from few_shot_nas.spaces.genotype import Genotype
from few_shot_nas.spaces.supernet import DerivedNetwork

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


def untrained_naswot(genotype: Genotype, supports: Sequence[Tensor], seed: int) -> float:
    """Mean of :func:`naswot` over support sets, each with a freshly initialised network of one architecture.

    A support set starts all architectures from the same seed, so that what they share (a stem) starts equal.

    Args:
        genotype: the architecture; no weights of a supernet are used.
        supports: images ``[S, C, H, W]`` of each support set.
        seed: of the initial weights.

    Raises:
        ValueError: if there is no support set, or the network has no ReLU.
    """
    if not supports:
        raise ValueError("untrained_naswot() needs a support set")
    scores = []
    for number, images in enumerate(supports):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, "naswot", number))
            # One way: the head has no ReLU.
            net = DerivedNetwork(1, images.shape[1], images.shape[-1], genotype)
        scores.append(naswot(net.to(images).features, images))
    return sum(scores) / len(scores)
