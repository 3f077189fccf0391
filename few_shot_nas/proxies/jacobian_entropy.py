"""Entropy of the Jacobian's spectrum: over how many directions of the weights the images spread."""

import torch
from torch import nn

from few_shot_nas.kernels.ntk import ntk
from few_shot_nas.nn.group_norm import group_normalised
from few_shot_nas.proxies.ntk_condition import GROUPS
from few_shot_nas.proxies.proxy import Proxy, ScoredTask


def jacobian_entropy(net: nn.Module, task: ScoredTask) -> float:
    """``-sum_k p_k log p_k`` in nats, ``p_k`` the share of the k-th eigenvalue of ``J J^T`` in their sum.

    Row n of ``J`` is the derivative of the summed logits of support image n by the weights of convolutions and linear
    layers, so that ``J J^T`` is the tangent kernel of :func:`few_shot_nas.kernels.ntk.ntk`. Needs no labels. 0 where
    all images move the weights alike, ``log S`` where no two of the S images have a direction in common.

    Source: Kang, ICML 2025 (IBFS), equations 9 and 10, which define ``J`` by the weights and the score as the entropy
    ``-sum_k p(lambda_k) log p(lambda_k)`` over its spectrum, up to a factor. They were read in summaries of the paper,
    not in its text, and leave open what follows, which is chosen here: ``lambda`` are the eigenvalues of ``J J^T``, for
    ``J`` is not square; ``p`` is their share in the sum; the output is the sum of the logits; batch normalisation is
    replaced by group normalisation as in :mod:`few_shot_nas.proxies.ntk_condition`.
    """
    images, net = task.support_x, group_normalised(net, GROUPS)
    values = torch.linalg.eigvalsh(ntk(net, net.modules(), images)).clamp(min=0)
    # A network without derivatives has a spectrum of zeros: no direction, no entropy.
    shares = (values / values.sum()).nan_to_num()
    return float(torch.special.entr(shares).sum())


JACOBIAN_ENTROPY = Proxy(jacobian_entropy)
