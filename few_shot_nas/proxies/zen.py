"""Zen-score: how much the features of a network with Gaussian weights change with its input."""

import torch
from torch import nn

from few_shot_nas.nn.norm import BatchNorm2d
from few_shot_nas.proxies.gradients import weights_of
from few_shot_nas.proxies.proxy import Proxy, ScoredTask

#: Images of noise, and the size of the change between them.
IMAGES, CHANGE = 16, 0.01


def zen(net: nn.Module, task: ScoredTask) -> float:
    """``log E |f(x) - f(x + 0.01 e)| + sum_l log sqrt(mean_c var_lc)`` with Gaussian weights, images and changes.

    ``var_lc`` is the variance that batch normalisation l divides channel c by; the sum gives back the scale that it
    takes away. No image and no label of the task is used, only their shape. Source: Lin et al., ICCV 2021,
    arXiv:2102.01063, algorithm 1. Deviations: ``f`` are the features after the last pooling (there before); 16 images.

    Raises:
        ValueError: if the network has no batch normalisation.
    """
    variances: list[torch.Tensor] = []

    def record(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        variances.append(inputs[0].var(dim=(0, 2, 3), correction=0).mean())

    for weight in weights_of(net):
        nn.init.normal_(weight)
    images = torch.randn(IMAGES, *task.support_x.shape[1:]).to(task.support_x)
    changed = images + CHANGE * torch.randn(images.shape).to(images)
    layers = [layer for layer in net.modules() if isinstance(layer, BatchNorm2d)]
    with torch.no_grad():
        handles = [layer.register_forward_pre_hook(record) for layer in layers]
        before = net.features(images)  # type: ignore[operator]
        for handle in handles:
            handle.remove()
        change = (before - net.features(changed)).abs().mean()  # type: ignore[operator]
    if not variances:
        raise ValueError("zen needs a network with batch normalisation")
    # A network that ignores its images changes by nothing: a low score, and no infinity.
    least = torch.finfo(change.dtype).tiny
    scale = torch.stack(variances).clamp(min=least).log().sum() / 2
    return float(change.clamp(min=least).log() + scale)


ZEN = Proxy(zen)
