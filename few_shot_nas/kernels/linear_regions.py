"""How many linear regions of a network a pool of inputs falls into."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from few_shot_nas.kernels.activation_codes import activation_codes


def distinct_rows(codes: Tensor) -> int:
    """Number of different rows of booleans ``[B, units]``.

    Example:
        >>> distinct_rows(torch.tensor([[True, False], [True, True], [True, False]]))
        2
    """
    packed = np.ascontiguousarray(np.packbits(codes.cpu().numpy(), axis=1))
    return len(np.unique(packed.view(np.dtype((np.void, packed.shape[1])))))


def linear_regions(forward: Callable[[Tensor], Tensor], pool: Tensor, batch: int = 1000) -> int:
    """Number of linear regions of a network that the inputs of a pool fall into.

    Inputs with the same activation code share a region. It is at most the size of the pool, so inputs must be few
    numbers: on whole images every architecture reaches the maximum.

    Source: Chen et al., ICLR 2021 (TE-NAS), arXiv:2102.11535, section 3.1.2; MetaNTK-NAS counts the same. Deviation:
    distinct codes are counted by sorting them; the released code multiplies all pairs in half precision.

    Args:
        forward: the network, at the weights at which its regions are to be counted.
        pool: inputs ``[P, C, H, W]``, as :func:`crop_pool` makes them.
        batch: inputs of one pass. Batch statistics are taken over these.

    Raises:
        ValueError: if no ReLU ran.

    Example:
        Two ReLUs with kinks at -1 and 1 cut a line into three regions.

        >>> line = torch.linspace(-2, 2, 41).unsqueeze(1)
        >>> linear_regions(lambda x: torch.relu(torch.cat([x - 1, x + 1], dim=1)), line)
        3
    """
    return distinct_rows(torch.cat([activation_codes(forward, part) for part in pool.split(batch)]))


def crop_pool(images: Tensor, count: int, generator: torch.Generator, *, resize: int = 32, size: int = 3) -> Tensor:
    """Draw small crops of one channel from images: the inputs on which linear regions are counted.

    Each input is a random image, resized to ``resize`` pixels, a random crop of ``size`` pixels of it, and of that a
    random channel: what the data loader of TE-NAS and MetaNTK-NAS gives (without its flips). Drawn once, a pool serves
    all candidates of a search.

    Args:
        images: ``[n, C, H, W]``, normalised.
        count: crops to draw.
        generator: a CPU stream; nothing else is random.
        resize: height and width to which the images are brought first.
        size: height and width of a crop.

    Returns:
        ``[count, 1, size, size]``.

    Example:
        >>> crop_pool(torch.zeros(2, 3, 40, 40), 5, torch.Generator().manual_seed(0)).shape
        torch.Size([5, 1, 3, 3])
    """
    small = F.interpolate(images, (resize, resize), mode="bilinear", antialias=True)
    image, channel, top, left = (
        torch.randint(limit, (count, 1, 1), generator=generator).to(images.device)
        for limit in (*small.shape[:2], resize - size + 1, resize - size + 1)
    )
    steps = torch.arange(size, device=images.device)
    return small[image, channel, top + steps.view(1, -1, 1), left + steps.view(1, 1, -1)].unsqueeze(1)
