"""The macro space of ENAS: an op for every layer, and which earlier layers are added to its output."""

from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from few_shot_nas.errors import InputError
from few_shot_nas.nn.layout import channels_last
from few_shot_nas.nn.norm import BatchNorm2d
from few_shot_nas.spaces.cell import added, pooling_stem
from few_shot_nas.spaces.genotype import Edge, Genotype
from few_shot_nas.spaces.ops import DERIVED, OPS, FactorizedReduce, LayerStyle
from few_shot_nas.spaces.source import Source
from few_shot_nas.spaces.space import (
    Body,
    Decision,
    EdgeNumbers,
    EdgeWeights,
    Menu,
    Place,
    SearchSpace,
    heaviest,
    op_index,
)

# In the order of the arc strings. Not in OPS: these include the 1x1 convolution that precedes each of them.
MACRO_OPS = ("enas_conv_k3", "enas_sep_k3", "enas_conv_k5", "enas_sep_k5", "enas_avg_pool", "enas_max_pool")
SKIP_CHOICES = ("no", "yes")
SKIP_OPS = ("none", "skip_connect")


def macro_op(name: str, channels: int, style: LayerStyle = DERIVED) -> nn.Sequential:
    """Build a branch: 1x1 convolution, BN, ReLU; then (separable) convolution, BN, ReLU, or a bare pool."""
    norm = partial(BatchNorm2d, channels, affine=style.affine)
    layers: list[nn.Module] = [nn.Conv2d(channels, channels, 1, bias=False), norm(), nn.ReLU()]
    if name.endswith("pool"):
        pool = name.removeprefix("enas_")
        return nn.Sequential(*layers, OPS[f"{pool}_3x3"](channels, channels, 1, style))
    kernel = int(name[-1])
    if "sep" in name:
        layers.append(nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False))
        kernel = 1
    layers.append(nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False))
    return nn.Sequential(*layers, norm(), nn.ReLU())


def pools_after(layers: int) -> tuple[int, ...]:
    """Return the layers after which every stored output is halved: ``L // 3 - 1`` and ``2 * (L // 3) - 1``."""
    third = layers // 3
    return (third - 1, 2 * third - 1) if third else ()


def reductions_read(places: Sequence[tuple[int, int]], layers: int) -> tuple[tuple[int, int], ...]:
    """Return which states are halved after which pooling layers, as (state, layer), because somebody reads them later.

    Args:
        places: (src, dst) of all edges. State 0 is the stem, state i + 1 the output of layer i.
        layers: number of layers L; the head reads state L.
    """
    last_read = {layers: layers}
    for src, dst in places:
        last_read[src] = max(dst - 1, last_read.get(src, 0))
    return tuple(
        (state, layer)
        for layer in pools_after(layers)
        for state in range(layer + 2)
        if last_read.get(state, -1) > layer
    )


class MacroBody(Body):
    """Stem, layers with skip connections, global average pool.

    Args:
        in_channels: channels of the images.
        image_size: height and width of the images.
        channels: channels of every layer.
        menu: the layers' ops under ``op``, the skips under ``skip``, halved states under ``halve``.
        style: how the layers are made.

    Raises:
        InputError: if the images are too small.
    """

    def __init__(
        self, in_channels: int, image_size: int, channels: int, menu: Menu, style: LayerStyle = DERIVED
    ) -> None:
        super().__init__()
        if image_size < 8:
            raise InputError(f"space enas_macro: image_size={image_size} given, at least 8 is needed")
        self.menu = menu
        self.stem = pooling_stem(in_channels, channels, image_size)
        chains = list(menu["op"].values())
        self.depth = len(chains)
        if not all(chains):
            raise InputError(f"space enas_macro: layer {chains.index(())} has no op in the menu, each layer needs one")
        self.layers = nn.ModuleList(nn.ModuleDict({op: macro_op(op, channels, style) for op in ops}) for ops in chains)
        self.norms = nn.ModuleList(BatchNorm2d(channels, affine=style.affine) for _ in range(self.depth - 1))
        self.reduce = nn.ModuleDict(
            {f"{state}_{layer}": FactorizedReduce(channels, channels, style) for state, layer in menu["halve"]}
        )
        self.feature_dim = channels

    def forward(self, x: Tensor, genotype: Genotype) -> Tensor:
        """Run only the genotype's path: ``[B, C, H, W]`` to features ``[B, feature_dim]``."""
        edges = genotype.edges[0][1]
        halved = set(reductions_read([edge[1:] for edge in edges], self.depth))
        states = [self.stem(channels_last(x))]
        for layer in range(self.depth):
            (op, *_), *skips = [edge for edge in edges if edge.dst == layer + 1]
            out = self.layers[layer][op](states[layer])  # type: ignore[index]  # ModuleList of ModuleDicts
            if layer:
                for skip in skips:
                    out = out + states[skip.src]
                out = self.norms[layer - 1](out)
            states.append(out)
            self._halve(states, layer, halved)
        return states[-1].mean(dim=(2, 3))

    def mixed(self, x: Tensor, weights: EdgeWeights) -> Tensor:
        """Run a mixture, every skip by the weight of its ``skip_connect``: ``[B, C, H, W]`` to ``[B, feature_dim]``."""
        skips = {place: row["skip_connect"] for place, row in weights.get("skip", {}).items() if "skip_connect" in row}
        halved = set(reductions_read([*weights["op"], *skips], self.depth))
        states = [self.stem(channels_last(x))]
        for layer, row in enumerate(weights["op"].values()):
            terms = Source(states[layer]).terms(self.layers[layer], row)
            if not terms:
                raise ValueError(f"layer {layer} of a macro network whose ops are all left out has no output")
            out = added(terms)
            if layer:
                for state in range(layer):
                    if (state, layer + 1) in skips:
                        out = out + skips[state, layer + 1] * states[state]
                out = self.norms[layer - 1](out)
            states.append(out)
            self._halve(states, layer, halved)
        return states[-1].mean(dim=(2, 3))

    def _halve(self, states: list[Tensor], layer: int, halved: Collection[Place]) -> None:
        """Halve, in place, what is read after the pooling layer ``layer``."""
        for state in range(layer + 2):
            if (state, layer) in halved:
                states[state] = self.reduce[f"{state}_{layer}"](states[state])

    def owned_ops(self) -> Iterator[tuple[str, str, Edge]]:
        """Yield, for each op module held, its name prefix (with the dot), cell type and edge."""
        for (src, dst), ops in self.menu["op"].items():
            for op in ops:
                yield f"layers.{src}.{op}.", "op", Edge(op, src, dst)
        for state, layer in self.menu["halve"]:
            yield f"reduce.{state}_{layer}.", "halve", Edge("halve", state, layer)


class EnasMacro(SearchSpace):
    """``cells`` layers L: per layer one op of six, then one yes-or-no per layer before it (Pham et al. 2018).

    Layer i reads the output of layer i - 1 (layer 0 the stem). Its i skip decisions stand for the stem and for layers
    0..i-2, in that order; the outputs that they name are ADDED to its output. Every layer but the first ends with a BN.
    After layers ``L // 3 - 1`` and ``2 * (L // 3) - 1`` all outputs so far, the stem's too, are halved by a factorised
    reduction each. Size ``6**L * 2**(L * (L - 1) / 2)``, 1.6e29 for ENAS' L = 12; the default of 6 is 1.5e9.

    Deviations: the width stays ``channels`` throughout (as in ENAS' search; its retrained networks double it); a
    separable convolution has BN after its pointwise part only; the stem pools images larger than 21 pixels (ENAS ran
    at 32); what nobody reads later is not halved; no dropout.

    Args:
        channels: channels of every layer.
        cells: number of layers.
        nodes: recorded in the genotype and otherwise without effect: a layer has no inner nodes.
    """

    name: ClassVar[str] = "enas_macro"

    def __init__(self, channels: int = 16, cells: int = 6, nodes: int = 1) -> None:
        super().__init__(channels, cells, nodes)
        self._decisions = tuple(self._layer_decisions())

    def _layer_decisions(self) -> Iterator[Decision]:
        for layer in range(self.cells):
            yield Decision(f"layer/{layer}/op", "op", MACRO_OPS)
            for state in range(layer):
                yield Decision(f"layer/{layer}/skip/{state}", "skip", SKIP_CHOICES)

    def _edges(self, decisions: Sequence[int]) -> tuple[tuple[str, tuple[Edge, ...]], ...]:
        left, edges = iter(decisions), []
        for layer in range(self.cells):
            edges.append(Edge(MACRO_OPS[next(left)], layer, layer + 1))
            edges += [Edge("skip_connect", state, layer + 1) for state in range(layer) if next(left)]
        return (("macro", tuple(edges)),)

    def _decisions_of(self, genotype: Genotype) -> tuple[int, ...]:
        given = [cell_type for cell_type, _ in genotype.edges]
        if given != ["macro"]:
            raise InputError(f"genotype: cell types {', '.join(given)} given, space {self.name} has macro")
        edges = genotype.edges[0][1]
        decisions: list[int] = []
        for layer in range(self.cells):
            own = [edge for edge in edges if edge.dst == layer + 1]
            if not own or own[0].src != layer:
                raise InputError(
                    f"genotype: no op on edge {layer}->{layer + 1} given, each of the {self.cells} layers of space "
                    f"{self.name} begins with one"
                )
            decisions.append(op_index(MACRO_OPS, own[0], "macro", self.name))
            decisions += [int(Edge("skip_connect", state, layer + 1) in own) for state in range(layer)]
        if self._edges(decisions)[0][1] != edges:
            raise InputError(
                f"genotype: edges {[tuple(edge) for edge in edges]} given, space {self.name} has, layer by layer, an "
                "op from the layer before and then skip_connect from distinct states before that, in ascending order"
            )
        return tuple(decisions)

    def menu(self) -> Menu:
        """Return the ops of all layers, and the skips, each ``skip_connect`` or ``none``.

        Of the decisions of a layer, ``op`` has one edge for each layer, from the layer before, and ``skip`` one edge
        for each yes-or-no. A single layer has no skips.
        """
        ops = {(layer, layer + 1): MACRO_OPS for layer in range(self.cells)}
        skips = {(state, layer + 1): SKIP_OPS for layer in range(self.cells) for state in range(layer)}
        return {"op": ops, "skip": skips} if skips else {"op": ops}

    def with_fixed_parts(self, menu: Menu) -> Menu:
        """Add the states that are halved on the way, because somebody reads them later, under ``halve``."""
        places = [*menu["op"], *(place for place, ops in menu.get("skip", {}).items() if "skip_connect" in ops)]
        return {**menu, "halve": {place: ("halve",) for place in reductions_read(places, self.cells)}}

    def menu_of(self, genotype: Genotype) -> Menu:
        """Return the genotype's edges, and the states that are halved on the way."""
        return self.with_fixed_parts(self.chosen(genotype))

    def chosen(self, genotype: Genotype) -> Menu:
        """Return the genotype's ops by the cell types of :meth:`menu`."""
        ops: dict[Place, tuple[str, ...]] = {}
        skips: dict[Place, tuple[str, ...]] = {}
        for op, src, dst in genotype.edges[0][1]:
            (ops if src == dst - 1 else skips)[src, dst] = (op,)
        return {"op": ops, "skip": skips}

    def _strongest(self, weights: EdgeNumbers) -> tuple[tuple[str, tuple[Edge, ...]], ...]:
        """Return the heaviest op of every layer, and the skips that outweigh their ``none``."""
        edges: list[Edge] = []
        skips = [Edge(heaviest(row), *place) for place, row in weights.get("skip", {}).items()]
        for (src, dst), row in weights["op"].items():
            edges.append(Edge(heaviest(row), src, dst))
            edges += [skip for skip in skips if skip.dst == dst and skip.op == "skip_connect"]
        return (("macro", tuple(edges)),)

    def body(self, in_channels: int, image_size: int, menu: Menu, style: LayerStyle = DERIVED) -> Body:
        """Build the network; see :class:`MacroBody`."""
        return MacroBody(in_channels, image_size, self.channels, menu, style)
