"""What searches with a controller have in common: what it would choose, and whom it sends into the final round."""

import logging
from abc import abstractmethod
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from few_shot_nas.algorithms.on_supernet import OnSupernet
from few_shot_nas.algorithms.settings import InnerLoop, OuterLoop, Scoring
from few_shot_nas.algorithms.shared_children import shared_children
from few_shot_nas.controllers import CONTROLLERS
from few_shot_nas.episode import SingleTask
from few_shot_nas.registry import lookup
from few_shot_nas.runtime.choices_csv import ChoicesCSV
from few_shot_nas.runtime.gradients import gather_rows, world
from few_shot_nas.search.collapse import GREEDY_ENTROPY, WEIGHTLESS, collapse_warning, weightless_fraction
from few_shot_nas.search.derivation import Decisions, Derivation, derive, rank
from few_shot_nas.search.search_result import SearchResult
from few_shot_nas.seeding import generator
from few_shot_nas.spaces.genotype import Genotype

logger = logging.getLogger(__name__)

#: Samples drawn for one distinct candidate before a policy counts as having no other.
PATIENCE = 50
#: Architectures sampled for one row of choices.csv.
MARGINAL_PATHS = 8


class ControllerSearch(OnSupernet):
    """A search whose architectures come from a controller, and whose children share the weights of a supernet.

    Args:
        net: the supernet.
        inner: the inner loop of every child; without effect under a closed-form head.
        scoring: what a child classifies with and is rewarded for.
        outer: the outer loop of the shared weights.
        derivation: how the search ends: the greedy architecture and samples compete.
        controller: name of the controller.
        task_embedding: whether the controller is told what the task looks like.
        seed: names every random stream of the run.

    Attributes:
        supernet_children: the architectures, as they are trained and rewarded.
        controller: the module that holds the policy.
    """

    default_model: ClassVar[str] = "Supernet"

    def __init__(
        self,
        net: nn.Module,
        *,
        inner: InnerLoop,
        scoring: Scoring,
        outer: OuterLoop,
        derivation: Derivation,
        controller: str,
        task_embedding: bool = False,
        seed: int,
    ) -> None:
        super().__init__(net, outer=outer, seed=seed)
        self.inner = inner
        self.supernet_children = shared_children(self, inner, scoring)
        self.derivation = derivation
        decisions = self.supernet.space.decisions
        self.kinds = tuple(decision.kind for decision in decisions)
        embedding_dim = self.supernet.embedding_dim if task_embedding else None
        self.controller = lookup(CONTROLLERS, controller, "controller")(
            [len(decision.choices) for decision in decisions], self.kinds, embedding_dim=embedding_dim
        )
        self._warned_of_collapse = False

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

    # ---- the end of the search --------------------------------------------------------------------------------------

    @abstractmethod
    def rewards_spent(self, meta_batch_size: int) -> int:
        """Return the reward calls of the search before the derivation."""

    def end_search(self, datamodule: Any) -> SearchResult:
        """Let the candidates compete on validation episodes; note the bound on the policy's certainty."""
        episodes = self.episodes_of(datamodule, "val", range(self.derivation.derive_episodes))
        ranking = rank(self.propose(), episodes, self.supernet_children.reward, place=world(), gather=gather_rows)
        found = derive(self.supernet.space, ranking, spent=self.rewards_spent(datamodule.meta_batch_size))
        return replace(found, facts={**found.facts, "p_max": self.controller.p_max()})

    def genotype_for(self, task: SingleTask) -> Genotype:
        """Return the architecture that a task is scored with: the derived one, the incumbent while the search runs."""
        return self.genotype or self.supernet.space.decode(self.incumbent())

    def task_logits(self, task: SingleTask) -> dict[str, Tensor]:
        """Query logits of the task's architecture with inherited weights."""
        return self.supernet_children.query_logits(task, self.genotype_for(task), self.bn_modes)

    # ---- what is watched --------------------------------------------------------------------------------------------

    def on_validation_epoch_end(self) -> None:
        """Log the scores and how far the greedy architecture has collapsed, and warn once if it has."""
        super().on_validation_epoch_end()
        fraction = self.entropy_fraction()
        weightless = weightless_fraction(self.supernet.space, self.incumbent())
        self.log_row({WEIGHTLESS: weightless, GREEDY_ENTROPY: fraction})
        if self._warned_of_collapse:
            return
        warning = collapse_warning(weightless, fraction, ending=self.meta_step >= self.outer.max_meta_steps)
        if warning is not None and world()[0] == 0:
            logger.warning("%s, meta-step %d: %s", type(self).__name__, self.meta_step, warning)
        self._warned_of_collapse = warning is not None

    def entropy_fraction(self) -> float:
        """Entropy of the policy along its greedy architecture, over that of the uniform policy."""
        with torch.no_grad():
            entropy = float(self.controller(greedy=True, context=self.average_context()).entropy)
        return entropy / self.controller.max_entropy() if self.controller.max_entropy() > 0 else 1.0

    def end_window(self) -> dict[str, float]:
        """Write beside a row of training metrics the policy's probability of each choice of each decision.

        Every row samples from the same stream: what changes from row to row is the policy.
        """
        if self._trainer is not None and world()[0] == 0:
            for record in self.trainer.loggers:
                if isinstance(record, ChoicesCSV):
                    stream, context = generator(self.seed, "choices"), self.average_context()
                    probabilities = self.controller.marginals(stream, MARGINAL_PATHS, context)
                    rows = [p.tolist() for p in probabilities]
                    record.log_choices(self.meta_step, self.supernet.space.decisions, rows)
        return super().end_window()

    def incumbent(self) -> Decisions:
        """The greedy architecture of the controller."""
        with torch.no_grad():
            return tuple(self.controller.greedy(self.average_context()).tolist())

    def propose(self) -> list[Decisions]:
        """The greedy architecture and distinct samples, so that every search spends its whole derivation.

        All are within the limits. A sample takes the place of a greedy one that is not.
        """
        stream, count, limits = generator(self.seed, "derive"), self.derivation.derive_candidates, self.supernet.limits

        def sample() -> Decisions:
            return tuple(self.controller.sample(stream, self.average_context()).decisions.tolist())

        greedy = self.incumbent()
        found = dict.fromkeys([greedy] if limits.admits(limits.space.decode(greedy)) else [])
        with torch.no_grad():
            for _ in range(PATIENCE * count):
                if len(found) == count:
                    break
                found.setdefault(limits.sample(sample))
        return list(found)
