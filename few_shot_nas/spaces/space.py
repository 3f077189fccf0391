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

MAX_ENUMERATED = 100_000

# Cell type -> (src, dst) -> the ops a network holds on that edge.
Menu = Mapping[str, Mapping[tuple[int, int], tuple[str, ...]]]


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
    """Everything of a network but its head. Holds, on every edge, the ops of a menu and runs one of them.

    Attributes:
        feature_dim: length of the feature vectors.
    """

    feature_dim: int

    @abstractmethod
    def forward(self, x: Tensor, genotype: Genotype) -> Tensor:
        """Run only the genotype's path: ``[B, C, H, W]`` to features ``[B, feature_dim]``."""

    @abstractmethod
    def owned_ops(self) -> Iterator[tuple[str, str, Edge]]:
        """Yield, for each op module held, its name prefix (with the dot), cell type and edge."""


class SearchSpace(ABC):
    """A finite set of architectures, described by independent decisions.

    A subclass sets ``name`` and ``_decisions``, and writes :meth:`_edges`, :meth:`_choices`, :meth:`menu` and
    :meth:`body`.

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

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """The decisions, in the order a policy takes them."""
        return self._decisions

    @abstractmethod
    def _edges(self, choices: Sequence[int]) -> tuple[tuple[str, tuple[Edge, ...]], ...]:
        """Return the edges of valid choices."""

    @abstractmethod
    def _choices(self, genotype: Genotype) -> tuple[int, ...]:
        """Return the choices of a genotype whose scalar fields fit; InputError where its edges do not."""

    @abstractmethod
    def menu(self) -> Menu:
        """Return every edge a network of this space can have, with its ops."""

    def menu_of(self, genotype: Genotype) -> Menu:
        """Return what the network of one architecture holds: a part of :meth:`menu`.

        A space whose networks own more than the genotype's edges, or not all of them, says so here; which parameters
        are on a path and what a derived network holds both follow from it.
        """
        return genotype_menu(genotype)

    @abstractmethod
    def body(self, in_channels: int, image_size: int, menu: Menu) -> Body:
        """Build a network without head that holds the ops of ``menu``.

        Raises:
            InputError: if the images are too small for the number of cells.
        """

    def decode(self, choices: Sequence[int]) -> Genotype:
        """Turn one choice index per decision into a genotype.

        Raises:
            InputError: if there are too many or too few choices, or one is out of range.
        """
        if len(choices) != len(self._decisions):
            raise InputError(f"space {self.name}: {len(choices)} choices given, {len(self._decisions)} are needed")
        for choice, decision in zip(choices, self._decisions, strict=True):
            if not 0 <= choice < len(decision.choices):
                raise InputError(
                    f"space {self.name}: choice {choice} of decision {decision.name} given, "
                    f"it must lie in 0..{len(decision.choices) - 1}"
                )
        return Genotype(self.name, self.channels, self.cells, self.nodes, self._edges(choices))

    def encode(self, genotype: Genotype) -> tuple[int, ...]:
        """Return the choices that :meth:`decode` turns into ``genotype``.

        Raises:
            InputError: naming what is wrong if the genotype is not an architecture of this space: another space,
                size, edge or op.
        """
        for field in ("space", "channels", "cells", "nodes"):
            given, own = getattr(genotype, field), self.name if field == "space" else getattr(self, field)
            if given != own:
                raise InputError(
                    f"genotype of space {genotype.space} with {field}={given} does not fit "
                    f"space {self.name}, which has {field}={own}"
                )
        return self._choices(genotype)

    def size(self) -> int:
        """Return the number of architectures."""
        return math.prod(len(decision.choices) for decision in self._decisions)

    def sample(self, generator: torch.Generator) -> tuple[int, ...]:
        """Draw the choices of one architecture, uniformly; only ``generator`` is used."""
        return tuple(
            int(torch.randint(len(decision.choices), (), generator=generator, device=generator.device))
            for decision in self._decisions
        )

    def enumerate(self) -> Iterator[tuple[int, ...]]:
        """Return the choices of all architectures, in lexicographic order.

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


def genotype_menu(genotype: Genotype) -> Menu:
    """Return the menu that holds the genotype's own op on each of its edges and nothing else."""
    return {
        cell_type: {(edge.src, edge.dst): (edge.op,) for edge in edges} for cell_type, edges in genotype.edges
    }
