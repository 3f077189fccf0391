"""What a learner that searches ends its training with, for EpisodicModule."""

from typing import Any, ClassVar

from few_shot_nas.search.search_result import SearchResult
from few_shot_nas.spaces.genotype import Genotype


class EndOfSearch:
    """The part of a learner that ends a search; a learner that searches none leaves it as it stands.

    Attributes:
        genotype: the architecture that a search ended with, or None.
        search_summary: what a search spent, e.g. ``{"reward_calls": 800}``.
    """

    #: Whether training ends with an architecture: set where a class says how, in :meth:`end_search`.
    searches: ClassVar[bool] = False
    genotype: Genotype | None
    search_summary: dict[str, Any]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.searches = cls.end_search is not EndOfSearch.end_search

    def end_search(self, datamodule: Any) -> SearchResult | None:
        """Return the architecture that training ends with and its cost; None for a learner that searches none.

        Runs on every rank after training, and the ranks must agree.

        Args:
            datamodule: the data module of the run, for tasks to decide on (``episodes_of``).
        """
        return None

    def finish_search(self, datamodule: Any) -> None:
        """Keep what :meth:`end_search` returns as ``genotype`` and ``search_summary``."""
        found = self.end_search(datamodule)
        if found is not None:
            self.genotype, self.search_summary = found.genotype, found.summary()
