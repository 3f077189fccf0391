"""Random crop, flip and colour jitter of a batch of images, the random numbers apart from the pixels.

Drawing is a pure function of its words, so that an image is changed in the same way in any worker, on any rank and
after a resume. Applying is plain tensor code and runs where the images are.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from few_shot_nas.seeding import derived_seed

JITTER = 0.4
_GRAY = (0.2989, 0.587, 0.114)


class Augmentation(NamedTuple):
    """What happens to each of B images.

    Attributes:
        padding: black pixels added on every side before the crop.
        top: first row of the crop in the padded image, ``[B]`` int64 in 0..2*padding.
        left: first column of the crop, ``[B]`` int64.
        flip: whether left and right are exchanged after the crop, ``[B]`` bool.
        factors: of brightness, contrast and saturation, ``[B, 3]`` float32; 1 changes nothing.
        order: in which these three come, ``[B, 3]`` int64.
    """

    padding: int
    top: Tensor
    left: Tensor
    flip: Tensor
    factors: Tensor
    order: Tensor

    def part(self, rows: np.ndarray) -> "Augmentation":
        """Return what happens to these rows of the batch."""
        index = torch.from_numpy(rows)
        return Augmentation(self.padding, *(field[index] for field in self[1:]))


def join(parts: Sequence[Augmentation]) -> Augmentation:
    """Put the images of several batches one after another."""
    fields = zip(*(part[1:] for part in parts), strict=True)
    return Augmentation(parts[0].padding, *(torch.cat(field) for field in fields))


def draw_augmentation(count: int, image_size: int, *words: int | str) -> Augmentation:
    """Draw for ``count`` images the training transform of RFS (Tian et al., ECCV 2020).

    A crop of the image's own size after padding by 8 pixels (4 for images up to 32 pixels), a colour jitter of 0.4 in
    brightness, contrast and saturation in random order, a flip with probability one half.

    Args:
        count: number of images B.
        image_size: their height and width.
        *words: name the random stream, e.g. (seed, "flat", step).
    """
    rng = np.random.Generator(np.random.Philox(derived_seed(*words)))
    padding = 8 if image_size > 32 else 4
    corner = rng.integers(2 * padding + 1, size=(2, count))
    flip = rng.random(count) < 0.5
    factors = rng.uniform(1 - JITTER, 1 + JITTER, (count, 3)).astype(np.float32)
    order = rng.permuted(np.tile(np.arange(3), (count, 1)), axis=1)
    top, left = torch.from_numpy(corner)
    return Augmentation(padding, top, left, *(torch.from_numpy(array) for array in (flip, factors, order)))


def augment(pixels: Tensor, how: Augmentation) -> Tensor:
    """Crop, flip and jitter.

    Args:
        pixels: uint8 ``[B, H, W, 3]``.
        how: for each of the B images, on the same device.

    Returns:
        float32 ``[B, 3, H, W]``, contiguous, in 0..255.
    """
    return _jitter(_crop_and_flip(pixels, how).permute(0, 3, 1, 2).float().contiguous(), how)


def _crop_and_flip(pixels: Tensor, how: Augmentation) -> Tensor:
    count, height, width, _ = pixels.shape
    p = how.padding
    padded = torch.nn.functional.pad(pixels, (0, 0, p, p, p, p))
    rows = how.top.unsqueeze(1) + torch.arange(height, device=pixels.device)
    offsets = torch.arange(width, device=pixels.device).expand(count, -1)
    columns = how.left.unsqueeze(1) + torch.where(how.flip.unsqueeze(1), width - 1 - offsets, offsets)
    image = torch.arange(count, device=pixels.device).view(-1, 1, 1)
    return padded[image, rows.unsqueeze(2), columns.unsqueeze(1)]


def _jitter(x: Tensor, how: Augmentation) -> Tensor:
    """Blend each image with black, with its mean gray and with its gray picture, in its own order."""
    weights = torch.tensor(_GRAY, device=x.device).view(1, 3, 1, 1)
    for place in range(3):
        kind = how.order[:, place]
        factor = how.factors.gather(1, kind.unsqueeze(1)).view(-1, 1, 1, 1)
        gray = (x * weights).sum(dim=1, keepdim=True)
        kind = kind.view(-1, 1, 1, 1)
        other = torch.where(kind == 2, gray, gray.mean(dim=(2, 3), keepdim=True) * (kind == 1))
        x = (factor * x + (1 - factor) * other).clamp_(0, 255)
    return x
