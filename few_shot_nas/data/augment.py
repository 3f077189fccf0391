"""Random crop, flip and colour jitter of a batch of images, the random numbers apart from the pixels.

Drawing is a pure function of its words, so that an image is changed in the same way in any worker, on any rank and
after a resume; the numbers are drawn on the CPU and travel with the plan. Applying is plain tensor code and runs where
the images are. The recipe is that of RFS (Tian et al., ECCV 2020): a crop of the padded image, colour jitter of 0.4 in
brightness, contrast and saturation, in an order drawn for every image as torchvision does, and a flip with probability
one half.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from few_shot_nas.seeding import derived_seed

Augment = Literal["none", "crop_flip", "crop_flip_jitter"]
AUGMENTS: tuple[Augment, ...] = ("none", "crop_flip", "crop_flip_jitter")
JITTER = 0.4  # factors are uniform in 1 - JITTER .. 1 + JITTER

_GREY = (0.2989, 0.587, 0.114)  # how much red, green and blue count, rounded as torchvision rounds ITU-R 601


class Augmentation(NamedTuple):
    """What happens to each of B images.

    Attributes:
        top: first row of the crop in the padded image, ``[B]`` int64 in 0..2*padding.
        left: first column, likewise.
        flip: whether left and right are exchanged after the crop, ``[B]`` bool.
        factors: of brightness, contrast and saturation, ``[B, 3]`` float32, 1 changing nothing; None leaves colours.
        order: in which these three come, ``[B, 3]`` int64; None as ``factors``.

    :func:`stack_augmentations` puts those of M tasks together; the tensors then have a leading axis M.
    """

    top: Tensor
    left: Tensor
    flip: Tensor
    factors: Tensor | None
    order: Tensor | None

    def part(self, images: np.ndarray) -> "Augmentation":
        """Return what happens to these images of the batch."""
        index = torch.from_numpy(images)
        return self._each(lambda field: field[index])

    def in_one_row(self, images: slice) -> "Augmentation":
        """Return what happens to some of the images of each of M tasks, those of all tasks in one row."""
        return self._each(lambda field: field[:, images].flatten(0, 1))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Augmentation":
        return Augmentation(*(None if field is None else change(field) for field in self))  # type: ignore[arg-type]


def stack_augmentations(augmentations: Sequence[Augmentation | None]) -> Augmentation | None:
    """Put those of M tasks together, all of one kind: every tensor gets a leading axis M. None stands for ``none``."""
    drawn = [one for one in augmentations if one is not None]
    if not drawn:
        return None
    fields = (None if field[0] is None else torch.stack(field) for field in zip(*drawn, strict=True))
    return Augmentation(*fields)  # type: ignore[arg-type]


def padding(size: int) -> int:
    """Return the pixels of black put on each side before cropping: 8 at 84 pixels and 4 at 32, as RFS has it."""
    return -(-2 * size // 21)


def draw_augmentation(kind: Augment, count: int, image_size: int, *words: int | str) -> Augmentation | None:
    """Draw what happens to each of ``count`` images; None for ``none``.

    Args:
        kind: ``crop_flip`` draws windows and flips, ``crop_flip_jitter`` the same ones and colours too.
        count: number of images B; each gets its own draw.
        image_size: their height and width.
        *words: name the random stream, e.g. (seed, "flat augmentation", step). Nothing else is drawn from it, so that
            which images are taken does not depend on whether they are augmented.
    """
    if kind == "none":
        return None
    rng = np.random.Generator(np.random.Philox(derived_seed(*words)))
    top, left = torch.from_numpy(rng.integers(2 * padding(image_size) + 1, size=(2, count)))
    flip = torch.from_numpy(rng.random(count) < 0.5)
    if kind == "crop_flip":
        return Augmentation(top, left, flip, None, None)
    factors = rng.uniform(1 - JITTER, 1 + JITTER, (count, 3)).astype(np.float32)
    order = rng.permuted(np.tile(np.arange(3), (count, 1)), axis=1)
    return Augmentation(top, left, flip, torch.from_numpy(factors), torch.from_numpy(order))


def augment(pixels: Tensor, how: Augmentation) -> Tensor:
    """Crop, flip and jitter.

    Args:
        pixels: uint8 ``[B, H, H, C]``, C = 1 or 3; grey images have no saturation to change.
        how: for each of the B images, on the same device.

    Returns:
        float32 ``[B, C, H, H]``, contiguous, in 0..255.
    """
    x = _crop_and_flip(pixels, how).permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    if how.factors is None or how.order is None:
        return x
    return _jitter(x, how.factors, how.order)


def _crop_and_flip(pixels: Tensor, how: Augmentation) -> Tensor:
    """Return, for each image, its window of the image padded with black, mirrored where it says so."""
    count, height, width, _ = pixels.shape
    p = padding(height)
    padded = torch.nn.functional.pad(pixels, (0, 0, p, p, p, p))
    rows = how.top.unsqueeze(1) + torch.arange(height, device=pixels.device)
    offsets = torch.arange(width, device=pixels.device).expand(count, -1)
    columns = how.left.unsqueeze(1) + torch.where(how.flip.unsqueeze(1), width - 1 - offsets, offsets)
    image = torch.arange(count, device=pixels.device).view(-1, 1, 1)
    return padded[image, rows.unsqueeze(2), columns.unsqueeze(1)]


def _jitter(x: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Blend each image with black, with its mean grey and with its grey picture, in its own order.

    Values are kept in 0..255 after each.
    """
    for place in range(3):
        kind = order[:, place]
        factor = factors.gather(1, kind.unsqueeze(1)).view(-1, 1, 1, 1)
        kind = kind.view(-1, 1, 1, 1)
        grey = _grey(x)
        other = torch.where(kind == 2, grey, grey.mean(dim=(2, 3), keepdim=True) * (kind == 1))
        x = (factor * x + (1 - factor) * other).clamp_(0, 255)
    return x


def _grey(x: Tensor) -> Tensor:
    """Return the grey pictures ``[B, 1, H, W]``."""
    if x.shape[1] == 1:
        return x
    return (x * torch.tensor(_GREY, device=x.device).view(3, 1, 1)).sum(dim=1, keepdim=True)
