"""What a search ends with, whatever kind of search it is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from few_shot_nas.spaces.genotype import Genotype


@dataclass(frozen=True)
class SearchResult:
    """The architecture that a search ended with, and what it cost.

    Attributes:
        genotype: the architecture.
        cost: what was spent, in units named by the keys: ``reward_calls``, ``forward_passes``, ``kernel_evaluations``.
            A part of a total stands beside it under a longer name, such as ``reward_calls_derive``.
        facts: what else results.json says of the search, plain data.
    """

    genotype: Genotype
    cost: Mapping[str, int]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """Return cost and facts as one flat dict, the entry ``search`` of results.json."""
        return {**self.cost, **self.facts}
