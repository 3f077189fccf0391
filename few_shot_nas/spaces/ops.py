"""Every operation that a search space can put on an edge, by its canonical name.

The names are those of DARTS (Liu et al. 2019) and of the few-shot spaces of MetaNAS (Elsken et al. 2020) and
MetaNTK-NAS (Wang et al. 2022), where two of them mean something else than they say:

- ``conv_3x3`` is a *single separable* convolution (ReLU, depthwise 3x3, pointwise 1x1, BN). The name is kept so that
  published genotypes can be read. The full convolution is ``conv_k3``.
- ``avg_pool_3x3`` and ``max_pool_3x3`` are bare pools (as in DARTS' derived networks); ``..._3x3BN`` add a BN.

All ops keep the size at stride 1 and give ``ceil(size / 2)`` at stride 2, for odd sizes too.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from few_shot_nas.nn.depthwise import DepthwiseConv2d
from few_shot_nas.nn.norm import BatchNorm2d


class LayerStyle(NamedTuple):
    """How layers are made where search networks and derived networks, or two papers, differ.

    Attributes:
        affine: whether the BN of ops and cells learn a scale and a shift. False in the search networks of DARTS, T-NAS
            and MetaNAS.
        norm_pools: whether a bare pool is followed by a BN, as in the search networks of DARTS and T-NAS.
        pad: where :class:`FactorizedReduce` pads odd sizes: ``right`` (and bottom) or ``left`` (and top).
    """

    affine: bool = True
    norm_pools: bool = False
    pad: Literal["right", "left"] = "right"


DERIVED = LayerStyle()

OpBuilder = Callable[[int, int, int, LayerStyle], nn.Module]


class Zero(nn.Module):
    """The op ``none``: no connection, zeros of the right shape. No derived network contains it."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Return zeros of the shape that the other ops give."""
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class FactorizedReduce(nn.Module):
    """Halve the size without losing pixels: two 1x1 convolutions of stride 2, one of them shifted by a pixel.

    ReLU, then ``conv_1`` on rows and columns 0, 2, .. and ``conv_2`` on 1, 3, .., concatenated, BN. Odd sizes are first
    padded by one zero row or column at the right and bottom (as TE-NAS and MetaNTK-NAS do), or with ``pad="left"`` at
    the left and top (as T-NAS does, which swaps the roles of the two convolutions; DARTS fails there). An odd
    ``channels_out`` gives ``conv_2`` the extra channel, and a single one has no ``conv_1``.
    """

    def __init__(self, channels_in: int, channels_out: int, style: LayerStyle = DERIVED) -> None:
        super().__init__()
        self.pad = style.pad
        half = channels_out // 2
        self.conv_1 = nn.Conv2d(channels_in, half, 1, bias=False) if half else None
        self.conv_2 = nn.Conv2d(channels_in, channels_out - half, 1, bias=False)
        self.norm = BatchNorm2d(channels_out, affine=style.affine)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to ``[B, channels_out, ceil(H/2), ceil(W/2)]``."""
        return self.joined(*self.halves(F.relu(x)))

    def halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what ``conv_1`` and what ``conv_2`` see of a state after its ReLU."""
        odd_rows, odd_columns = x.shape[2] % 2, x.shape[3] % 2
        if odd_rows or odd_columns:
            left = self.pad == "left"
            x = F.pad(x, (odd_columns, 0, odd_rows, 0) if left else (0, odd_columns, 0, odd_rows))
        # Every second pixel is taken by the index and not by a stride of the convolution: the backward pass of torch
        # 2.11's strided 1x1 convolution writes past its buffer on channels-last CPU tensors with several threads.
        return x[:, :, ::2, ::2], x[:, :, 1::2, 1::2]

    def joined(self, even: Tensor, odd: Tensor, times: Tensor | None = None) -> Tensor:
        """Convolve both, put them side by side and normalise; ``times`` scales the result."""
        odd = self.conv_2(odd)
        both = odd if self.conv_1 is None else torch.cat((self.conv_1(even), odd), dim=1)
        if times is None:
            return self.norm(both)
        return self.norm(both, times=times) if isinstance(self.norm, BatchNorm2d) else times * self.norm(both)


def relu_conv_norm(channels_in: int, channels_out: int, style: LayerStyle = DERIVED) -> nn.Module:
    """ReLU, 1x1 convolution, BN: how a cell brings its two inputs to its own number of channels."""
    return nn.Sequential(
        nn.ReLU(), nn.Conv2d(channels_in, channels_out, 1, bias=False), BatchNorm2d(channels_out, affine=style.affine)
    )


def _separable(
    channels_in: int, channels_out: int, kernel: int, stride: int, dilation: int, style: LayerStyle
) -> nn.Sequential:
    """ReLU, depthwise ``kernel`` x ``kernel``, pointwise, BN."""
    return nn.Sequential(
        nn.ReLU(),
        DepthwiseConv2d(channels_in, kernel, stride, dilation),
        nn.Conv2d(channels_in, channels_out, 1, bias=False),
        BatchNorm2d(channels_out, affine=style.affine),
    )


def _sep_conv(kernel: int) -> OpBuilder:
    """Two separable convolutions, the stride in the first."""

    def build(channels_in: int, channels_out: int, stride: int, style: LayerStyle) -> nn.Module:
        return nn.Sequential(
            *_separable(channels_in, channels_in, kernel, stride, 1, style),
            *_separable(channels_in, channels_out, kernel, 1, 1, style),
        )

    return build


def _single_separable(kernel: int, dilation: int) -> OpBuilder:
    """One separable convolution, dilated or not."""

    def build(channels_in: int, channels_out: int, stride: int, style: LayerStyle) -> nn.Module:
        return _separable(channels_in, channels_out, kernel, stride, dilation, style)

    return build


def _conv_1x5_5x1(channels_in: int, channels_out: int, stride: int, style: LayerStyle) -> nn.Module:
    """Two full convolutions with no ReLU between; the first has the stride in both directions."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels_in, channels_out, (1, 5), stride, (0, 2), bias=False),
        nn.Conv2d(channels_out, channels_out, (5, 1), 1, (2, 0), bias=False),
        BatchNorm2d(channels_out, affine=style.affine),
    )


def _keeps_channels(name: str, channels_in: int, channels_out: int) -> None:
    if channels_in != channels_out:
        raise ValueError(f"op {name} cannot turn {channels_in} channels into {channels_out}; it keeps their number")


def _pool(kind: str, with_norm: bool) -> OpBuilder:
    """3x3 pool; the average leaves padded pixels out of the count."""

    def build(channels_in: int, channels_out: int, stride: int, style: LayerStyle) -> nn.Module:
        _keeps_channels(f"{kind}_pool_3x3", channels_in, channels_out)
        pool: nn.Module = (
            nn.MaxPool2d(3, stride, 1) if kind == "max" else nn.AvgPool2d(3, stride, 1, count_include_pad=False)
        )
        normed = with_norm or style.norm_pools
        return nn.Sequential(pool, BatchNorm2d(channels_out, affine=style.affine)) if normed else pool

    return build


def _skip_connect(channels_in: int, channels_out: int, stride: int, style: LayerStyle) -> nn.Module:
    """Identity at stride 1, :class:`FactorizedReduce` at stride 2."""
    if stride != 1:
        return FactorizedReduce(channels_in, channels_out, style)
    _keeps_channels("skip_connect", channels_in, channels_out)
    return nn.Identity()


def _none(channels_in: int, channels_out: int, stride: int, style: LayerStyle) -> nn.Module:
    _keeps_channels("none", channels_in, channels_out)
    return Zero(stride)


def _plain_conv(kernel: int) -> OpBuilder:
    """A full convolution and nothing else; the chain space adds BN and ReLU behind it."""

    def build(channels_in: int, channels_out: int, stride: int, style: LayerStyle) -> nn.Module:
        return nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False)

    return build


def _plain_separable(channels_in: int, channels_out: int, stride: int, style: LayerStyle) -> nn.Module:
    """Depthwise 3x3 and pointwise 1x1 and nothing else; the chain space adds BN and ReLU behind it."""
    return nn.Sequential(
        DepthwiseConv2d(channels_in, 3, stride),
        nn.Conv2d(channels_in, channels_out, 1, bias=False),
    )


OPS: dict[str, OpBuilder] = {
    "none": _none,
    "skip_connect": _skip_connect,
    "sep_conv_3x3": _sep_conv(3),
    "sep_conv_5x5": _sep_conv(5),
    "dil_conv_3x3": _single_separable(3, dilation=2),
    "dil_conv_5x5": _single_separable(5, dilation=2),
    "avg_pool_3x3": _pool("avg", with_norm=False),
    "max_pool_3x3": _pool("max", with_norm=False),
    "avg_pool_3x3BN": _pool("avg", with_norm=True),
    "max_pool_3x3BN": _pool("max", with_norm=True),
    "conv_1x5_5x1": _conv_1x5_5x1,
    "conv_3x3": _single_separable(3, dilation=1),
    "conv_k3": _plain_conv(3),
    "conv_k5": _plain_conv(5),
    "sep_k3": _plain_separable,
}
