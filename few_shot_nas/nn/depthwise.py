"""Depthwise convolutions whose derivatives are fast on CPUs.

The library's forward pass is fast. Its derivatives are not: with a dilation they take 5 to 60 times as long (torch
2.11, 16 channels of 21x21 pixels), and the derivative of a derivative is a loop over the channels. Here all of them are
convolutions of the fast kind, by identities:

- the gradient of the images is a convolution of the gradient with the kernel turned around;
- a stride is a convolution of stride 1 of which some pixels are left out, so its gradient has zeros between its pixels;
- stride and dilation 2 together see every second pixel only: an ordinary convolution of these pixels;
- the gradient of a kernel is a convolution of the images with the gradient as a kernel, whose stride is the dilation.

Convolution and gradient of the kernel are bilinear and each other's derivatives, so these two functions suffice for
derivatives of any order.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch._C import _functorch as functorch
from torch.nn import functional as F

aten = torch.ops.aten


class DepthwiseConv2d(nn.Conv2d):
    """A convolution of every channel with a square kernel of its own, without bias; it keeps the size at stride 1.

    Args:
        channels: channels C.
        kernel: height and width of the kernel, odd.
        stride: pixels between two positions.
        dilation: pixels between two places of the kernel.
    """

    def __init__(self, channels: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        padding = dilation * (kernel - 1) // 2
        super().__init__(
            channels, channels, kernel, stride, padding, dilation=dilation, groups=channels, bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x [B, C, H, W]``."""
        return depthwise(x, self.weight, self.stride[0], self.dilation[0])


def depthwise(x: Tensor, weight: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
    """Convolve every channel with its own kernel.

    On CPUs by the derivatives of this module; on other devices, and under transformations of ``torch.func``, by those
    of the library.

    Args:
        x: images ``[B, C, H, W]``.
        weight: kernels ``[C, 1, k, k]``, k odd.
        stride: pixels between two positions.
        dilation: pixels between two places of the kernel.

    Returns:
        ``[B, C, ceil(H / stride), ceil(W / stride)]``.

    Example:
        >>> x, weight = torch.randn(2, 3, 7, 7), torch.randn(3, 1, 3, 3)
        >>> reference = F.conv2d(x, weight, stride=2, padding=2, dilation=2, groups=3)
        >>> torch.allclose(depthwise(x, weight, stride=2, dilation=2), reference, atol=1e-5)
        True
    """
    if x.device.type != "cpu" or functorch.get_interpreter_stack() is not None:
        return _library(x, weight, stride, dilation)
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        x, weight = x.to(dtype), weight.to(dtype)
    if stride == dilation > 1:
        x, stride, dilation = _pixels_last(x[:, :, ::stride, ::stride]), 1, 1
    return _Depthwise.apply(x, weight, stride, dilation)


def _library(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    padding = dilation * (weight.shape[-1] - 1) // 2
    return F.conv2d(x, weight, None, stride, padding, dilation, groups=x.shape[1])


def _pixels_last(x: Tensor) -> Tensor:
    """Return the images in one piece of memory, the channels of a pixel side by side."""
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def _spread(g: Tensor, stride: int, rows: int, columns: int) -> Tensor:
    """Put zeros between the pixels of ``[B, C, h, w]``: ``[B, C, rows, columns]``."""
    batch, channels, height, width = g.shape
    pixels = g.permute(0, 2, 3, 1).reshape(batch, height, 1, width, 1, channels)
    wide = F.pad(pixels, (0, 0, 0, stride - 1, 0, 0, 0, stride - 1))
    return wide.reshape(batch, height * stride, width * stride, channels)[:, :rows, :columns].permute(0, 3, 1, 2)


class _Depthwise(torch.autograd.Function):
    """(x, weight) -> y."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.dilation = stride, dilation
        return _library(x, weight, stride, dilation)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        g = gradients[0] if ctx.stride == 1 else _spread(gradients[0], ctx.stride, *x.shape[2:])
        to_x = _Depthwise.apply(g, weight.flip(2, 3), 1, ctx.dilation) if ctx.needs_input_grad[0] else None
        to_weight = _ToKernel.apply(g, x, weight.shape[-1], ctx.dilation) if ctx.needs_input_grad[1] else None
        return to_x, to_weight, None, None


class _ToKernel(torch.autograd.Function):
    """(g, x) -> the gradient of the kernels at stride 1, g coming in."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, kernel: int, dilation: int) -> Tensor:
        ctx.save_for_backward(g, x)
        ctx.dilation = dilation
        return to_kernel(g, x, kernel, dilation)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        g, x = ctx.saved_tensors
        (weight,) = gradients
        to_g = _Depthwise.apply(x, weight, 1, ctx.dilation) if ctx.needs_input_grad[0] else None
        to_x = _Depthwise.apply(g, weight.flip(2, 3), 1, ctx.dilation) if ctx.needs_input_grad[1] else None
        return to_g, to_x, None, None


def to_kernel(g: Tensor, x: Tensor, kernel: int, dilation: int) -> Tensor:
    """Return ``[C, 1, k, k]``: the sum over all pixels of ``g`` times the pixel of ``x`` that each place sees.

    Example:
        >>> x = torch.arange(4.0).reshape(1, 1, 2, 2)
        >>> to_kernel(torch.ones(1, 1, 2, 2), x, 3, 1).squeeze().tolist()
        [[0.0, 1.0, 1.0], [2.0, 6.0, 4.0], [2.0, 5.0, 3.0]]
    """
    padding = dilation * (kernel - 1) // 2
    if (kernel, dilation) == (3, 1) or x.dtype == torch.float64:
        return _library_to_kernel(g, x, kernel, padding, dilation)
    return _by_one_convolution(g, x, kernel, dilation)


def _by_one_convolution(g: Tensor, x: Tensor, kernel: int, dilation: int) -> Tensor:
    """Convolve the images, all images' channels side by side, with the gradients as kernels, at a stride of d."""
    batch, channels, rows, columns = x.shape
    padding = dilation * (kernel - 1) // 2
    wide = x.permute(2, 3, 0, 1).reshape(1, rows, columns, batch * channels)
    wide = F.pad(wide, (0, 0, padding, padding, padding, padding)).permute(0, 3, 1, 2)
    kernels = g.reshape(batch * channels, 1, rows, columns)
    found = F.conv2d(wide, kernels, None, dilation, groups=batch * channels)
    return found.reshape(batch, channels, kernel, kernel).sum(0).unsqueeze(1)


def _library_to_kernel(g: Tensor, x: Tensor, kernel: int, padding: int, dilation: int) -> Tensor:
    channels = x.shape[1]
    shape_of = g.new_empty(channels, 1, kernel, kernel)
    geometry = ([1, 1], [padding, padding], [dilation, dilation], False, [0, 0], channels, [False, True, False])
    return aten.convolution_backward(g, x, shape_of, None, *geometry)[1]
