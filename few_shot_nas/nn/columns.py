"""Columns: what every position of a convolution's kernel sees, side by side, so that a matrix product convolves."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Geometry(NamedTuple):
    """How a convolution with square kernels moves over the image.

    Attributes:
        kernel: height and width of the kernel k.
        stride: pixels between two positions.
        padding: pixels of zeros around the image.
        dtype: what images and weights are rounded to before they are multiplied; None leaves them as they are.
    """

    kernel: int
    stride: int
    padding: int
    dtype: torch.dtype | None = None

    def size(self, pixels: int) -> int:
        """Return the height or width of the result."""
        return (pixels + 2 * self.padding - self.kernel) // self.stride + 1


def as_matrices(weight: Tensor) -> Tensor:
    """Return weights ``[G, O, C, k, k]`` as matrices ``[G, k * k * C, O]`` that multiply columns.

    Example:
        >>> as_matrices(torch.zeros(4, 16, 8, 3, 3)).shape
        torch.Size([4, 72, 16])
    """
    return weight.permute(0, 1, 3, 4, 2).flatten(2).mT


def unfold(x: Tensor, geometry: Geometry) -> Tensor:
    """Pixels ``[B, H, W, C]`` to what every position of the kernel sees, ``[B, H', W', k * k * C]``.

    Example:
        >>> unfold(torch.arange(4.0).view(1, 2, 2, 1), Geometry(2, 1, 0)).tolist()
        [[[[0.0, 1.0, 2.0, 3.0]]]]
    """
    k, s, p = geometry[:3]
    batch, height, width, channels = x.shape
    padded = F.pad(x, (0, 0, p, p, p, p)).contiguous()
    b, h, w, _ = padded.stride()
    # The pixels of a row of the kernel lie side by side.
    size = (batch, geometry.size(height), geometry.size(width), k, k * channels)
    return padded.as_strided(size, (b, s * h, s * w, h, 1)).reshape(*size[:3], -1)


def fold(columns: Tensor, geometry: Geometry, shape: torch.Size) -> Tensor:
    """The transpose of :func:`unfold`: add up what the positions say about each pixel, ``[B, H, W, C]``.

    Example:
        >>> x, columns = torch.randn(1, 5, 5, 2), torch.randn(1, 5, 5, 18)
        >>> one = (unfold(x, Geometry(3, 1, 1)) * columns).sum()
        >>> torch.allclose(one, (x * fold(columns, Geometry(3, 1, 1), x.shape)).sum(), atol=1e-4)
        True
    """
    k, s, p = geometry[:3]
    batch, height, width, channels = shape
    rows, cols = columns.shape[1:3]
    if columns.device.type != "cpu":  # one kernel for the nine below
        planes = columns.view(batch, rows * cols, k * k, channels).permute(0, 3, 2, 1).reshape(batch, -1, rows * cols)
        return F.fold(planes, (height, width), k, padding=p, stride=s).permute(0, 2, 3, 1).contiguous()
    parts, out = columns.view(batch, rows, cols, k, k, channels), columns.new_zeros(shape)
    for i in range(k):
        of_rows, on_rows = _meeting(i - p, s, rows, height)
        for j in range(k):
            of_cols, on_cols = _meeting(j - p, s, cols, width)
            out[:, on_rows, on_cols].add_(parts[:, of_rows, of_cols, i, j])
    return out


def _meeting(offset: int, stride: int, positions: int, pixels: int) -> tuple[slice, slice]:
    """Which of so many positions see a pixel of the image ``offset`` from their corner, and which pixels these are."""
    first, last = max(-(offset // stride), 0), min((pixels - 1 - offset) // stride, positions - 1)
    return slice(first, last + 1), slice(stride * first + offset, stride * last + offset + 1, stride)
