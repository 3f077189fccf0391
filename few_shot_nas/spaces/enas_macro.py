"""The macro space of ENAS: an op for every layer, and which earlier layers are added to its output."""

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from few_shot_nas.errors import InputError
from few_shot_nas.nn.layout import channels_last
from few_shot_nas.nn.norm import BatchNorm2d
from few_shot_nas.spaces.cell import pooling_stem
from few_shot_nas.spaces.genotype import Edge, Genotype
from few_shot_nas.spaces.ops import OPS, FactorizedReduce
from few_shot_nas.spaces.space import Body, Decision, Menu, SearchSpace, genotype_menu, op_index

# In the order of the arc strings. Not in OPS: these include the 1x1 convolution that precedes each of them.
MACRO_OPS = ("enas_conv_k3", "enas_sep_k3", "enas_conv_k5", "enas_sep_k5", "enas_avg_pool", "enas_max_pool")
SKIP_CHOICES = ("no", "yes")


def macro_op(name: str, channels: int) -> nn.Sequential:
    """Build a branch: 1x1 convolution, BN, ReLU; then (separable) convolution, BN, ReLU, or a bare pool."""
    layers: list[nn.Module] = [nn.Conv2d(channels, channels, 1, bias=False), BatchNorm2d(channels), nn.ReLU()]
    if name.endswith("pool"):
        pool = name.removeprefix("enas_")
        return nn.Sequential(*layers, OPS[f"{pool}_3x3"](channels, channels, 1, True))
    kernel = int(name[-1])
    if "sep" in name:
        layers.append(nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False))
        kernel = 1
    layers.append(nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False))
    return nn.Sequential(*layers, BatchNorm2d(channels), nn.ReLU())


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
        menu: ops and skips under ``macro``, halved states under ``reduce``.

    Raises:
        InputError: if the images are too small.
    """

    def __init__(self, in_channels: int, image_size: int, channels: int, menu: Menu) -> None:
        super().__init__()
        if image_size < 8:
            raise InputError(f"space enas_macro: image_size={image_size} given, at least 8 is needed")
        self.menu = menu
        self.stem = pooling_stem(in_channels, channels, image_size)
        chains = {dst: ops for (src, dst), ops in menu["macro"].items() if src == dst - 1}
        self.depth = len(chains)
        self.layers = nn.ModuleList(
            nn.ModuleDict({op: macro_op(op, channels) for op in chains[layer + 1]}) for layer in range(self.depth)
        )
        self.norms = nn.ModuleList(BatchNorm2d(channels) for _ in range(self.depth - 1))
        self.reduce = nn.ModuleDict(
            {f"{state}_{layer}": FactorizedReduce(channels, channels, True) for state, layer in menu["reduce"]}
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
            for state in range(layer + 2):
                if (state, layer) in halved:
                    states[state] = self.reduce[f"{state}_{layer}"](states[state])
        return states[-1].mean(dim=(2, 3))

    def owned_ops(self) -> Iterator[tuple[str, str, Edge]]:
        """Yield, for each op module held, its name prefix (with the dot), cell type and edge."""
        for (src, dst), ops in self.menu["macro"].items():
            if src == dst - 1:
                for op in ops:
                    yield f"layers.{src}.{op}.", "macro", Edge(op, src, dst)
        for state, layer in self.menu["reduce"]:
            yield f"reduce.{state}_{layer}.", "reduce", Edge("reduce", state, layer)


class EnasMacro(SearchSpace):
    """``cells`` layers L: per layer one op of six, then one yes-or-no per layer before it (Pham et al. 2018).

    Layer i reads the output of layer i - 1 (layer 0 the stem). To its output are ADDED those of the stem and of layers
    0..i-2 that its i skip decisions name, in that order, and every layer but the first ends with a BN. After layers
    ``L // 3 - 1`` and ``2 * (L // 3) - 1`` all outputs so far, the stem's too, are halved by a factorised reduction
    each. Size ``6**L * 2**(L * (L - 1) / 2)``, 1.6e29 for ENAS' L = 12; the default of 6 is 1.5e9.

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

    def _edges(self, choices: Sequence[int]) -> tuple[tuple[str, tuple[Edge, ...]], ...]:
        left, edges = iter(choices), []
        for layer in range(self.cells):
            edges.append(Edge(MACRO_OPS[next(left)], layer, layer + 1))
            edges += [Edge("skip_connect", state, layer + 1) for state in range(layer) if next(left)]
        return (("macro", tuple(edges)),)

    def _choices(self, genotype: Genotype) -> tuple[int, ...]:
        given = [cell_type for cell_type, _ in genotype.edges]
        if given != ["macro"]:
            raise InputError(f"genotype: cell types {', '.join(given)} given, space {self.name} has macro")
        edges = genotype.edges[0][1]
        choices: list[int] = []
        for layer in range(self.cells):
            own = [edge for edge in edges if edge.dst == layer + 1]
            if not own or own[0].src != layer:
                raise InputError(
                    f"genotype: no op on edge {layer}->{layer + 1} given, each of the {self.cells} layers of space "
                    f"{self.name} begins with one"
                )
            choices.append(op_index(MACRO_OPS, own[0], "macro", self.name))
            choices += [int(Edge("skip_connect", state, layer + 1) in own) for state in range(layer)]
        if self._edges(choices)[0][1] != edges:
            raise InputError(
                f"genotype: edges {[tuple(edge) for edge in edges]} given, space {self.name} has, layer by layer, an "
                "op from the layer before and then skip_connect from distinct states before that, in ascending order"
            )
        return tuple(choices)

    def menu(self) -> Menu:
        """Return all ops of all layers, all skips, and every state that may have to be halved."""
        ops = {(layer, layer + 1): MACRO_OPS for layer in range(self.cells)}
        skips = {(state, layer + 1): ("skip_connect",) for layer in range(self.cells) for state in range(layer)}
        return self._with_reductions({**ops, **skips})

    def menu_of(self, genotype: Genotype) -> Menu:
        """Return the genotype's edges, and the states that are halved on the way."""
        return self._with_reductions(genotype_menu(genotype)["macro"])

    def _with_reductions(self, macro: Mapping[tuple[int, int], tuple[str, ...]]) -> Menu:
        return {"macro": macro, "reduce": {place: ("reduce",) for place in reductions_read(list(macro), self.cells)}}

    def body(self, in_channels: int, image_size: int, menu: Menu) -> Body:
        """Build the network; see :class:`MacroBody`."""
        return MacroBody(in_channels, image_size, self.channels, menu)
