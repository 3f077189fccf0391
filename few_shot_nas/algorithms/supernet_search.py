"""What searches over a weight-sharing supernet have in common: train a child, score a child, derive a genotype."""

import dataclasses
import logging
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from few_shot_nas.algorithms.base import EpisodicModule
from few_shot_nas.algorithms.linear_head import start_head
from few_shot_nas.algorithms.settings import InnerLoop, OuterLoop, Scoring
from few_shot_nas.episode import Episode, SupportSet, tasks
from few_shot_nas.errors import InputError
from few_shot_nas.meta.features import query_features, support_features
from few_shot_nas.meta.functional import Params
from few_shot_nas.meta.inner_loop import adapt
from few_shot_nas.meta.metric import ways
from few_shot_nas.meta.outer_loss import query_logits, support_loss
from few_shot_nas.runtime.checkpoint import KEY
from few_shot_nas.runtime.gradients import gather_rows, world
from few_shot_nas.search.collapse import GREEDY_ENTROPY, WEIGHTLESS, collapse_warning, weightless_fraction
from few_shot_nas.search.derive import Decisions, rank
from few_shot_nas.search.rewards import Reward, SupportReward, check_shots
from few_shot_nas.spaces.genotype import Genotype
from few_shot_nas.spaces.supernet import Supernet
from few_shot_nas.stats.statistics import accuracy

logger = logging.getLogger(__name__)

#: What a step logs that trains the shared weights alone.
WEIGHTS_LOGGED = ("train/loss", "train/accuracy")


class SharedChild(NamedTuple):
    """One architecture of a search, as a reward provider sees it."""

    search: "SupernetSearch"
    genotype: Genotype

    def logits(self, support: SupportSet, images: Tensor) -> Tensor:
        """Adapt to a support set and classify ``images [B, C, H, W]``: ``[B, N]``."""
        return self.search.predict(support, images, self.genotype)

    def left_out(self, support: SupportSet) -> Tensor:
        """Classify every support image by the closed-form head of the others: ``[S, N]``."""
        if self.search.head is None:
            raise ValueError("a head that is fitted by an inner loop has no closed form to leave images out of")
        features = support_features(self.search.supernet, support, genotype=self.genotype)
        return self.search.head.left_out(features, support.support_y, ways(support.support_y))

    def forward(self, images: Tensor) -> Tensor:
        """Run the architecture with the shared weights, not adapted."""
        return self.search.supernet(images, self.genotype)


class SupernetSearch(EpisodicModule):
    """A search whose children share the weights of one supernet.

    A child is one architecture with fast weights: the parameters on its path, adapted to one task from the shared
    ones and dropped afterwards. Off-path parameters are not touched. With a closed-form head the shared parameters are
    used as they are, and the outer loop trains them by the query loss through the head (as ProtoNet and R2D2).

    Args:
        net: the supernet.
        inner: the inner loop of every child; without effect under a closed-form head.
        scoring: what a child classifies with and is rewarded for.
        outer: the outer loop.
        derive_candidates: architectures that compete at the end of the search.
        derive_episodes: validation episodes on which they compete; the derivation spends
            ``derive_candidates * derive_episodes`` reward calls.
        seed: names every random stream of the run.

    Attributes:
        scoring_calls: reward calls of this rank on tasks of a validation or test that are not counted yet.
        validation_calls: reward calls in the validations of training, of all ranks.
    """

    default_model: ClassVar[str] = "Supernet"
    searches: ClassVar[bool] = True

    def __init__(
        self,
        net: nn.Module,
        *,
        inner: InnerLoop,
        scoring: Scoring,
        outer: OuterLoop,
        derive_candidates: int,
        derive_episodes: int,
        seed: int,
    ) -> None:
        super().__init__(net, outer=outer, seed=seed)
        if not isinstance(net, Supernet):
            raise InputError(f"{type(self).__name__} searches a Supernet, but model_class is {type(net).__name__}")
        if inner.engine != "unroll":
            raise InputError(f"{type(self).__name__}: engine={inner.engine}: a search unrolls its children; use unroll")
        if derive_candidates < 1 or derive_episodes < 1:
            raise InputError(
                f"derive_candidates={derive_candidates} and derive_episodes={derive_episodes}: both must be at least 1"
            )
        self.supernet = net
        self.inner = inner
        start_head(net, inner, type(self).__name__)
        self.scoring = scoring
        self.head = scoring.closed_form()
        self.provider = scoring.provider()
        self.uses_head = self.head is None  # type: ignore[misc]  # closed forms take any number of ways
        self.derive_candidates = derive_candidates
        self.derive_episodes = derive_episodes
        self.scoring_calls = self.validation_calls = 0
        self._warned_of_collapse = False
        self.hparams.update({**dataclasses.asdict(inner), **dataclasses.asdict(scoring)})

    # ---- one child ----------------------------------------------------------------------------------------------

    def child(self, task: Episode | SupportSet, genotype: Genotype, *, training: bool, second_order: bool) -> Params:
        """Return the fast weights of ``genotype`` after the inner loop on the support set; none for a closed form."""
        if self.head is not None:
            return {}
        shared = dict(self.supernet.named_parameters())
        return adapt(
            lambda params, step: support_loss(self.supernet, task, params, step, genotype=genotype),
            {name: shared[name] for name in self.supernet.active_params(genotype)},
            lr=lambda name, step: self.inner.inner_lr,
            num_steps=self.inner.steps(training),
            second_order=second_order,
            rule=self.inner.rule(),
        )[-1]

    def predict(self, support: SupportSet, images: Tensor, genotype: Genotype) -> Tensor:
        """Adapt a child to a support set and classify ``images [B, C, H, W]`` by their own batch statistics."""
        return self.child_logits(
            Episode(*support[:2], images, support.support_y),
            genotype,
            self.child(support, genotype, training=True, second_order=False),
            training=True,
            mode="transductive",
        )

    def child_logits(self, task: Episode, genotype: Genotype, params: Params, *, training: bool, mode: str) -> Tensor:
        """Return the query logits of a child with the fast weights ``params``."""
        if self.head is not None:
            features = support_features(self.supernet, task, running=mode == "running", genotype=genotype)
            queries = query_features(self.supernet, task, mode, genotype=genotype)
            return self.head.logits(features, task.support_y, queries, ways(task.support_y))
        last = max(self.inner.steps(training) - 1, 0)
        return query_logits(self.supernet, task, params, last, mode, genotype=genotype)

    def weights_loss(self, task: Episode, genotype: Genotype) -> tuple[Tensor, Tensor]:
        """Outer loss of the shared weights through one child, and the child's query accuracy."""
        params = self.child(task, genotype, training=True, second_order=not self.inner.first_order)
        logits = self.child_logits(task, genotype, params, training=True, mode="transductive")
        return self.outer_loss(logits, task.query_y), accuracy(logits, task.query_y)

    def mean_weights_loss(self, task: Episode, children: Sequence[Decisions]) -> tuple[Tensor, list[Tensor]]:
        """Mean outer loss of the shared weights through some children, and what ``WEIGHTS_LOGGED`` names."""
        results = [self.weights_loss(task, self.supernet.space.decode(a)) for a in children]
        losses, accuracies = (torch.stack(values) for values in zip(*results, strict=True))
        return losses.mean(), [losses.mean(), accuracies.mean()]

    # ---- rewards --------------------------------------------------------------------------------------------------

    def reward(self, decisions: Decisions, task: Episode) -> float:
        """Reward of a child on one task, as ``scoring`` says; the shared weights stay as they are."""
        return self.scored(self.provider, decisions, task)

    def scored(self, provider: Reward, decisions: Decisions, task: Episode) -> float:
        """Reward by any provider; one that needs no queries does not get them."""
        if isinstance(provider, SupportReward):
            return self.support_scored(provider, decisions, task.support_set())
        genotype = self.supernet.space.decode(decisions)
        with torch.no_grad():
            return float(provider.score(self.predict(task.support_set(), task.query_x, genotype), task))

    def support_scored(self, provider: SupportReward, decisions: Decisions, support: SupportSet) -> float:
        """Reward of a child by a provider that sees the support set alone.

        Raises:
            InputError: if there are too few shots for it.
        """
        check_shots(provider, support)
        with torch.no_grad():
            return float(provider.score(SharedChild(self, self.supernet.space.decode(decisions)), support))

    def take_scoring_calls(self) -> int:
        """Return ``scoring_calls`` of all ranks and count from 0 again. A collective: every rank must call it."""
        rows = gather_rows([{"calls": self.scoring_calls}])
        self.scoring_calls = 0
        return sum(row["calls"] for row in rows)

    # ---- validation -------------------------------------------------------------------------------------------------

    def entropy_fraction(self) -> float | None:
        """Return the policy's entropy along its greedy architecture over the maximum; None if there is no policy."""
        return None

    def on_validation_epoch_end(self) -> None:
        """Count rewards, log the scores and how far the greedy architecture has collapsed, and warn once if it has."""
        super().on_validation_epoch_end()
        calls = self.take_scoring_calls()
        if self._datamodule() is not None:
            self.validation_calls += calls
        fraction = self.entropy_fraction()
        if fraction is None:
            return
        weightless = weightless_fraction(self.supernet.space, self.incumbent())
        self.log_row({WEIGHTLESS: weightless, GREEDY_ENTROPY: fraction})
        if self._warned_of_collapse:
            return
        warning = collapse_warning(weightless, fraction)
        if warning is not None and world()[0] == 0:
            logger.warning("%s, meta-step %d: %s", type(self).__name__, self.meta_step, warning)
        self._warned_of_collapse = warning is not None

    # ---- evaluation and derivation --------------------------------------------------------------------------------

    @abstractmethod
    def incumbent(self) -> Decisions:
        """Return the architecture the search would give if it ended now, without spending rewards."""

    @abstractmethod
    def propose(self) -> Sequence[Decisions]:
        """Return the candidates for the derivation at the end of the search."""

    @abstractmethod
    def rewards_spent(self, meta_batch_size: int) -> int:
        """Return the reward calls of the search before the derivation."""

    def genotype_for(self, task: Episode) -> Genotype:
        """Return the architecture that a task is scored with: the derived one, the incumbent while the search runs."""
        return self.genotype or self.supernet.space.decode(self.incumbent())

    def task_logits(self, task: Episode) -> dict[str, Tensor]:
        """Query logits of the task's architecture with inherited weights."""
        genotype = self.genotype_for(task)
        params = self.child(task, genotype, training=False, second_order=False)
        return {mode: self.child_logits(task, genotype, params, training=False, mode=mode) for mode in self.bn_modes}

    def score_candidates(
        self, candidates: Sequence[Decisions], episodes: Sequence[Episode]
    ) -> list[tuple[Decisions, float]]:
        """Rank candidates by mean reward, best first; the ranks share the candidates and all get the whole ranking."""
        rank_id, ranks = world()
        distinct = list(dict.fromkeys(candidates))
        mine = distinct[rank_id::ranks]
        scored = rank(mine, episodes, self.reward) if mine else []
        rows = gather_rows([{"decisions": s.decisions, "reward": s.reward.mean} for s in scored])
        order = {decisions: place for place, decisions in enumerate(distinct)}
        rows.sort(key=lambda row: (-row["reward"], order[row["decisions"]]))
        return [(row["decisions"], row["reward"]) for row in rows]

    def episodes_of(self, datamodule: Any, split: str, task_ids: Sequence[int]) -> list[Episode]:
        """Return single tasks of a split by their ids, on this module's device."""
        batch = datamodule.episode(split, task_ids)
        return list(tasks(self.transfer_batch_to_device(batch, self.device, 0)))

    def finish_search(self, datamodule: Any) -> None:
        """Let the candidates compete on validation episodes, keep the best as ``genotype`` and count the rewards.

        Those of the validations stand beside the total ``reward_calls``, the budget by which searches are compared.
        """
        episodes = self.episodes_of(datamodule, "val", range(self.derive_episodes))
        ranking = self.score_candidates(self.propose(), episodes)
        self.genotype = self.supernet.space.decode(ranking[0][0])
        spent = self.rewards_spent(datamodule.meta_batch_size)
        self.search_summary = {
            "reward_calls": spent + len(ranking) * len(episodes),
            "reward_calls_search": spent,
            "reward_calls_derive": len(ranking) * len(episodes),
            **({"reward_calls_validation": self.validation_calls} if self.validation_calls else {}),
        }

    # ---- checkpoints ------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the reward calls of the validations."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[KEY]["validation_calls"] = self.validation_calls

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the reward calls of the validations."""
        super().on_load_checkpoint(checkpoint)
        # Checkpoints of versions without these begin to count where they are continued.
        self.validation_calls = checkpoint[KEY].get("validation_calls", 0)
