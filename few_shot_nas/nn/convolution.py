"""Convolutions of many tasks at once, each with weights of its own: three routes to the same numbers.

The images of G tasks are one batch ``[G*B, C, H, W]``, the weights ``[G, O, C, k, k]``. A weight that was merely
expanded over the tasks (stride 0) is one convolution of the whole batch, with a gradient for every task.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from few_shot_nas.nn.columns import Geometry, as_matrices, fold, unfold

aten = torch.ops.aten


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
    if torch.is_autocast_enabled(x.device.type):  # kept, for derivatives that are taken after the casts have ended
        geometry = geometry._replace(dtype=torch.get_autocast_dtype(x.device.type))
    return _Convolve.apply(x, weight, geometry, route, _prepared(x, geometry, route))


def shared_by_tasks(value: Tensor, count: int) -> Tensor:
    """Return a parameter with the tasks of a meta-batch in front, for all tasks the same: expanded, not copied.

    The weights of a convolution ``[O, C, k, k]`` are laid out as those that its derivatives give to each task, the
    channels of a position side by side, so that sums and differences with them are one pass in the order of memory.

    Example:
        >>> shared = shared_by_tasks(torch.randn(4, 2, 3, 3), 5)
        >>> shared.shape, shared.stride()
        (torch.Size([5, 4, 2, 3, 3]), (0, 18, 1, 6, 2))
    """
    if value.ndim != 4:
        return value.expand(count, *value.shape)
    positions = value.permute(0, 2, 3, 1).contiguous()
    return positions.expand(count, *positions.shape).permute(0, 1, 4, 2, 3)


def choose_route(x: Tensor, weight_shape: torch.Size, geometry: Geometry) -> str:
    """Return the route that is usually the fastest for these shapes.

    Copying every pixel ``k * k`` times and one batched matrix product win where a task alone keeps the device idle;
    a convolution per task where it does not.

    Example:
        >>> choose_route(torch.zeros(20, 8, 14, 14), torch.Size((4, 16, 8, 3, 3)), Geometry(3, 1, 1))
        'im2col'
    """
    pixels = x.shape[0] // weight_shape[0] * geometry.size(x.shape[2]) * geometry.size(x.shape[3])
    if x.device.type == "cpu":
        return "loop" if pixels * x.shape[1] > 2**17 else "im2col"
    # A GPU's convolutions of few channels are slow, and their columns are short.
    return "loop" if pixels * x.shape[1] > 2**19 and x.shape[1] >= 16 else "im2col"


# ---- sizes of the products of columns --------------------------------------------------------------------------------


def _parts(images: int, pixels: int) -> int:
    """Into how many parts, of whole images, the rows of a task are divided.

    The weights' gradient is a small matrix, summed over all rows: as one product it keeps few of a GPU's processors
    busy, one for each task. Parts are more products, added up afterwards.
    """
    most = max(images * pixels // _LEAST, 1)
    return max(parts for parts in range(1, min(images, most) + 1) if images % parts == 0)


#: Rows of a part.
_LEAST = 512
#: Tasks whose columns are made and added up together on a CPU, while they are in its cache.
_TOGETHER = 8
#: Columns narrower than this are a slow second factor of a product.
_NARROW = 32


# ---- a family of bilinear functions ----------------------------------------------------------------------------------


def _rounded(value: Tensor, geometry: Geometry) -> Tensor:
    """Return a factor as the product takes it; what tasks share stays expanded."""
    if geometry.dtype is None or value.dtype == geometry.dtype:
        return value
    if value.stride(0) == 0:
        return value[:1].to(geometry.dtype).expand_as(value)
    return value.to(geometry.dtype)


def _prepared(x: Tensor, geometry: Geometry, route: str) -> Tensor | None:
    return ROUTES[route].prepare(_rounded(x.detach(), geometry), geometry)


class _Convolve(torch.autograd.Function):
    """(x, weight) -> y. With the two below it is a family that is closed under differentiation: all are bilinear.

    ``prepared`` is what the route made of the images, for all that have them as a factor; no input of its own.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, geometry: Geometry, route: str, prepared: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.how, ctx.prepared = (geometry, route), prepared
        return ROUTES[route].result(_rounded(x, geometry), _rounded(weight, geometry), geometry, prepared)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        (g,) = gradients
        geometry, route = ctx.how
        to_x = _ImageGradient.apply(g, weight, x.shape, geometry, route) if ctx.needs_input_grad[0] else None
        to_weight = None
        if ctx.needs_input_grad[1]:
            to_weight = _weight_gradient(g, x, weight, geometry, route, ctx.prepared)
        return to_x, to_weight, None, None, None


class _ImageGradient(torch.autograd.Function):
    """(g, weight) -> gradient of the images."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, weight: Tensor, shape: torch.Size, geometry: Geometry, route: str) -> Tensor:
        ctx.save_for_backward(g, weight)
        ctx.how = geometry, route
        found = ROUTES[route].to_images(_rounded(g, geometry), _rounded(weight, geometry), shape, geometry)
        return found.to(weight.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        g, weight = ctx.saved_tensors
        (x,) = gradients
        geometry, route = ctx.how
        prepared, to_g = _prepared(x, geometry, route), None
        if ctx.needs_input_grad[0]:
            to_g = _Convolve.apply(x, weight, geometry, route, prepared)
        to_weight = None
        if ctx.needs_input_grad[1]:
            to_weight = _weight_gradient(g, x, weight, geometry, route, prepared)
        return to_g, to_weight, None, None, None


def _weight_gradient(
    g: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, route: str, prepared: Tensor | None
) -> Tensor:
    """Gradient of every task's weights, which is each task's own even where the weights are shared.

    An outer backward pass goes on from shared weights to the parameter that they were expanded from, by a sum over the
    tasks. There one convolution of the whole batch gives the sum, and each task gets an equal part of it.
    """
    if route == "shared":
        # An inner gradient is recorded, or taken for a leaf: of these, every task gets its own.
        outer = weight.grad_fn is not None and not torch.is_grad_enabled()
        if outer and x.device.type == "cpu":
            total = _to_weight(_rounded(g, geometry), _rounded(x, geometry), weight.shape[1:], geometry)
            return shared_by_tasks(total.to(weight.dtype) / len(weight), len(weight))
        route = choose_route(x, weight.shape, geometry)
        prepared = _prepared(x, geometry, route)
    return _WeightGradient.apply(g, x, weight.shape, geometry, route, prepared)


class _WeightGradient(torch.autograd.Function):
    """(g, x) -> gradient of every task's weights."""

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, shape: torch.Size, geometry: Geometry, route: str, prepared: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(g, x)
        ctx.how, ctx.prepared = (geometry, route), prepared
        found = ROUTES[route].to_weight(_rounded(g, geometry), _rounded(x, geometry), shape, geometry, prepared)
        return found if geometry.dtype is None else found.float()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        g, x = ctx.saved_tensors
        (weight,) = gradients
        to_g = _Convolve.apply(x, weight, *ctx.how, ctx.prepared) if ctx.needs_input_grad[0] else None
        to_x = _ImageGradient.apply(g, weight, x.shape, *ctx.how) if ctx.needs_input_grad[1] else None
        return to_g, to_x, None, None, None, None


# ---- routes ----------------------------------------------------------------------------------------------------------


class Route(NamedTuple):
    """One way to compute the family.

    Attributes:
        prepare: (images, geometry) -> what products with these images have in common; None where they have nothing.
        result: (images, weights, geometry, prepared) -> images.
        to_images: (gradient of the result, weights, shape of the images, geometry) -> gradient of the images.
        to_weight: (gradient of the result, images, shape of the weights, geometry, prepared) -> gradient of the
            weights, the channels of a position side by side in memory.
    """

    prepare: Callable[[Tensor, Geometry], Tensor | None]
    result: Callable[[Tensor, Tensor, Geometry, Tensor | None], Tensor]
    to_images: Callable[[Tensor, Tensor, torch.Size, Geometry], Tensor]
    to_weight: Callable[[Tensor, Tensor, torch.Size, Geometry, Tensor | None], Tensor]


def _nothing(x: Tensor, geometry: Geometry) -> None:
    return None


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
    def no_weight(g: Tensor, x: Tensor, shape: torch.Size, geometry: Geometry, _: Tensor | None) -> Tensor:
        raise RuntimeError("the gradient of shared weights is each task's own")

    return Route(
        _nothing,
        lambda x, weight, geometry, _: _convolution(x, weight[0], geometry),
        lambda g, weight, shape, geometry: _to_images(g, weight[0], shape, geometry),
        no_weight,
    )


def _loop() -> Route:
    def result(x: Tensor, weight: Tensor, geometry: Geometry, _: Tensor | None) -> Tensor:
        parts = zip(x.chunk(len(weight)), weight, strict=True)
        return torch.cat([_convolution(images, own, geometry) for images, own in parts])

    def to_images(g: Tensor, weight: Tensor, shape: torch.Size, geometry: Geometry) -> Tensor:
        own = torch.Size((shape[0] // len(weight), *shape[1:]))
        parts = zip(g.chunk(len(weight)), weight, strict=True)
        return torch.cat([_to_images(part, kernel, own, geometry) for part, kernel in parts])

    def to_weight(g: Tensor, x: Tensor, shape: torch.Size, geometry: Geometry, _: Tensor | None) -> Tensor:
        parts = zip(g.chunk(shape[0]), x.chunk(shape[0]), strict=True)
        found = [_to_weight(part, images, shape[1:], geometry).permute(0, 2, 3, 1) for part, images in parts]
        return torch.stack(found).permute(0, 1, 4, 2, 3)

    return Route(_nothing, result, to_images, to_weight)


def _grouped() -> Route:
    def side_by_side(x: Tensor, groups: int) -> Tensor:
        """[G*B, C, H, W] to [B, G*C, H, W], channels last."""
        tasks = x.permute(0, 2, 3, 1).unflatten(0, (groups, -1))
        return tasks.permute(1, 2, 3, 0, 4).flatten(3).permute(0, 3, 1, 2)

    def one_after_another(x: Tensor, groups: int) -> Tensor:
        tasks = x.permute(0, 2, 3, 1).unflatten(3, (groups, -1))
        return tasks.permute(3, 0, 1, 2, 4).flatten(0, 1).permute(0, 3, 1, 2)

    def result(x: Tensor, weight: Tensor, geometry: Geometry, _: Tensor | None) -> Tensor:
        groups = len(weight)
        return one_after_another(_convolution(side_by_side(x, groups), weight.flatten(0, 1), geometry, groups), groups)

    def to_images(g: Tensor, weight: Tensor, shape: torch.Size, geometry: Geometry) -> Tensor:
        groups = len(weight)
        wide = torch.Size((shape[0] // groups, groups * shape[1], *shape[2:]))
        found = _to_images(side_by_side(g, groups), weight.flatten(0, 1), wide, geometry, groups)
        return one_after_another(found, groups)

    def to_weight(g: Tensor, x: Tensor, shape: torch.Size, geometry: Geometry, _: Tensor | None) -> Tensor:
        groups = shape[0]
        wide = torch.Size((groups * shape[1], *shape[2:]))
        return _to_weight(side_by_side(g, groups), side_by_side(x, groups), wide, geometry, groups).view(shape)

    return Route(_nothing, result, to_images, to_weight)


def _im2col() -> Route:
    def pixels(images: Tensor, groups: int) -> Tensor:
        return images.permute(0, 2, 3, 1).reshape(groups, -1, images.shape[1])

    def prepare(x: Tensor, geometry: Geometry) -> Tensor:
        return unfold(x.permute(0, 2, 3, 1), geometry)

    def rows(x: Tensor, geometry: Geometry, columns: Tensor | None, groups: int) -> Tensor:
        columns = prepare(x, geometry) if columns is None else columns
        return columns.flatten(0, 2).unflatten(0, (groups, -1))

    def result(x: Tensor, weight: Tensor, geometry: Geometry, columns: Tensor | None) -> Tensor:
        product = torch.bmm(rows(x, geometry, columns, len(weight)), as_matrices(weight))
        size = (len(x), geometry.size(x.shape[2]), geometry.size(x.shape[3]), weight.shape[1])
        return product.view(size).permute(0, 3, 1, 2)

    def to_images(g: Tensor, weight: Tensor, shape: torch.Size, geometry: Geometry) -> Tensor:
        groups, own = len(weight), len(g) // len(weight)
        size = (shape[0], *shape[2:], shape[1])
        by_task, matrices = pixels(g, groups), as_matrices(weight).mT
        together = _TOGETHER if g.device.type == "cpu" else groups
        found = []
        for start in range(0, groups, together):
            product = torch.bmm(by_task[start : start + together], matrices[start : start + together])
            count = own * len(product)
            columns = product.view(count, *g.shape[2:], -1)
            found.append(fold(columns, geometry, torch.Size((count, *size[1:]))))
        return (found[0] if len(found) == 1 else torch.cat(found)).permute(0, 3, 1, 2)

    def to_weight(g: Tensor, x: Tensor, shape: torch.Size, geometry: Geometry, columns: Tensor | None) -> Tensor:
        groups, out, channels, k, _ = shape
        parts = groups * _parts(len(g) // groups, g.shape[2] * g.shape[3])
        seen, by_part = rows(x, geometry, columns, parts), pixels(g, parts)
        narrow = seen.shape[2] < _NARROW
        product = torch.bmm(seen.mT, by_part).mT.contiguous() if narrow else torch.bmm(by_part.mT, seen)
        product = product if parts == groups else product.unflatten(0, (groups, -1)).sum(1)
        return product.view(groups, out, k, k, channels).permute(0, 1, 4, 2, 3)

    return Route(prepare, result, to_images, to_weight)


ROUTES = {"shared": _shared(), "loop": _loop(), "grouped": _grouped(), "im2col": _im2col()}
