"""Gradients of the support loss by a network's weights: what several proxies are made of."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def weights_of(net: nn.Module) -> list[Tensor]:
    """Return the weights of the convolutions and linear layers, in the order of the layers; no biases, no norms."""
    return [layer.weight for layer in net.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]


def loss_gradients(
    net: nn.Module, images: Tensor, labels: Tensor, params: Iterable[Tensor], *, create_graph: bool = False
) -> list[Tensor]:
    """Gradients of the mean cross-entropy of ``net`` on labelled images; zeros for a parameter without effect."""
    params = list(params)
    loss = F.cross_entropy(net(images), labels)
    found = torch.autograd.grad(loss, params, create_graph=create_graph, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(params, found, strict=True)]
