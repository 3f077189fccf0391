"""From uint8 pixels to what a network takes."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from few_shot_nas.data.augment import Augmentation, augment


def planes(pixels: Tensor, how: Augmentation | None = None) -> Tensor:
    """Return uint8 ``[B, H, W, C]`` as float32 ``[B, C, H, W]`` in 0..255, contiguous, augmented if ``how`` says so."""
    if how is not None:
        return augment(pixels, how)
    return pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)


def normalise(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return ``(x / 255 - mean) / std`` per channel of float ``[B, C, H, W]``, in place, in few passes."""
    if any(mean):
        x.sub_(_scaled(tuple(mean), x.device))
    return x.div_(_scaled(tuple(std), x.device))


@lru_cache
def _scaled(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return ``255 * values`` per channel, made once: to send even three numbers to a GPU is to wait for it."""
    return 255 * torch.tensor(values, device=device).view(-1, 1, 1)
