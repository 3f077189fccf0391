"""2x2 windows of the images of many tasks: the pixel that a max-pool takes, where it was, and the way back."""

import torch
from torch import Tensor
from torch._C import _functorch as functorch
from torch.nn import functional as F


def pooled_towards(x: Tensor, scale: Tensor) -> Tensor:
    """Take the pixel of every 2x2 window that ``shift + scale x`` makes the largest: the pool before the scaling.

    Both orders give the same bits, because rounding keeps the order of numbers.

    Args:
        x: ``[G, B, H, W, C]``.
        scale: ``[G, 1, 1, 1, C]``.

    Returns:
        ``[G, B, H // 2, W // 2, C]``.

    Example:
        >>> x, scale = torch.randn(1, 4, 6, 6, 2), torch.tensor([2.0, -3.0]).view(1, 1, 1, 1, 2)
        >>> torch.equal(scale * pooled_towards(x, scale), pooled_towards(scale * x, scale.abs()))
        True
    """
    # Looking costs a pass less than multiplying; a GPU would have to be waited for, and transformations cannot look.
    looks = x.device.type == "cpu" and functorch.get_interpreter_stack() is None
    if looks and not bool((scale < 0).any()):
        return _pooled(x)
    sign = torch.where(scale < 0, -1.0, 1.0).to(x.dtype)
    return _pooled(x * sign) * sign


def _pooled(x: Tensor) -> Tensor:
    return F.max_pool2d(x.flatten(0, 1).permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1).unflatten(0, x.shape[:2])


def largest(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest pixel of every window of ``[G, B, H, W, C]``, and its place in the image; the first of equals.

    Returns:
        ``[G, B, H // 2, W // 2, C]`` each; a place is the row times W plus the column, int64.

    Example:
        >>> x = torch.tensor([1.0, 4.0, 3.0, 2.0]).view(1, 1, 2, 2, 1)
        >>> pooled, place = largest(x)
        >>> pooled.item(), place.item()
        (4.0, 1)
    """
    pooled, place = F.max_pool2d(x.flatten(0, 1).permute(0, 3, 1, 2), 2, return_indices=True)
    shape = (*x.shape[:2], *pooled.shape[2:], x.shape[4])
    return pooled.permute(0, 2, 3, 1).reshape(shape), place.permute(0, 2, 3, 1).reshape(shape)


def spread(x: Tensor, pooled: Tensor, place: Tensor) -> Tensor:
    """Add ``pooled`` to the pixels of ``x`` at these places, in place. No two windows share a pixel.

    Example:
        >>> x = torch.tensor([1.0, 4.0, 3.0, 2.0]).view(1, 1, 2, 2, 1)
        >>> pooled, place = largest(x)
        >>> spread(torch.zeros_like(x), pooled, place).flatten().tolist()
        [0.0, 4.0, 0.0, 0.0]
    """
    x.flatten(2, 3).scatter_add_(2, place.flatten(2, 3), pooled.flatten(2, 3))
    return x


def picked(x: Tensor, place: Tensor) -> Tensor:
    """Return the pixels of ``x`` at these places: the transpose of :func:`spread`.

    Example:
        >>> x = torch.tensor([1.0, 4.0, 3.0, 2.0]).view(1, 1, 2, 2, 1)
        >>> picked(10 * x, largest(x)[1]).item()
        40.0
    """
    return x.flatten(2, 3).gather(2, place.flatten(2, 3)).view(place.shape)
