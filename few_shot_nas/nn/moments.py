"""The pixels of every task as rows ``[G, n, C]``, and their sums, means and variances per channel."""

import torch
from torch import Tensor
from torch._C import _functorch as functorch


def as_rows(x: Tensor, groups: int) -> Tensor:
    """Return images ``[G*B, C, H, W]`` as the pixels of each task, ``[G, n, C]``; no copy where channels come last.

    Example:
        >>> as_rows(torch.arange(8.0).view(2, 2, 1, 2), groups=1).tolist()
        [[[0.0, 2.0], [1.0, 3.0], [4.0, 6.0], [5.0, 7.0]]]
    """
    return x.permute(0, 2, 3, 1).reshape(groups, -1, x.shape[1])


def as_images(rows: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """Undo :func:`as_rows`: pixels ``[G, n, C]`` as images of this shape ``[G*B, C, H, W]``.

    Example:
        >>> x = torch.randn(6, 3, 4, 5)
        >>> torch.equal(as_images(as_rows(x, groups=2), x.shape), x)
        True
    """
    batch, channels, height, width = shape
    return rows.reshape(batch, height, width, channels).permute(0, 3, 1, 2)


def sums(rows: Tensor) -> Tensor:
    """Sum over the pixels: ``[G, n, C]`` to ``[G, 1, C]``.

    Example:
        >>> sums(torch.tensor([[[1.0], [3.0]], [[2.0], [2.0]]])).tolist()
        [[[4.0]], [[4.0]]]
    """
    return rows.sum(1, keepdim=True)


def _plain() -> bool:
    """Whether nothing is recorded or transformed, as within the functions of batch normalisation."""
    return not torch.is_grad_enabled() and functorch.get_interpreter_stack() is None


def has_kernels(*rows: Tensor) -> bool:
    """Whether the library's kernels of batch normalisation can run: they have no rules under transformations.

    Example:
        >>> rows = torch.zeros(1, 4, 2)
        >>> with torch.no_grad():
        ...     has_kernels(rows), has_kernels(rows, rows.double())
        (True, False)
    """
    on_cpu = all(own.device.type == "cpu" and own.dtype in (torch.float32, torch.float64) for own in rows)
    return on_cpu and len({own.dtype for own in rows}) == 1 and _plain()


def as_one_row(rows: Tensor) -> Tensor:
    """Return pixels ``[G, n, C]`` as images ``[G, C, 1, n]``, the channels of a pixel side by side in memory.

    Example:
        >>> as_one_row(torch.zeros(2, 12, 3)).shape
        torch.Size([2, 3, 1, 12])
    """
    return rows.unsqueeze(1).permute(0, 3, 1, 2)


def moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over the pixels, ``[G, 1, C]`` each.

    ``torch.var_mean`` is sixty times slower on CPUs than the kernel of batch normalisation, which has no rule under
    transformations and no derivative: outside of them alone.

    Example:
        >>> mean, variance = moments(torch.tensor([[[1.0], [3.0]], [[2.0], [2.0]]]))
        >>> mean.flatten().tolist(), variance.flatten().tolist()
        ([2.0, 2.0], [1.0, 0.0])
    """
    if has_kernels(rows):
        found = [torch.batch_norm_update_stats(task, None, None, 0.0) for task in as_one_row(rows).split(1)]
        mean, variance = (torch.stack(parts).unsqueeze(1) for parts in zip(*found, strict=True))
        return mean, variance
    if not _plain():
        variance, mean = torch.var_mean(rows, dim=1, correction=0, keepdim=True)
        return mean, variance
    return moments_in_passes(rows)


def moments_in_passes(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of ``[G, n, C]``, ``[G, 1, C]`` each.

    On GPUs a few simple passes take a fraction of the time of var_mean's one.

    Example:
        >>> mean, variance = moments_in_passes(torch.tensor([[[1.0], [3.0]], [[2.0], [2.0]]]))
        >>> mean.flatten().tolist(), variance.flatten().round(decimals=3).tolist()
        ([2.0, 2.0], [1.0, 0.0])
    """
    mean = sums(rows) / rows.shape[1]
    return mean, torch.linalg.vector_norm(rows - mean, dim=1, keepdim=True).square() / rows.shape[1]
