"""What a search space is: a list of decisions, and how their outcomes become an architecture."""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from few_shot_nas.errors import InputError
from few_shot_nas.spaces.genotype import Edge, Genotype
from few_shot_nas.spaces.ops import DERIVED, LayerStyle

MAX_ENUMERATED = 100_000
#: Genotypes whose validity a space remembers: more than a search has at hand in one step.
MAX_REMEMBERED = 256

Place = tuple[int, int]

# Cell type -> (src, dst) -> the ops a network holds on that edge.
Menu = Mapping[str, Mapping[Place, tuple[str, ...]]]

# Cell type -> weights [edges, ops], rows and columns in the order of SearchSpace.menu().
Mixture = Mapping[str, Tensor]

# A mixture opened: cell type -> (src, dst) -> op -> its weight, a scalar. What is absent is not run.
EdgeWeights = Mapping[str, Mapping[Place, Mapping[str, Tensor]]]

# The same weights as numbers.
EdgeNumbers = Mapping[str, Mapping[Place, Mapping[str, float]]]


class Decision(NamedTuple):
    """One choice that a policy makes.

    Attributes:
        name: unique within the space, e.g. ``normal/2/inputs``.
        kind: decisions of one kind choose from the same list (or its beginning), so a policy may share weights.
        choices: the list: op names, state indices, pairs of them, or ``no`` and ``yes``.
    """

    name: str
    kind: str
    choices: tuple[str | int | tuple[int, int], ...]


class Body(nn.Module, ABC):
    """Everything of a network but its head. Holds, on every edge, the ops of a menu and runs one of them or all.

    Attributes:
        feature_dim: length of the feature vectors.
    """

    feature_dim: int

    @abstractmethod
    def forward(self, x: Tensor, genotype: Genotype) -> Tensor:
        """Run only the genotype's path: ``[B, C, H, W]`` to features ``[B, feature_dim]``."""

    @abstractmethod
    def mixed(self, x: Tensor, weights: EdgeWeights) -> Tensor:
        """Run a mixture: on every edge the sum of its ops' outputs by their weights (Liu et al. 2019, equation 2).

        Nothing depends on the values of the weights, so a pass works under ``torch.func`` transformations and does not
        wait for a GPU. What is not to be run is left out of ``weights``.

        Args:
            x: images ``[B, C, H, W]``.
            weights: as :meth:`SearchSpace.edge_weights` makes them; ``none`` adds nothing.

        Returns:
            Features ``[B, feature_dim]``.
        """

    @abstractmethod
    def owned_ops(self) -> Iterator[tuple[str, str, Edge]]:
        """Yield, for each op module held, its name prefix (with the dot), cell type and edge."""


class SearchSpace(ABC):
    """A finite set of architectures, described by independent decisions.

    A subclass sets ``name`` and ``_decisions``, and writes :meth:`_edges`, :meth:`_decisions_of`, :meth:`menu` and
    :meth:`body`. Where an architecture is not one op on each edge of the menu, it writes :meth:`chosen` and
    :meth:`_strongest` too.

    Args:
        channels: channels of the first cell.
        cells: number of cells.
        nodes: intermediate nodes per cell.

    Raises:
        InputError: if one of them is less than 1.
    """

    name: ClassVar[str]
    _decisions: tuple[Decision, ...]

    def __init__(self, channels: int, cells: int, nodes: int) -> None:
        for flag, value in (("channels", channels), ("cells", cells), ("nodes", nodes)):
            if value < 1:
                raise InputError(f"space {self.name}: {flag}={value} given, at least 1 is needed")
        self.channels = channels
        self.cells = cells
        self.nodes = nodes
        self._remembered: dict[Genotype, tuple[int, ...]] = {}

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """The decisions, in the order a policy takes them."""
        return self._decisions

    @abstractmethod
    def _edges(self, decisions: Sequence[int]) -> tuple[tuple[str, tuple[Edge, ...]], ...]:
        """Return the edges of valid decisions."""

    @abstractmethod
    def _decisions_of(self, genotype: Genotype) -> tuple[int, ...]:
        """Return the decisions of a genotype whose scalar fields fit; InputError where its edges do not."""

    @abstractmethod
    def menu(self) -> Menu:
        """Return every searched edge with its ops: the rows and columns of a :data:`Mixture`.

        All edges of a cell type have the same ops. ``none``, where it is among them, means no connection.
        """

    def with_fixed_parts(self, menu: Menu) -> Menu:
        """Return a menu of searched edges and what a network with them needs besides: what :meth:`body` builds."""
        return menu

    def menu_of(self, genotype: Genotype) -> Menu:
        """Return what the network of one architecture holds.

        A space whose networks own more than the genotype's edges, or not all of them, says so here; which parameters
        are on a path and what a derived network holds both follow from it.
        """
        return genotype_menu(genotype)

    @abstractmethod
    def body(self, in_channels: int, image_size: int, menu: Menu, style: LayerStyle = DERIVED) -> Body:
        """Build a network without head that holds the ops of ``menu``, fixed parts included.

        Raises:
            InputError: if the images are too small for the number of cells.
        """

    # ---- mixtures ---------------------------------------------------------------------------------------------------

    def chosen(self, genotype: Genotype) -> Menu:
        """Return the one op that a genotype has on each edge of :meth:`menu`; an edge that it lacks has ``none``."""
        return genotype_menu(genotype)

    def _strongest(self, weights: EdgeNumbers) -> tuple[tuple[str, tuple[Edge, ...]], ...]:
        """Return the edges of the architecture that a mixture stands for: here, the heaviest op of every edge."""
        return tuple(
            (cell_type, tuple(Edge(heaviest(row), *place) for place, row in rows.items()))
            for cell_type, rows in weights.items()
        )

    def restricted(self, menu: Menu) -> Menu:
        """Return :meth:`menu` without the ops that ``menu`` lacks; an edge without any op stays, empty.

        Args:
            menu: some of the ops of some of the edges. A cell type that it does not name keeps all.

        Raises:
            InputError: naming what is not in this space.
        """
        own = self.menu()
        for cell_type, edges in menu.items():
            for place, ops in edges.items():
                strange = [op for op in ops if op not in own.get(cell_type, {}).get(place, ())]
                if strange or place not in own.get(cell_type, {}):
                    what = f"op {strange[0]} on " if strange else ""
                    raise InputError(
                        f"menu: {what}edge {place[0]}->{place[1]} of {cell_type} is not in space {self.name}"
                    )
        return {
            cell_type: {
                place: tuple(op for op in ops if op in menu.get(cell_type, edges).get(place, ()))
                for place, ops in edges.items()
            }
            for cell_type, edges in own.items()
        }

    def edge_weights(self, mixture: Mixture, *kept: Menu) -> EdgeWeights:
        """Open a mixture for :meth:`Body.mixed`.

        Args:
            mixture: weights ``[edges, ops]`` for each cell type, all ops of :meth:`menu`.
            *kept: menus; an op that one of them lacks is left out, whatever its weight.

        Raises:
            ValueError: if cell types or shapes are not those of the menu.
        """
        opened: dict[str, dict[Place, dict[str, Tensor]]] = {}
        for cell_type, edges in self.menu().items():
            shape = (len(edges), len(next(iter(edges.values()))))
            given = tuple(mixture[cell_type].shape) if cell_type in mixture else None
            if given != shape:
                raise ValueError(f"mixture of space {self.name}: {cell_type} has shape {given}, {shape} is needed")
            scalars = iter(mixture[cell_type].flatten().unbind())
            opened[cell_type] = {place: {op: next(scalars) for op in ops} for place, ops in edges.items()}
            for menu in kept:
                opened[cell_type] = {
                    place: {op: row[op] for op in row if op in menu[cell_type].get(place, ())}
                    for place, row in opened[cell_type].items()
                }
        return opened

    def active_ops(self, mixture: Mixture, above: float = 0.0) -> Menu:
        """Return the ops whose weight is greater than ``above``, for the ``active`` of a supernet's mixed pass.

        Reads the weights, which waits for a GPU: for mixtures that stay the same over many passes, such as one-hot and
        pruned ones. Not for use under ``torch.func`` transformations.
        """
        return {
            cell_type: {place: tuple(op for op in row if row[op] > above) for place, row in rows.items()}
            for cell_type, rows in self._numbers(mixture).items()
        }

    def _numbers(self, mixture: Mixture) -> EdgeNumbers:
        opened = self.edge_weights({cell_type: value.detach().cpu() for cell_type, value in mixture.items()})
        return {
            cell_type: {place: {op: float(weight) for op, weight in row.items()} for place, row in rows.items()}
            for cell_type, rows in opened.items()
        }

    def one_hot(self, genotype: Genotype) -> Mixture:
        """Return the mixture of one architecture: weight 1 for its op on each edge, ``none`` on edges that it lacks.

        Raises:
            InputError: if the genotype is not in the space.
        """
        self.encode(genotype)
        chosen = self.chosen(genotype)
        return {
            cell_type: torch.tensor(
                [[float(op in chosen[cell_type].get(place, ("none",))) for op in ops] for place, ops in edges.items()]
            )
            for cell_type, edges in self.menu().items()
        }

    def discretise(self, mixture: Mixture) -> Genotype:
        """Return the architecture that a mixture stands for; of equal weights the first one counts.

        ``discretise(one_hot(genotype))`` is ``genotype``.

        Args:
            mixture: weights, or alphas: within a row only their order counts, between the rows of one node their size.

        Raises:
            InputError: if a weight is not a number.
        """
        for cell_type, weights in mixture.items():
            if bool(weights.isnan().any()):
                raise InputError(
                    f"mixture of space {self.name}: {cell_type} has weights that are not numbers; training has "
                    "diverged: lower the rates that move the alphas"
                )
        genotype = Genotype(
            self.name, self.channels, self.cells, self.nodes, self._strongest(self._numbers(mixture))
        )
        self.encode(genotype)
        return genotype

    # ---- decisions --------------------------------------------------------------------------------------------------

    def decode(self, decisions: Sequence[int]) -> Genotype:
        """Turn one choice index per decision into a genotype.

        Raises:
            InputError: if there are too many or too few decisions, or one is out of range.
        """
        if len(decisions) != len(self._decisions):
            raise InputError(f"space {self.name}: {len(decisions)} decisions given, {len(self._decisions)} are needed")
        for choice, decision in zip(decisions, self._decisions, strict=True):
            if not 0 <= choice < len(decision.choices):
                raise InputError(
                    f"space {self.name}: choice {choice} of decision {decision.name} given, "
                    f"it must lie in 0..{len(decision.choices) - 1}"
                )
        return Genotype(self.name, self.channels, self.cells, self.nodes, self._edges(decisions))

    def encode(self, genotype: Genotype) -> tuple[int, ...]:
        """Return the decisions that :meth:`decode` turns into ``genotype``.

        The genotypes checked last are remembered, because every forward pass of a child asks again.

        Raises:
            InputError: naming what is wrong if the genotype is not an architecture of this space: another space,
                size, edge or op.
        """
        decisions = self._remembered.get(genotype)
        if decisions is None:
            decisions = self._checked(genotype)
            if len(self._remembered) >= MAX_REMEMBERED:
                del self._remembered[next(iter(self._remembered))]  # the oldest
            self._remembered[genotype] = decisions
        return decisions

    def _checked(self, genotype: Genotype) -> tuple[int, ...]:
        for field in ("space", "channels", "cells", "nodes"):
            given, own = getattr(genotype, field), self.name if field == "space" else getattr(self, field)
            if given != own:
                raise InputError(
                    f"genotype of space {genotype.space} with {field}={given} does not fit "
                    f"space {self.name}, which has {field}={own}"
                )
        return self._decisions_of(genotype)

    def size(self) -> int:
        """Return the number of architectures."""
        return math.prod(len(decision.choices) for decision in self._decisions)

    def sample(self, generator: torch.Generator) -> tuple[int, ...]:
        """Draw the decisions of one architecture, uniformly; only ``generator`` is used."""
        return tuple(
            int(torch.randint(len(decision.choices), (), generator=generator, device=generator.device))
            for decision in self._decisions
        )

    def enumerate(self) -> Iterator[tuple[int, ...]]:
        """Return the decisions of all architectures, in lexicographic order.

        Raises:
            InputError: if there are more than 100,000.
        """
        if self.size() > MAX_ENUMERATED:
            raise InputError(
                f"space {self.name} has {self.size()} architectures, at most {MAX_ENUMERATED} can be enumerated; "
                "sample instead"
            )
        return itertools.product(*(range(len(decision.choices)) for decision in self._decisions))


def op_index(ops: Sequence[str], edge: Edge, cell_type: str, space: str) -> int:
    """Return the place of the edge's op in ``ops``.

    Raises:
        InputError: if the op is not one of them.
    """
    if edge.op not in ops:
        raise InputError(
            f"genotype: op {edge.op} on edge {edge.src}->{edge.dst} of {cell_type} is not in space {space}; "
            f"it has {', '.join(ops)}"
        )
    return ops.index(edge.op)


def heaviest(row: Mapping[str, float], without: Sequence[str] = ()) -> str:
    """Return the op of the greatest weight, the ops ``without`` left out; the first of equals."""
    ops = [op for op in row if op not in without]
    return max(ops, key=lambda op: row[op])


def genotype_menu(genotype: Genotype) -> Menu:
    """Return the menu that holds the genotype's own op on each of its edges and nothing else."""
    return {
        cell_type: {(edge.src, edge.dst): (edge.op,) for edge in edges} for cell_type, edges in genotype.edges
    }
