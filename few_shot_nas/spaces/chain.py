"""A small space that can be enumerated: a chain of layers with one op each."""

from collections.abc import Iterator, Sequence
from typing import ClassVar

from torch import Tensor, nn

from few_shot_nas.errors import InputError
from few_shot_nas.nn.layout import channels_last
from few_shot_nas.nn.norm import BatchNorm2d
from few_shot_nas.spaces.genotype import Edge, Genotype
from few_shot_nas.spaces.layered import LayeredBody, OpLayer
from few_shot_nas.spaces.ops import DERIVED, OPS, LayerStyle
from few_shot_nas.spaces.space import Body, Decision, Menu, SearchSpace, op_index

CHAIN_OPS = ("conv_k3", "conv_k5", "sep_k3", "avg_pool_3x3", "skip_connect")


class ChainBody(LayeredBody):
    """Conv4 with every block but the first searched: a 3x3 stem block, then the layers, flattened.

    Args:
        in_channels: channels of the images.
        image_size: height and width of the images.
        channels: channels of every layer.
        menu: the ops that the layers hold.
        style: how the searched layers are made.

    Raises:
        InputError: if the images are too small to be halved once per layer and once by the stem.
    """

    def __init__(
        self, in_channels: int, image_size: int, channels: int, menu: Menu, style: LayerStyle = DERIVED
    ) -> None:
        super().__init__()
        self.menu = menu
        layers = menu["chain"]
        size = image_size >> (len(layers) + 1)
        if size < 1:
            raise InputError(
                f"space chain: image_size={image_size} with cells={len(layers)} given, each layer halves the image; "
                f"at least image_size={2 << len(layers)} is needed"
            )
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
            BatchNorm2d(channels),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.layers = nn.ModuleList(
            OpLayer({op: OPS[op](channels, channels, 1, style) for op in ops}, channels, style)
            for ops in layers.values()
        )
        self.feature_dim = channels * size**2

    def begin(self, x: Tensor) -> Tensor:
        """Run the stem: ``[B, C, H, W]`` to ``[B, channels, H // 2, W // 2]``."""
        return self.stem(channels_last(x))

    def searched(self) -> nn.ModuleList:
        """Return the layers."""
        return self.layers

    def owned_ops(self) -> Iterator[tuple[str, str, Edge]]:
        """Yield, for each op module held, its name prefix (with the dot), cell type and edge."""
        for index, ops in enumerate(self.menu["chain"].values()):
            for op in ops:
                yield f"layers.{index}.ops.{op}.", "chain", Edge(op, index, index + 1)


class Chain(SearchSpace):
    """``cells`` layers of five ops each; with the default of three layers 125 architectures.

    A layer is op, BN, ReLU, 2x2 max-pool; the ops are a full 3x3 or 5x5 convolution, a separable 3x3 convolution, an
    average pool, and identity. A chain of other ops is a subclass with another ``ops``.

    Args:
        channels: channels of every layer.
        cells: number of searched layers.
        nodes: recorded in the genotype and otherwise without effect: a layer has no inner nodes.
    """

    name: ClassVar[str] = "chain"
    ops: ClassVar[tuple[str, ...]] = CHAIN_OPS

    def __init__(self, channels: int = 16, cells: int = 3, nodes: int = 1) -> None:
        super().__init__(channels, cells, nodes)
        self._decisions = tuple(Decision(f"layer/{index}/op", "op", self.ops) for index in range(cells))

    def _edges(self, decisions: Sequence[int]) -> tuple[tuple[str, tuple[Edge, ...]], ...]:
        return (("chain", tuple(Edge(self.ops[choice], src, src + 1) for src, choice in enumerate(decisions))),)

    def _decisions_of(self, genotype: Genotype) -> tuple[int, ...]:
        given = [(cell_type, [edge[1:] for edge in edges]) for cell_type, edges in genotype.edges]
        if given != [("chain", [(src, src + 1) for src in range(self.cells)])]:
            raise InputError(
                f"genotype: edges {given} given, space {self.name} with cells={self.cells} has one edge "
                f"from each of 0..{self.cells - 1} to the next, of cell type chain"
            )
        return tuple(op_index(self.ops, edge, "chain", self.name) for edge in genotype.edges[0][1])

    def menu(self) -> Menu:
        """Return the edges of all layers, with all ops."""
        return {"chain": {(src, src + 1): self.ops for src in range(self.cells)}}

    def body(self, in_channels: int, image_size: int, menu: Menu, style: LayerStyle = DERIVED) -> Body:
        """Build stem and layers; see :class:`ChainBody`."""
        return ChainBody(in_channels, image_size, self.channels, menu, style)
