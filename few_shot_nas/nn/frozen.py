"""A network whose batch normalisation is a fixed map: what is left of it when the support set is given once."""

import copy
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from few_shot_nas.nn.norm import BatchNorm2d


def frozen(net: nn.Module, forward: Callable[[Any], object] | None) -> nn.Module:
    """Return a copy of ``net`` in which every :class:`BatchNorm2d` has fixed statistics.

    A query that the copy sees alone gets what it would get behind the images of ``forward`` with ``stat_rows``: the
    ``support`` way of normalising.

    Args:
        net: the network; stays as it is.
        forward: runs the network it gets on the images that give the statistics; None takes the running statistics.

    Raises:
        ValueError: without ``forward``, for a layer that keeps no running statistics.

    >>> from few_shot_nas.nn.norm import BatchNorm2d
    >>> net, support = nn.Sequential(BatchNorm2d(2)), torch.randn(6, 2, 3, 3)
    >>> torch.allclose(frozen(net, lambda copied: copied(support))(support), net(support), atol=1e-5)
    True
    """
    copied = copy.deepcopy(net).eval()
    layers = {name: layer for name, layer in copied.named_modules() if isinstance(layer, BatchNorm2d)}
    seen: dict[BatchNorm2d, tuple[Tensor, Tensor]] = {}
    if forward is None:
        for name, layer in layers.items():
            if not layer.keeps_running_statistics:
                raise ValueError(f"{name} keeps no running statistics; images are needed to fix its normalisation")
            mean, variance = layer.get_buffer("running_mean"), layer.get_buffer("running_var")
            seen[layer] = (mean[0], variance[0]) if mean.ndim == 2 else (mean, variance)  # of the first inner step
    else:
        handles = [layer.register_forward_pre_hook(_recorder(seen)) for layer in layers.values()]
        with torch.no_grad():
            forward(copied)
        for handle in handles:
            handle.remove()
    for name, layer in layers.items():
        if layer in seen:  # others are not on the path of this architecture
            parent, _, own = name.rpartition(".")
            # A bias before the layer was left out of the statistics of images, and is part of running ones.
            absorbs = forward is not None and layer.absorbs_bias()
            setattr(copied.get_submodule(parent), own, FixedBatchNorm2d(layer, *seen[layer], absorbs=absorbs))
    return copied


def _recorder(seen: dict[BatchNorm2d, tuple[Tensor, Tensor]]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def record(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not isinstance(layer, BatchNorm2d):
            raise TypeError(f"a hook for batch normalisation on {type(layer).__name__}")
        if layer in seen:
            raise ValueError("a batch normalisation runs twice in one pass and has no single set of statistics")
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
        seen[layer] = mean, variance

    return record


class FixedBatchNorm2d(BatchNorm2d):
    """A :class:`BatchNorm2d` that normalises every batch by the same statistics.

    Args:
        like: the layer to take the place of; of several inner steps, its scale and shift of the first.
        mean: per channel, ``[C]``.
        variance: per channel, ``[C]``.
        absorbs: whether the statistics are those of inputs to which the bias before the layer was not added.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, like: BatchNorm2d, mean: Tensor, variance: Tensor, *, absorbs: bool) -> None:
        super().__init__(like.num_features, like.eps, affine=False)
        weight, bias = like.scale_and_shift()
        scale = (variance + like.eps).rsqrt() if weight is None else (variance + like.eps).rsqrt() * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        self.register_buffer("scale", scale.detach().view(1, -1, 1, 1))
        self.register_buffer("shift", shift.detach().view(1, -1, 1, 1))
        self._absorbs = absorbs

    def absorbs_bias(self) -> bool:
        """Whether a bias before this layer is left out."""
        return self._absorbs

    def forward(
        self, x: Tensor, pool: bool = False, absorbed: Tensor | None = None, times: Tensor | None = None
    ) -> Tensor:
        """Normalise ``x [B, C, H, W]``, take a 2x2 max-pool of the result if ``pool``, and multiply it by ``times``."""
        out = torch.addcmul(self.shift, x, self.scale)
        out = functional.max_pool2d(out, 2) if pool else out
        return out if times is None else times * out


class Embedding(nn.Module):
    """The body of a network, its normalisation fixed: images ``[B, C, H, W]`` to features ``[B, D]``.

    Args:
        net: a network with ``features``; stays as it is.
        support_x: images ``[S, C, H, W]`` whose statistics normalise all others; None takes running statistics.
        **inputs: further keyword inputs of the network, e.g. ``genotype``.

    Raises:
        ValueError: if a layer needs images and there are none.
    """

    def __init__(self, net: nn.Module, support_x: Tensor | None, **inputs: Any) -> None:
        super().__init__()
        self.inputs = inputs
        self.net = frozen(net, None if support_x is None else lambda copied: copied.features(support_x, **inputs))

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` to features ``[B, D]``."""
        return cast(Any, self.net).features(images, **self.inputs)
