"""Batch normalisation by own statistics, with derivatives written by hand: one task or many tasks in one batch.

Torch's derivative of the derivative of batch normalisation takes some twenty passes over the images; on CPUs it is 40 %
of a second-order meta-step. Here every derivative is a few sums per channel and one linear combination. Both functions
take the images of G tasks as one batch ``[G*B, C, H, W]`` and give every task statistics of its own; G = 1 is ordinary
batch normalisation.

With ``m`` mean and ``r = 1 / sqrt(v + eps)`` of a channel over its ``n`` pixels, ``h = (x - m) r`` and, for a gradient
``g`` that comes in, the projection ``P(g) = g - mean(g) - h mean(g h)``::

    y  = w h + b        gx = w r P(g)        gw = sum(g h)        gb = sum(g)

For ``X, W, B`` coming in at ``gx, gw, gb``, the same sums give the second derivative, that of
``s = <X, gx> + <W, gw> + <B, gb>``::

    ds/dg = w r P(X) + W h + B
    ds/dw = r (sum(X g) - sum(X) gb / n - sum(X h) gw / n)
    ds/dx = r P(z) - r^2 h w / n (sum(X g) - sum(X) gb / n - sum(X h) gw / n),
            z = W g - w r (X gw + g sum(X h)) / n

All functions work under ``torch.func.grad``, ``vmap`` and ``jvp``, and have derivatives of any order.
"""

from typing import Any

import torch
from torch import Tensor

from few_shot_nas.nn.moments import as_images, as_one_row, as_rows, has_kernels, moments, sums
from few_shot_nas.nn.windows import largest, picked, spread

aten = torch.ops.aten


def batch_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, groups: int = 1) -> Tensor:
    """Normalise every channel of every task by the mean and the biased variance of the task's own images.

    Args:
        x: ``[G*B, C, H, W]``, the images of task 0 first.
        weight: scale, ``[C]`` for all tasks or ``[G, C]``; None is 1.
        bias: shift, likewise; None is 0.
        eps: added to the variance.
        groups: number of tasks G.

    Returns:
        ``[G*B, C, H, W]``, the channels of a pixel side by side in memory.

    Example:
        >>> x = torch.randn(6, 2, 3, 3)
        >>> alone = torch.cat([batch_norm(task, None, None, 1e-5) for task in x.chunk(2)])
        >>> torch.allclose(batch_norm(x, None, None, 1e-5, groups=2), alone, atol=1e-5)
        True
    """
    rows = as_rows(x, groups)
    scale, shift = _per_task(weight, rows, 1.0), _per_task(bias, rows, 0.0)
    return as_images(_Normalise.apply(rows, scale, shift, eps)[0], x.shape)


def pooled_batch_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, groups: int = 1) -> Tensor:
    """The 2x2 max-pool of :func:`batch_norm`, with a quarter of its work.

    Normalisation keeps the order of the pixels of a channel, or turns it around where the scale is negative. So the
    pool, of maxima or of minima, can come first, and whatever follows works on a quarter of the pixels. The statistics
    are still those of all pixels. Where a scale is exactly 0 all pixels of a window tie; the largest counts here.

    Args:
        x: ``[G*B, C, H, W]``; an odd last row or column counts in the statistics and not in the pool.
        weight: scale, ``[C]`` for all tasks or ``[G, C]``; None is 1.
        bias: shift, likewise; None is 0.
        eps: added to the variance.
        groups: number of tasks G.

    Returns:
        ``[G*B, C, H // 2, W // 2]``.

    Example:
        >>> x = torch.randn(4, 2, 6, 6)
        >>> pooled = pooled_batch_norm(x, torch.ones(2), torch.zeros(2), 1e-5)
        >>> torch.allclose(pooled, torch.nn.functional.max_pool2d(batch_norm(x, None, None, 1e-5), 2), atol=1e-6)
        True
    """
    pixels = x.permute(0, 2, 3, 1).reshape(groups, -1, *x.shape[2:], x.shape[1])
    weights = _per_task(weight, pixels, 1.0)
    pooled, mean, variance, _ = _PoolMoments.apply(pixels, weights.detach())
    rows = pooled.reshape(groups, -1, x.shape[1])
    scale = weights * (variance + eps).rsqrt()
    shift = _per_task(bias, rows, 0.0) - mean * scale
    return as_images(_ScaleShift.apply(rows, scale, shift), (x.shape[0], x.shape[1], *pooled.shape[2:4]))


def _per_task(value: Tensor | None, rows: Tensor, default: float) -> Tensor:
    """Return ``[G, 1, C]`` for ``[C]``, ``[G, C]`` or None."""
    groups, channels = rows.shape[0], rows.shape[-1]
    if value is None:
        return rows.new_full((1, 1, channels), default).expand(groups, 1, channels)
    return value.reshape(-1, 1, channels).expand(groups, 1, channels)


def _numbers(value: Tensor) -> Tensor:
    """Return ``[1, 1, C]`` as ``[C]``, side by side: the library reads an expanded tensor as if it were so."""
    return value.flatten().contiguous()


def _merge(value: Tensor, dim: int | None, size: int) -> Tensor:
    """Put the axis of a vmap in front of the tasks and make both one: ``[V*G, ...]``."""
    moved = value.unsqueeze(0).expand(size, *value.shape) if dim is None else value.movedim(dim, 0)
    return moved.reshape(-1, *moved.shape[2:])


class _OverTasks(torch.autograd.Function):
    """A function of tensors that all have the tasks in front: under vmap, the mapped axis becomes more tasks."""

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[tuple[Tensor, ...], Any]:
        """Run once on the tasks of all mapped calls."""
        size = info.batch_size
        merged = [
            _merge(value, dim, size) if isinstance(value, Tensor) else value
            for value, dim in zip(inputs, in_dims, strict=True)
        ]
        outputs = cls.apply(*merged)
        if isinstance(outputs, Tensor):
            return outputs.unflatten(0, (size, -1)), 0
        return tuple(out.unflatten(0, (size, -1)) for out in outputs), (0,) * len(outputs)


class _Normalise(_OverTasks):
    """(x [G, n, C], w, b [G, 1, C], eps) -> y, mean and 1 / deviation."""

    @staticmethod
    def forward(x: Tensor, w: Tensor, b: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        if len(x) == 1 and has_kernels(x, w, b):
            y, mean, r = aten.native_batch_norm(as_one_row(x), _numbers(w), _numbers(b), None, None, True, 0.0, eps)
            return y.permute(0, 2, 3, 1).flatten(0, 1), mean.view_as(w), r.view_as(w)
        mean, variance = moments(x)
        r = (variance + eps).rsqrt()
        scale = w * r
        return torch.addcmul(b - mean * scale, x, scale), mean, r

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, w, _, ctx.eps = inputs
        _, mean, r = output
        ctx.mark_non_differentiable(mean, r)
        ctx.save_for_backward(x, w, mean, r)
        ctx.save_for_forward(x, w, mean, r)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, w, mean, r = ctx.saved_tensors
        return (*_NormaliseBackward.apply(gradients[0], x, w, mean, r, ctx.eps), None)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor, None, None]:
        x, w, mean, r = ctx.saved_tensors
        dx, dw, db = tangents[:3]
        return _along(x, w, mean, r, dx, dw, db), None, None


class _NormaliseBackward(_OverTasks):
    """(g, x, w, mean, r, eps) -> gx, gw, gb. Mean and r are those of x, and no inputs of their own."""

    @staticmethod
    def forward(
        g: Tensor, x: Tensor, w: Tensor, mean: Tensor, r: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        if len(x) == 1 and has_kernels(g, x, w, mean, r):
            known = _numbers(w), None, None, mean.flatten(), r.flatten(), True, eps, [True, True, True]
            gx, gw, gb = aten.native_batch_norm_backward(as_one_row(g), as_one_row(x), *known)
            return gx.permute(0, 2, 3, 1).flatten(0, 1), gw.view_as(w), gb.view_as(w)
        gb = sums(g)
        gw = (sums(g * x) - mean * gb) * r
        return _projected(g, x, mean, r, w * r, gb, gw), gw, gb

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        g, x, w, mean, r, ctx.eps = inputs
        ctx.save_for_backward(g, x, w, mean, r, *output[1:])
        ctx.save_for_forward(g, x, w, mean, r, *output[1:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        g, x, w, mean, r, gw, gb = ctx.saved_tensors
        if torch.is_grad_enabled():  # someone wants a third derivative: the statistics too are functions of x
            mean, variance = moments(x)
            r = (variance + ctx.eps).rsqrt()
            gb = sums(g)
            gw = (sums(g * x) - mean * gb) * r
        to_gx, to_gw, to_gb = gradients
        dx, dw = _curvature(g, x, w, mean, r, gw, gb, to_gx, to_gw)
        return _along(x, w, mean, r, to_gx, to_gw, to_gb), dx, dw, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor, Tensor, Tensor]:
        g, x, w, mean, r, gw, gb = ctx.saved_tensors
        dg, dx, dw = tangents[:3]
        # The gradient's derivative along (dx, dw) is the Hessian of <g, y> times it; that along dg is a backward pass.
        to_x, to_w = _curvature(g, x, w, mean, r, gw, gb, dx, dw)
        sum_g = sums(dg)
        sum_gh = (sums(dg * x) - mean * sum_g) * r
        return _projected(dg, x, mean, r, w * r, sum_g, sum_gh) + to_x, to_w + sum_gh, sum_g


def _projected(g: Tensor, x: Tensor, mean: Tensor, r: Tensor, scale: Tensor, sum_g: Tensor, sum_gh: Tensor) -> Tensor:
    """Return ``scale * P(g)``, given the sums of g and of g times h."""
    n = x.shape[1]
    slope = -scale * r * sum_gh / n
    return torch.addcmul(torch.addcmul(-scale * sum_g / n - mean * slope, x, slope), g, scale)


def _along(x: Tensor, w: Tensor, mean: Tensor, r: Tensor, dx: Tensor, dw: Tensor, db: Tensor) -> Tensor:
    """Return ``w r P(dx) + dw h + db``: the change of y along a change of its inputs."""
    n, scale = x.shape[1], w * r
    sum_x = sums(dx)
    sum_xh = (sums(dx * x) - mean * sum_x) * r
    slope = r * (dw - scale * sum_xh / n)
    return torch.addcmul(torch.addcmul(db - scale * sum_x / n - mean * slope, x, slope), dx, scale)


def _curvature(
    g: Tensor, x: Tensor, w: Tensor, mean: Tensor, r: Tensor, gw: Tensor, gb: Tensor, to_gx: Tensor, to_gw: Tensor
) -> tuple[Tensor, Tensor]:
    """Return ds/dx and ds/dw of the module's formulas: the Hessian of ``<g, y>`` in (x, w) times (to_gx, to_gw)."""
    n = x.shape[1]
    sum_x = sums(to_gx)
    sum_xh = (sums(to_gx * x) - mean * sum_x) * r
    inner = sums(to_gx * g) - (sum_x * gb + sum_xh * gw) / n
    by_gx = -w * r * r * gw / n
    by_g = r * (to_gw - w * r * sum_xh / n)
    # Mean of z, and of z times h, from the sums at hand.
    mean_z = (by_gx * sum_x + by_g * gb) / n
    mean_zh = (by_gx * sum_xh + by_g * gw) / n
    by_x = -r * (mean_zh + r * r * w * inner / n)
    rest = torch.addcmul(-mean_z - by_x * mean, x, by_x)
    return torch.addcmul(torch.addcmul(rest, g, by_g), to_gx, by_gx), r * inner


class _ScaleShift(_OverTasks):
    """(x [G, n, C], s, t [G, 1, C]) -> s x + t; its derivatives are sums and multiples of whole images."""

    @staticmethod
    def forward(x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        return torch.addcmul(t, x, s)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, s, _ = inputs
        ctx.save_for_backward(x, s)
        ctx.save_for_forward(x, s)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, s = ctx.saved_tensors
        (g,) = gradients
        return g * s, sums(g * x), sums(g)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        x, s = ctx.saved_tensors
        dx, ds, dt = tangents
        return torch.addcmul(torch.addcmul(dt, x, ds), dx, s)


class _PoolMoments(_OverTasks):
    """x [G, B, H, W, C], w [G, 1, C] -> the 2x2 max-pool of x, min-pool where w < 0; moments [G, 1, C]; which pixel."""

    @staticmethod
    def forward(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # Looking costs a pass less than multiplying; a GPU would have to be waited for.
        turned = x.device.type != "cpu" or bool((w < 0).any())
        sign = torch.where(w < 0, -1.0, 1.0).to(x.dtype).view(len(x), 1, 1, 1, -1)
        pooled, which = largest(x * sign if turned else x)
        return (pooled * sign if turned else pooled, *moments(x.flatten(1, 3)), which)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, ...]) -> None:
        _, mean, _, which = output
        ctx.mark_non_differentiable(which)
        ctx.set_materialize_grads(False)  # or zeros would be made for the places
        ctx.save_for_backward(inputs[0], mean, which)
        ctx.save_for_forward(inputs[0], mean, which)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        x, mean, which = ctx.saved_tensors
        wanted = zip(gradients[:3], ((*which.shape[:4], x.shape[4]), mean.shape, mean.shape), strict=True)
        to_pool, to_mean, to_variance = (x.new_zeros(size) if g is None else g for g, size in wanted)
        return _PoolMomentsBackward.apply(to_pool, to_mean, to_variance, x, mean, which), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor, Tensor, Tensor, None]:
        x, mean, which = ctx.saved_tensors
        return (*_pool_moments_along(x, mean, which, tangents[0]), None)


class _PoolMomentsBackward(_OverTasks):
    """Gradient of x from those of pool, mean and variance; linear in these three."""

    @staticmethod
    def forward(
        to_pool: Tensor, to_mean: Tensor, to_variance: Tensor, x: Tensor, mean: Tensor, which: Tensor
    ) -> Tensor:
        n = x.shape[1:4].numel()
        slope = (2 / n) * to_variance
        return spread(_plane(to_mean / n - slope * mean, x, slope), to_pool, which)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        _, _, to_variance, x, mean, which = inputs
        ctx.save_for_backward(to_variance, x, mean, which)
        ctx.save_for_forward(to_variance, x, mean, which)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        to_variance, x, mean, which = ctx.saved_tensors
        (g,) = gradients
        if torch.is_grad_enabled():  # someone wants a third derivative: the mean too is a function of x
            mean = sums(x.flatten(1, 3)) / x.shape[1:4].numel()
        to_pool, sum_g, to_variance_bar = _pool_moments_along(x, mean, which, g)
        slope = (2 / x.shape[1:4].numel()) * to_variance
        return to_pool, sum_g, to_variance_bar, _plane(-slope * sum_g, g, slope), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        to_variance, x, mean, which = ctx.saved_tensors
        d_pool, d_mean, d_variance, dx = tangents[:4]
        n = x.shape[1:4].numel()
        slope = (2 / n) * to_variance
        along = _PoolMomentsBackward.apply(d_pool, d_mean, d_variance, x, mean, which)
        return along + _plane(-slope * sums(dx.flatten(1, 3)) / n, dx, slope)


def _plane(shift: Tensor, x: Tensor, slope: Tensor) -> Tensor:
    """Return ``shift + slope x`` for images ``[G, B, H, W, C]`` and numbers ``[G, 1, C]``."""
    return torch.addcmul(shift, x.flatten(1, 3), slope).view(x.shape)


def _pool_moments_along(x: Tensor, mean: Tensor, which: Tensor, dx: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the changes of pool, mean and variance along ``dx``; linear in it, and its own adjoint's double."""
    rows, n = dx.flatten(1, 3), x.shape[1:4].numel()
    sum_x = sums(rows)
    return picked(dx, which), sum_x / n, (2 / n) * (sums(rows * x.flatten(1, 3)) - mean * sum_x)
