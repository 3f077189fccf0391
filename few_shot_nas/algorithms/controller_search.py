"""What searches with a controller have in common: what it would choose, and whom it sends into the final round."""

import torch

from few_shot_nas.algorithms.supernet_search import SupernetSearch
from few_shot_nas.controllers.base import Controller
from few_shot_nas.runtime.choices_csv import ChoicesCSV
from few_shot_nas.runtime.gradients import world
from few_shot_nas.search.derive import Decisions
from few_shot_nas.seeding import generator

#: Samples drawn for one distinct candidate before a policy counts as having no other.
PATIENCE = 50
#: Architectures sampled for one row of choices.csv.
MARGINAL_PATHS = 8


class ControllerSearch(SupernetSearch):
    """A search whose architectures come from a controller.

    Attributes:
        controller: the policy; a subclass makes it in its constructor.
    """

    controller: Controller

    def entropy_fraction(self) -> float | None:
        """Entropy of the policy along its greedy architecture, over that of the uniform policy."""
        with torch.no_grad():
            entropy = float(self.controller(greedy=True).entropy)
        return entropy / self.controller.max_entropy() if self.controller.max_entropy() > 0 else 1.0

    def log_row(self, metrics: dict[str, float]) -> None:
        """Write one row; beside those of training, the policy's probability of each choice of each decision.

        Every row samples from the same stream: what changes from row to row is the policy.
        """
        super().log_row(metrics)
        if "train/seconds" not in metrics or self._trainer is None or world()[0] != 0:
            return
        for logger in self.trainer.loggers:
            if isinstance(logger, ChoicesCSV):
                found = self.controller.marginals(generator(self.seed, "choices"), MARGINAL_PATHS)
                logger.log_choices(self.meta_step, self.supernet.space.decisions, [p.tolist() for p in found])

    def incumbent(self) -> Decisions:
        """The greedy architecture of the controller."""
        with torch.no_grad():
            return tuple(self.controller.greedy().tolist())

    def propose(self) -> list[Decisions]:
        """The greedy architecture and distinct samples, so that every search spends its whole derivation."""
        stream = generator(self.seed, "derive")
        found = {self.incumbent(): None}
        with torch.no_grad():
            for _ in range(PATIENCE * self.derive_candidates):
                if len(found) == self.derive_candidates:
                    break
                found.setdefault(tuple(self.controller.sample(stream).decisions.tolist()))
        return list(found)
