"""What searches with a controller have in common: what it would choose, and whom it sends into the final round."""

import logging
from typing import Any

import torch
from torch import Tensor

from few_shot_nas.algorithms.supernet_search import SupernetSearch
from few_shot_nas.controllers.base import Controller
from few_shot_nas.runtime.choices_csv import ChoicesCSV
from few_shot_nas.runtime.gradients import world
from few_shot_nas.search.derive import Decisions
from few_shot_nas.seeding import generator

logger = logging.getLogger(__name__)

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

    def controller_group(self, lr: float, **settings: Any) -> dict[str, Any]:
        """Return the optimizer's group of the controller: no weight decay, and restarts only of the shared weights."""
        return {
            "params": list(self.controller.parameters()),
            "lr": lr,
            "weight_decay": 0.0,
            "scheduled": self.outer.outer_schedule != "sgdr",
            **settings,
        }

    def average_context(self) -> Tensor | None:
        """Return the context of no task in particular, for controllers that take one."""
        return None

    def on_fit_start(self) -> None:
        """Say how certain the policy can become."""
        super().on_fit_start()
        controller = self.controller
        logger.info(
            "%s: %s controller, %d decisions, tanh_constant=%s: no architecture gets a probability above p_max=%.3g",
            type(self).__name__,
            controller.name,
            len(controller.kinds),
            controller.tanh_constant,
            controller.p_max(),
        )

    def finish_search(self, datamodule: Any) -> None:
        """Derive, and note the bound on the policy's certainty."""
        super().finish_search(datamodule)
        self.search_summary["p_max"] = self.controller.p_max()

    def entropy_fraction(self) -> float | None:
        """Entropy of the policy along its greedy architecture, over that of the uniform policy."""
        with torch.no_grad():
            entropy = float(self.controller(greedy=True, context=self.average_context()).entropy)
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
            return tuple(self.controller.greedy(self.average_context()).tolist())

    def propose(self) -> list[Decisions]:
        """The greedy architecture and distinct samples, so that every search spends its whole derivation."""
        stream = generator(self.seed, "derive")
        found = {self.incumbent(): None}
        with torch.no_grad():
            for _ in range(PATIENCE * self.derive_candidates):
                if len(found) == self.derive_candidates:
                    break
                found.setdefault(tuple(self.controller.sample(stream, self.average_context()).decisions.tolist()))
        return list(found)
