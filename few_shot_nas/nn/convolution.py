"""Convolutions of many tasks at once, each with weights of its own: three routes to the same numbers.

The images of G tasks are one batch ``[G*B, C, H, W]``, the weights ``[G, O, C, k, k]``. A weight that was merely
expanded over the tasks (stride 0) is one convolution of the whole batch, with a gradient for every task.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

aten = torch.ops.aten


class Geometry(NamedTuple):
    """How a convolution with square kernels moves over the image.

    Attributes:
        kernel: height and width of the kernel k.
        stride: pixels between two positions.
        padding: pixels of zeros around the image.
    """

    kernel: int
    stride: int
    padding: int

    def size(self, pixels: int) -> int:
        """Return the height or width of the result."""
        return (pixels + 2 * self.padding - self.kernel) // self.stride + 1


class Conv2d(nn.Conv2d):
    """A convolution with square kernels whose weights may have the tasks of a meta-batch in front.

    With weights ``[O, C, k, k]`` it is :class:`torch.nn.Conv2d`; with ``[G, O, C, k, k]`` see :func:`task_convolution`.

    Args:
        in_channels: channels C.
        out_channels: channels O.
        kernel_size: height and width k of the kernel.
        stride: pixels between two positions.
        padding: pixels of zeros around the image.
        bias: add a number to every channel.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=bias)
        self.geometry = Geometry(kernel_size, stride, padding)

    def forward(self, x: Tensor, with_bias: bool = True) -> Tensor:
        """Convolve ``x [B, C, H, W]``, or ``[G*B, C, H, W]`` of G tasks.

        Args:
            x: the images.
            with_bias: add the bias; a normalisation by own statistics takes it away again.
        """
        bias = self.bias if with_bias else None
        if self.weight.ndim == 4 and (bias is None or bias.ndim == 1):
            return F.conv2d(x, self.weight, bias, self.stride, self.padding)
        if self.weight.ndim == 4:
            x = F.conv2d(x, self.weight, None, self.stride, self.padding)
        else:
            x = task_convolution(x, self.weight, self.geometry)
        if bias is None:
            return x
        if bias.ndim == 1:
            return x + bias.view(-1, 1, 1)
        return (x.unflatten(0, (len(bias), -1)) + bias[:, None, :, None, None]).flatten(0, 1)


def task_convolution(x: Tensor, weight: Tensor, geometry: Geometry, route: str | None = None) -> Tensor:
    """Convolve the images of every task with the weights of the task.

    Args:
        x: ``[G*B, C, H, W]``, the images of task 0 first.
        weight: ``[G, O, C, k, k]``.
        geometry: kernel, stride and padding.
        route: a key of ``ROUTES``; None takes :func:`choose_route`'s. All give the same numbers up to rounding.

    Returns:
        ``[G*B, O, H', W']``, the channels of a pixel side by side in memory.

    Example:
        >>> x, weight = torch.randn(4, 3, 8, 8), torch.randn(2, 5, 3, 3, 3)
        >>> alone = [F.conv2d(images, w, padding=1) for images, w in zip(x.chunk(2), weight)]
        >>> torch.allclose(task_convolution(x, weight, Geometry(3, 1, 1)), torch.cat(alone), atol=1e-5)
        True
    """
    if route is None:
        route = "shared" if weight.stride(0) == 0 else choose_route(x, weight.shape, geometry)
    if route == "im2col":
        return _by_columns(x, weight, geometry)
    return _Convolve.apply(x, weight, geometry, route)


def choose_route(x: Tensor, weight_shape: torch.Size, geometry: Geometry) -> str:
    """Return the route that is usually the fastest for these shapes.

    Copying every pixel ``k * k`` times and one batched matrix product win where a task alone keeps the device idle;
    a convolution per task where it does not.
    """
    pixels = x.shape[0] // weight_shape[0] * geometry.size(x.shape[2]) * geometry.size(x.shape[3])
    if x.device.type == "cpu":
        return "loop" if pixels * x.shape[1] > 2**17 else "im2col"
    # A GPU's convolutions of few channels are slow, and their columns are short.
    return "loop" if pixels * x.shape[1] > 2**19 and x.shape[1] >= 16 else "im2col"


# ---- a batched matrix product, which keeps its columns for the derivatives -------------------------------------------


def as_matrices(weight: Tensor) -> Tensor:
    """Return weights ``[G, O, C, k, k]`` as matrices ``[G, k * k * C, O]`` that multiply columns."""
    return weight.permute(0, 3, 4, 2, 1).flatten(1, 3)


def unfold(x: Tensor, geometry: Geometry) -> Tensor:
    """Pixels ``[B, H, W, C]`` to what every position of the kernel sees, ``[B, H', W', k * k * C]``."""
    k, s, p = geometry
    batch, height, width, channels = x.shape
    padded = F.pad(x, (0, 0, p, p, p, p)).contiguous()
    b, h, w, c = padded.stride()
    size = (batch, geometry.size(height), geometry.size(width), k, k, channels)
    return padded.as_strided(size, (b, s * h, s * w, h, w, c)).reshape(*size[:3], -1)


def fold(columns: Tensor, geometry: Geometry, shape: torch.Size) -> Tensor:
    """The transpose of :func:`unfold`: add up what the positions say about each pixel, ``[B, H, W, C]``."""
    k, s, p = geometry
    batch, height, width, channels = shape
    rows, cols = columns.shape[1:3]
    if columns.device.type != "cpu":  # one kernel for the eighteen below
        planes = columns.view(batch, rows * cols, k * k, channels).permute(0, 3, 2, 1).reshape(batch, -1, rows * cols)
        return F.fold(planes, (height, width), k, padding=p, stride=s).permute(0, 2, 3, 1).contiguous()
    parts = columns.view(batch, rows, cols, k, k, channels)
    out = columns.new_zeros(batch, height + 2 * p, width + 2 * p, channels)
    for i in range(k):
        for j in range(k):
            out[:, i : i + s * rows : s, j : j + s * cols : s].add_(parts[:, :, :, i, j])
    return out[:, p : p + height, p : p + width].contiguous()


def _by_columns(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    groups, out = weight.shape[:2]
    columns = _Unfold.apply(x.permute(0, 2, 3, 1), geometry)
    parts = _parts(x.shape[0] // groups, columns.shape[1] * columns.shape[2])
    rows = columns.reshape(groups, parts, -1, columns.shape[3])
    product = torch.matmul(rows, as_matrices(weight).unsqueeze(1))
    return product.view(*columns.shape[:3], out).permute(0, 3, 1, 2)


def _parts(images: int, pixels: int) -> int:
    """Into how many parts, of whole images, the rows of a task are divided.

    The weights' gradient is a small matrix, summed over all rows: as one product it keeps few of a GPU's processors
    busy, one for each task. Parts are more products, added up afterwards.
    """
    most = max(images * pixels // _LEAST, 1)
    return max(parts for parts in range(1, min(images, most) + 1) if images % parts == 0)


#: Rows of a part.
_LEAST = 512


class _Unfold(torch.autograd.Function):
    """:func:`unfold` with its derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, geometry: Geometry) -> Tensor:
        ctx.geometry, ctx.shape = geometry, x.shape
        return unfold(x, geometry)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Fold.apply(gradients[0], ctx.geometry, ctx.shape), None


class _Fold(torch.autograd.Function):
    """:func:`fold` with its derivative."""

    @staticmethod
    def forward(ctx: Any, columns: Tensor, geometry: Geometry, shape: torch.Size) -> Tensor:
        ctx.geometry = geometry
        return fold(columns, geometry, shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _Unfold.apply(gradients[0], ctx.geometry), None, None


# ---- a family of bilinear functions ----------------------------------------------------------------------------------


class _Convolve(torch.autograd.Function):
    """(x, weight) -> y. With the two below it is a family that is closed under differentiation: all are bilinear."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, geometry: Geometry, route: str) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.how = geometry, route
        return ROUTES[route].result(x, weight, geometry)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        (g,) = gradients
        to_x = _ImageGradient.apply(g, weight, x.shape, *ctx.how) if ctx.needs_input_grad[0] else None
        to_weight = _WeightGradient.apply(g, x, weight.shape, *ctx.how) if ctx.needs_input_grad[1] else None
        return to_x, to_weight, None, None


class _ImageGradient(torch.autograd.Function):
    """(g, weight) -> gradient of the images."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, weight: Tensor, shape: torch.Size, geometry: Geometry, route: str) -> Tensor:
        ctx.save_for_backward(g, weight)
        ctx.how = geometry, route
        return ROUTES[route].to_images(g, weight, shape, geometry)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        g, weight = ctx.saved_tensors
        (x,) = gradients
        to_g = _Convolve.apply(x, weight, *ctx.how) if ctx.needs_input_grad[0] else None
        to_weight = _WeightGradient.apply(g, x, weight.shape, *ctx.how) if ctx.needs_input_grad[1] else None
        return to_g, to_weight, None, None, None


class _WeightGradient(torch.autograd.Function):
    """(g, x) -> gradient of every task's weights, which is each task's own even where the weights are shared."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, shape: torch.Size, geometry: Geometry, route: str) -> Tensor:
        ctx.save_for_backward(g, x)
        route = choose_route(x, shape, geometry) if route == "shared" else route
        ctx.how = geometry, route
        return ROUTES[route].to_weight(g, x, shape, geometry)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        g, x = ctx.saved_tensors
        (weight,) = gradients
        to_g = _Convolve.apply(x, weight, *ctx.how) if ctx.needs_input_grad[0] else None
        to_x = _ImageGradient.apply(g, weight, x.shape, *ctx.how) if ctx.needs_input_grad[1] else None
        return to_g, to_x, None, None, None


# ---- routes ----------------------------------------------------------------------------------------------------------


class Route(NamedTuple):
    """One way to compute the family.

    Attributes:
        result: (images, weights, geometry) -> images.
        to_images: (gradient of the result, weights, shape of the images, geometry) -> gradient of the images.
        to_weight: (gradient of the result, images, shape of the weights, geometry) -> gradient of the weights.
    """

    result: Callable[[Tensor, Tensor, Geometry], Tensor]
    to_images: Callable[[Tensor, Tensor, torch.Size, Geometry], Tensor]
    to_weight: Callable[[Tensor, Tensor, torch.Size, Geometry], Tensor]


def _backward(
    g: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, groups: int, images: bool, weights: bool
) -> tuple[Tensor, Tensor]:
    s, p = [geometry.stride] * 2, [geometry.padding] * 2
    mask = [images, weights, False]
    to_x, to_weight, _ = aten.convolution_backward(g, x, weight, None, s, p, [1, 1], False, [0, 0], groups, mask)
    return to_x, to_weight


def _convolution(x: Tensor, weight: Tensor, geometry: Geometry, groups: int = 1) -> Tensor:
    return F.conv2d(x, weight, None, geometry.stride, geometry.padding, groups=groups)


def _to_images(g: Tensor, weight: Tensor, shape: torch.Size, geometry: Geometry, groups: int = 1) -> Tensor:
    # The library wants images for their shape, type and layout alone.
    like = torch.empty(shape, dtype=g.dtype, device=g.device, memory_format=torch.channels_last)
    return _backward(g, like, weight, geometry, groups, True, False)[0]


def _to_weight(g: Tensor, x: Tensor, shape: torch.Size, geometry: Geometry, groups: int = 1) -> Tensor:
    return _backward(g, x, g.new_empty(shape), geometry, groups, False, True)[1]


def _shared() -> Route:
    def no_weight(g: Tensor, x: Tensor, shape: torch.Size, geometry: Geometry) -> Tensor:
        raise RuntimeError("the gradient of shared weights is each task's own")

    return Route(
        lambda x, weight, geometry: _convolution(x, weight[0], geometry),
        lambda g, weight, shape, geometry: _to_images(g, weight[0], shape, geometry),
        no_weight,
    )


def _loop() -> Route:
    def result(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        parts = zip(x.chunk(len(weight)), weight, strict=True)
        return torch.cat([_convolution(images, own, geometry) for images, own in parts])

    def to_images(g: Tensor, weight: Tensor, shape: torch.Size, geometry: Geometry) -> Tensor:
        own = torch.Size((shape[0] // len(weight), *shape[1:]))
        parts = zip(g.chunk(len(weight)), weight, strict=True)
        return torch.cat([_to_images(part, kernel, own, geometry) for part, kernel in parts])

    def to_weight(g: Tensor, x: Tensor, shape: torch.Size, geometry: Geometry) -> Tensor:
        parts = zip(g.chunk(shape[0]), x.chunk(shape[0]), strict=True)
        return torch.stack([_to_weight(part, images, shape[1:], geometry) for part, images in parts])

    return Route(result, to_images, to_weight)


def _grouped() -> Route:
    def side_by_side(x: Tensor, groups: int) -> Tensor:
        """[G*B, C, H, W] to [B, G*C, H, W], channels last."""
        tasks = x.permute(0, 2, 3, 1).unflatten(0, (groups, -1))
        return tasks.permute(1, 2, 3, 0, 4).flatten(3).permute(0, 3, 1, 2)

    def one_after_another(x: Tensor, groups: int) -> Tensor:
        tasks = x.permute(0, 2, 3, 1).unflatten(3, (groups, -1))
        return tasks.permute(3, 0, 1, 2, 4).flatten(0, 1).permute(0, 3, 1, 2)

    def result(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        groups = len(weight)
        return one_after_another(_convolution(side_by_side(x, groups), weight.flatten(0, 1), geometry, groups), groups)

    def to_images(g: Tensor, weight: Tensor, shape: torch.Size, geometry: Geometry) -> Tensor:
        groups = len(weight)
        wide = torch.Size((shape[0] // groups, groups * shape[1], *shape[2:]))
        found = _to_images(side_by_side(g, groups), weight.flatten(0, 1), wide, geometry, groups)
        return one_after_another(found, groups)

    def to_weight(g: Tensor, x: Tensor, shape: torch.Size, geometry: Geometry) -> Tensor:
        groups = shape[0]
        wide = torch.Size((groups * shape[1], *shape[2:]))
        return _to_weight(side_by_side(g, groups), side_by_side(x, groups), wide, geometry, groups).view(shape)

    return Route(result, to_images, to_weight)


def _im2col() -> Route:
    def pixels(images: Tensor, groups: int) -> Tensor:
        return images.permute(0, 2, 3, 1).reshape(groups, -1, images.shape[1])

    def columns(x: Tensor, geometry: Geometry, groups: int) -> Tensor:
        return unfold(x.permute(0, 2, 3, 1), geometry).flatten(0, 2).unflatten(0, (groups, -1))

    def result(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        product = torch.bmm(columns(x, geometry, len(weight)), as_matrices(weight))
        size = (len(x), geometry.size(x.shape[2]), geometry.size(x.shape[3]), weight.shape[1])
        return product.view(size).permute(0, 3, 1, 2)

    def to_images(g: Tensor, weight: Tensor, shape: torch.Size, geometry: Geometry) -> Tensor:
        product = torch.bmm(pixels(g, len(weight)), as_matrices(weight).mT)
        images = torch.Size((shape[0], *shape[2:], shape[1]))
        return fold(product.view(len(g), *g.shape[2:], -1), geometry, images).permute(0, 3, 1, 2)

    def to_weight(g: Tensor, x: Tensor, shape: torch.Size, geometry: Geometry) -> Tensor:
        groups, out, channels, k, _ = shape
        parts = groups * _parts(len(g) // groups, g.shape[2] * g.shape[3])
        product = torch.bmm(pixels(g, parts).mT, columns(x, geometry, parts)).unflatten(0, (groups, -1)).sum(1)
        return product.view(groups, out, k, k, channels).permute(0, 1, 4, 2, 3)

    return Route(result, to_images, to_weight)


ROUTES = {"shared": _shared(), "loop": _loop(), "grouped": _grouped(), "im2col": _im2col()}
