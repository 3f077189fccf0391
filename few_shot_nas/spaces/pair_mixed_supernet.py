"""The mixed supernet of MetaNAS: nodes are mixtures of pairs of inputs, each input a mixture of ops."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from few_shot_nas import seeding
from few_shot_nas.errors import InputError
from few_shot_nas.registry import lookup
from few_shot_nas.ranges import Cells, Nodes, Share, Ways, Width, check, ranges_of
from few_shot_nas.spaces import SPACES
from few_shot_nas.spaces.cell_space import CellSpace
from few_shot_nas.spaces.genotype import Genotype
from few_shot_nas.spaces.mixed_supernet import ALPHA_STD, MixedSupernet
from few_shot_nas.spaces.space import Decision, Menu, Mixture

#: What follows a cell type's name in the alphas of its pairs.
PAIRS = "_pairs"
#: What follows cell type and node in the name of the choice among the pairs of its inputs.
INPUTS = "/inputs"


def without_none(menu: Menu) -> Menu:
    """Return a menu whose edges lack the op ``none``.

    >>> without_none({"normal": {(0, 2): ("none", "skip_connect")}})
    {'normal': {(0, 2): ('skip_connect',)}}
    """
    return {
        cell_type: {place: tuple(op for op in ops if op != "none") for place, ops in edges.items()}
        for cell_type, edges in menu.items()
    }


class PairMixedSupernet(MixedSupernet):
    """A mixed supernet whose node i is ``sum_{a<b} p_ab (o_a + o_b)``, p a softmax over pairs of its inputs.

    ``o_a`` is the mixture of the ops on the edge from a. The sum equals an ordinary mixture in which an edge's ops are
    scaled by the weights of the pairs that it is in, so it costs what an ordinary mixture costs.

    Source: MetaNAS (Elsken et al., CVPR 2020, "Meta-learning of neural architectures for few-shot learning"), section
    4: temperature and soft pruning. As in the paper the op ``none`` is left out. Deviation: no path is dropped at
    random.

    Args:
        n_way: number of classes N.
        in_channels: channels of the images.
        image_size: height and width of the images.
        space: a space of cells.
        channels: channels of the first cell; MetaNAS takes 28.
        cells: number of cells; None takes the space's own default.
        nodes: intermediate nodes per cell; None takes the space's own default.
        affine: whether the BN of the searched layers learn a scale and a shift; MetaNAS has none.
        norm_pools: whether pools without a BN of their own get one, as in MetaNAS.
        alpha_threshold: weights of ops and of pairs at or below it count as 0; the others are not scaled up.
        seed: names the streams of the first alphas.
        **supernet: what else :class:`MixedSupernet` takes.

    Attributes:
        alphas: what :class:`MixedSupernet` has, and for each cell type ``<cell type>_pairs [pairs]``: the pairs of the
            first node's inputs, then of the second's, each in lexicographic order.

    Raises:
        InputError: for a space whose nodes do not choose pairs of inputs, or a threshold that is not a share.
    """

    def __init__(
        self,
        n_way: Ways,
        in_channels: int,
        image_size: int,
        space: str = "darts_fewshot",
        channels: Width = 28,
        cells: Cells | None = None,
        nodes: Nodes | None = None,
        affine: bool = False,
        norm_pools: bool = True,
        alpha_threshold: Share = 0.0,
        seed: int = 0,
        **supernet: Any,
    ) -> None:
        kind = lookup(SPACES, space, "space")
        if not issubclass(kind, CellSpace):
            raise InputError(
                f"PairMixedSupernet: nodes of space {space} choose no pairs; use darts, darts_fewshot or metanas"
            )
        check(f"alpha_threshold={alpha_threshold}", alpha_threshold, ranges_of(Share))
        sizes = {name: value for name, value in (("cells", cells), ("nodes", nodes)) if value is not None}
        menu = without_none(kind(channels=channels, **sizes).menu())
        own = {"space": space, "channels": channels, **sizes, "affine": affine, "norm_pools": norm_pools, "menu": menu}
        super().__init__(n_way, in_channels, image_size, seed, **own, **supernet)
        self.alpha_threshold = alpha_threshold
        stream = seeding.generator(seed, "pairs")
        for cell_type in self.space.menu():
            count = sum(len(pairs) for pairs in self._pairs(cell_type))
            self.alphas[cell_type + PAIRS] = nn.Parameter(ALPHA_STD * torch.randn(count, generator=stream))

    def _pairs(self, cell_type: str) -> list[list[tuple[int, int]]]:
        """Return for each node the pairs of its edges, by their rows in the mixture."""
        rows: dict[int, list[int]] = {}
        for row, (_, dst) in enumerate(self.space.menu()[cell_type]):
            rows.setdefault(dst, []).append(row)
        return [list(combinations(rows[dst], 2)) for dst in sorted(rows)]

    def choices(self) -> list[tuple[Decision, Tensor]]:
        """Return the choices among ops of every edge, then those among the pairs of inputs of every node."""
        found = super().choices()
        for cell_type, edges in self.space.menu().items():
            places, by_node = list(edges), self._pairs(cell_type)
            logits = self.alphas[cell_type + PAIRS].split([len(pairs) for pairs in by_node])
            for pairs, own in zip(by_node, logits, strict=True):
                sources = tuple((places[first][0], places[second][0]) for first, second in pairs)
                node = places[pairs[0][0]][1]
                found.append((Decision(f"{cell_type}/{node}{INPUTS}", "pair", sources), own.softmax(dim=-1)))
        return found

    def mixture_of(self, alphas: Mapping[str, Tensor], temperature: float = 1.0) -> Mixture:
        """Return the weights of every op on every edge, the pairs' weights multiplied in.

        Args:
            alphas: as the attribute.
            temperature: divides the alphas; the lower, the nearer to a single architecture.
        """
        return {
            cell_type: self._kept(self._softmax(cell_type, alphas[cell_type] / temperature))
            * self._scales(cell_type, alphas[cell_type + PAIRS] / temperature).unsqueeze(-1)
            for cell_type in self.space.menu()
        }

    def _scales(self, cell_type: str, alphas: Tensor) -> Tensor:
        """Return for each edge the weight of the pairs that it is in, ``[edges]``."""
        by_node = self._pairs(cell_type)
        scales = alphas.new_zeros(len(self.space.menu()[cell_type]))
        for pairs, own in zip(by_node, alphas.split([len(pairs) for pairs in by_node]), strict=True):
            weights = self._kept(own.softmax(dim=-1))
            members = torch.zeros(len(scales), len(pairs), dtype=alphas.dtype, device=alphas.device)
            for column, pair in enumerate(pairs):
                members[list(pair), column] = 1.0
            scales = scales + members @ weights
        return scales

    def _kept(self, weights: Tensor) -> Tensor:
        return torch.where(weights > self.alpha_threshold, weights, 0.0) if self.alpha_threshold else weights

    def features(self, x: Tensor, genotype: Genotype | None = None, temperature: float = 1.0) -> Tensor:
        """Images ``[B, C, H, W]`` to features ``[B, feature_dim]``: of the mixture, or of one architecture alone."""
        if genotype is not None:
            return super().features(x, genotype)
        return self.mixed_features(x, self.mixture_of(dict(self.alphas.items()), temperature))

    def forward(self, x: Tensor, genotype: Genotype | None = None, temperature: float = 1.0) -> Tensor:
        """Images ``[B, C, H, W]`` to logits ``[B, N]``: of the mixture, or of one architecture alone."""
        return self.head(self.features(x, genotype, temperature))

    def discretise_alphas(self, alphas: Mapping[str, Tensor]) -> Genotype:
        """Return the likeliest pair of inputs of every node, with the likeliest op of each of the two."""
        mixture = {}
        for cell_type in self.space.menu():
            by_node = self._pairs(cell_type)
            logits = alphas[cell_type + PAIRS].detach().split([len(pairs) for pairs in by_node])
            chosen = [pairs[int(own.argmax())] for pairs, own in zip(by_node, logits, strict=True)]
            ops = self._softmax(cell_type, alphas[cell_type].detach())
            kept = ops.new_zeros(len(ops), 1)
            kept[[row for pair in chosen for row in pair]] = 1.0
            mixture[cell_type] = ops * kept
        return self.limits.discretise(mixture)
