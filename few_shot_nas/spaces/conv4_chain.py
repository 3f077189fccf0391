"""Conv4 with the op of every block searched: 625 architectures, one of which is Conv4."""

from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor, nn

from few_shot_nas.errors import InputError
from few_shot_nas.nn.layout import channels_last
from few_shot_nas.spaces.chain import Chain
from few_shot_nas.spaces.genotype import Edge
from few_shot_nas.spaces.layered import LayeredBody, OpLayer
from few_shot_nas.spaces.ops import DERIVED, OPS, LayerStyle
from few_shot_nas.spaces.space import Body, Menu

KEEP_CHANNELS = ("avg_pool_3x3", "skip_connect")


def block_op(op: str, channels_in: int, channels_out: int, style: LayerStyle = DERIVED) -> nn.Module:
    """Build an op; one that keeps the number of channels gets a 1x1 convolution behind it where that must change."""
    if op in KEEP_CHANNELS and channels_in != channels_out:
        return nn.Sequential(
            OPS[op](channels_in, channels_in, 1, style), nn.Conv2d(channels_in, channels_out, 1, bias=False)
        )
    return OPS[op](channels_in, channels_out, 1, style)


class Conv4ChainBody(LayeredBody):
    """Blocks that halve the image, then flatten, as Conv4 does; no stem.

    Args:
        in_channels: channels of the images.
        image_size: height and width of the images.
        channels: channels of every block.
        menu: the ops that the blocks hold.
        style: how the blocks are made.

    Raises:
        InputError: if the images are too small to be halved once per block.
    """

    def __init__(
        self, in_channels: int, image_size: int, channels: int, menu: Menu, style: LayerStyle = DERIVED
    ) -> None:
        super().__init__()
        self.menu = menu
        blocks = menu["chain"]
        size = image_size >> len(blocks)
        if size < 1:
            raise InputError(
                f"space conv4_chain: image_size={image_size} with cells={len(blocks)} given, each block halves the "
                f"image; at least image_size={1 << len(blocks)} is needed"
            )
        self.blocks = nn.ModuleList(
            OpLayer(
                {op: block_op(op, channels if index else in_channels, channels, style) for op in ops}, channels, style
            )
            for index, ops in enumerate(blocks.values())
        )
        self.feature_dim = channels * size**2

    def begin(self, x: Tensor) -> Tensor:
        """Return the images: the first block is searched."""
        return channels_last(x)

    def searched(self) -> nn.ModuleList:
        """Return the blocks."""
        return self.blocks

    def owned_ops(self) -> Iterator[tuple[str, str, Edge]]:
        """Yield, for each op module held, its name prefix (with the dot), cell type and edge."""
        for index, ops in enumerate(self.menu["chain"].values()):
            for op in ops:
                yield f"blocks.{index}.ops.{op}.", "chain", Edge(op, index, index + 1)


class Conv4Chain(Chain):
    """``cells`` blocks of five ops each; with the default of four blocks 625 architectures.

    Size halves where Conv4's does, so it takes images of 28, 42 and 84 pixels. The architecture of ``conv_k3`` alone
    is Conv4 (with ``width=channels``, ``downsample=pool``) but for its convolutions' biases, which BN cancels. In the
    first block a 1x1 convolution follows the average pool and the identity, to reach ``channels``.

    Args:
        channels: channels of every block.
        cells: number of blocks.
        nodes: recorded in the genotype and otherwise without effect: a block has no inner nodes.
    """

    name: ClassVar[str] = "conv4_chain"

    def __init__(self, channels: int = 32, cells: int = 4, nodes: int = 1) -> None:
        super().__init__(channels, cells, nodes)

    def body(self, in_channels: int, image_size: int, menu: Menu, style: LayerStyle = DERIVED) -> Body:
        """Build the blocks; see :class:`Conv4ChainBody`."""
        return Conv4ChainBody(in_channels, image_size, self.channels, menu, style)
