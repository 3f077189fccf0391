"""Random crops, flips and colours of the images of a task: drawn beside its plan, applied where the images are.

What is drawn is a pure function of (seed, split, task id), as the task itself; the numbers are drawn on the CPU and
travel with the plan, so that a GPU sees the same pictures. The recipe is that of RFS (Tian et al. 2020): a crop of the
padded image, colour jitter, horizontal flip.
"""

import zlib
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

Augment = Literal["none", "crop_flip", "crop_flip_jitter"]
AUGMENTS: tuple[Augment, ...] = ("none", "crop_flip", "crop_flip_jitter")
JITTER = 0.4  # factors are uniform in 1 - JITTER .. 1 + JITTER

_GREY = (0.299, 0.587, 0.114)  # ITU-R 601: how much red, green and blue count


class Augmentation(NamedTuple):
    """What happens to each of B images.

    Attributes:
        top: rows by which the crop's window lies below the top of the padded image, ``[B]`` int64 in 0..2*padding.
        left: columns, likewise.
        flip: whether the crop is mirrored left to right, ``[B]`` bool.
        jitter: factors for brightness, contrast and saturation, ``[B, 3]`` float32; None where none changes.

    Stacked, the tensors have a leading axis M.
    """

    top: Tensor
    left: Tensor
    flip: Tensor
    jitter: Tensor | None


def padding(size: int) -> int:
    """Return the pixels of black put on each side before cropping: 8 at 84 pixels and 4 at 32, as RFS has it."""
    return -(-2 * size // 21)


def draw_augmentation(
    kind: Augment, *, count: int, image_size: int, seed: int, split_name: str, task_id: int
) -> Augmentation | None:
    """Draw what happens to each image of a task; None for ``none``.

    Args:
        kind: ``crop_flip`` draws windows and mirrors, ``crop_flip_jitter`` colours too.
        count: number of images B, support and query; each gets its own draw.
        image_size: height and width in pixels.
        seed: of the stream of tasks.
        split_name: the task's split.
        task_id: the task within its split.
    """
    if kind == "none":
        return None
    # A stream of its own: the task is the same one with and without augmentation.
    words = (seed, zlib.crc32(split_name.encode()), task_id, zlib.crc32(b"augment"))
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))
    top, left = rng.integers(2 * padding(image_size) + 1, size=(2, count))
    flip = rng.random(count) < 0.5
    factors = rng.uniform(1 - JITTER, 1 + JITTER, size=(count, 3)).astype(np.float32)
    return Augmentation(
        torch.from_numpy(top),
        torch.from_numpy(left),
        torch.from_numpy(flip),
        torch.from_numpy(factors) if kind == "crop_flip_jitter" else None,
    )


def stack_augmentations(augmentations: list[Augmentation]) -> Augmentation:
    """Put those of M tasks together: every tensor gets a leading axis M."""
    top, left, flip, jitter = zip(*augmentations, strict=True)
    return Augmentation(
        torch.stack(top), torch.stack(left), torch.stack(flip), None if jitter[0] is None else torch.stack(jitter)
    )


def part_of(augmentation: Augmentation, images: slice) -> Augmentation:
    """Return what happens to some of the images of M tasks, those of all tasks in one row."""
    top, left, flip = (field[:, images].flatten() for field in augmentation[:3])
    jitter = augmentation.jitter
    return Augmentation(top, left, flip, None if jitter is None else jitter[:, images].flatten(0, 1))


def crop_and_flip(pixels: Tensor, augmentation: Augmentation) -> Tensor:
    """Return, for each image, its window of the image padded with black, mirrored where it says so.

    Args:
        pixels: ``[B, H, W, C]`` of any type, on the device of ``augmentation``.
        augmentation: of these B images.
    """
    height, width = pixels.shape[1:3]
    rows = augmentation.top[:, None] + torch.arange(height, device=pixels.device) - padding(height)
    columns = torch.arange(width, device=pixels.device).expand(len(pixels), width)
    columns = torch.where(augmentation.flip[:, None], width - 1 - columns, columns)
    columns = augmentation.left[:, None] + columns - padding(width)
    inside = ((0 <= rows) & (rows < height))[:, :, None] & ((0 <= columns) & (columns < width))[:, None, :]
    image = torch.arange(len(pixels), device=pixels.device)[:, None, None]
    window = pixels[image, rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None, :]]
    return window * inside[..., None]


def colour_jitter(x: Tensor, factors: Tensor) -> Tensor:
    """Change brightness, contrast and saturation in this order; torchvision draws the order afresh for every image.

    Each blends the image with another by its factor, 1 leaving it as it is: with black, with its mean grey, with its
    own grey picture. Values are kept in 0..255 after each.

    Args:
        x: float ``[B, C, H, W]`` in 0..255, C = 1 or 3; grey images have no saturation to change.
        factors: ``[B, 3]``.
    """
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(dim=1)
    x = (x * brightness).clamp_(0, 255)
    mean = _grey(x).mean(dim=(1, 2, 3), keepdim=True)
    x = torch.lerp(mean, x, contrast).clamp_(0, 255)
    return torch.lerp(_grey(x), x, saturation).clamp_(0, 255) if x.shape[1] == 3 else x


def _grey(x: Tensor) -> Tensor:
    """Return the grey picture ``[B, 1, H, W]``."""
    if x.shape[1] == 1:
        return x
    return (x * torch.tensor(_GREY, device=x.device, dtype=x.dtype).view(3, 1, 1)).sum(dim=1, keepdim=True)
