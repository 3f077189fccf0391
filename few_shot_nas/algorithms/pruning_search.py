"""What searches without training have in common: score one candidate per meta-step, prune when a stage is scored."""

import dataclasses
import logging
import time
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from few_shot_nas.algorithms.on_supernet import OnSupernet
from few_shot_nas.algorithms.outer_step import TaskLoss
from few_shot_nas.algorithms.settings import OuterLoop
from few_shot_nas.episode import Episode, SingleTask, Task, fitted
from few_shot_nas.errors import InputError
from few_shot_nas.kernels.linear_regions import crop_pool, linear_regions
from few_shot_nas.kernels.spectrum import Condition
from few_shot_nas.meta.features import query_features, support_features
from few_shot_nas.meta.heads import HEADS
from few_shot_nas.meta.metric import ways
from few_shot_nas.proxies.linear_regions import thin_body
from few_shot_nas.ranges import Count, Size
from few_shot_nas.runtime.checkpoint import KEY
from few_shot_nas.search.search_result import SearchResult
from few_shot_nas.search.kernel_network import Init, draw_weights, equal_weights, mixture_of
from few_shot_nas.search.pruning import Candidate, Scores, evaluations, first_stage, margin, without
from few_shot_nas.seeding import generator
from few_shot_nas.settings import Settings
from few_shot_nas.spaces.genotype import Genotype
from few_shot_nas.spaces.space import EdgeWeights, Menu

logger = logging.getLogger(__name__)

#: Decimals to which a relative change is rounded before the repeats are averaged, as in the released codes.
DECIMALS = 3
#: Crops on which batch statistics are taken together.
CROPS = 1000
#: A search without training: one candidate per meta-step, every one in metrics.csv.
ONE_CANDIDATE = OuterLoop(log_every=1)


@dataclass(frozen=True)
class Pruning(Settings):
    """How a search scores and prunes candidates.

    Attributes:
        prune_number: ops pruned of an edge in a round, but never its last one.
        repeats: draws of weights and data over which a candidate's scores are averaged.
        regions_crops: crops of a draw on which linear regions are counted; a multiple of 1000 or less.
        init: kaiming draws the weights anew for every repeat, as the papers say; torch_default takes one draw of
            PyTorch's own law for all repeats, as the released codes really do.
        compat: paper compares networks with the same head; code gives each a head of its own.
    """

    prune_number: Count = 1
    repeats: Count = 3
    regions_crops: Size = 3000
    init: Init = "kaiming"
    compat: Literal["paper", "code"] = "paper"


class Draw(NamedTuple):
    """What one repeat of a stage measures on, and what it measured of the network as it is.

    Attributes:
        images: of the kernel.
        condition: of the kernel.
        regions: of the thin network.
    """

    images: Tensor
    condition: Condition
    regions: int


class PruningSearch(OnSupernet):
    """A search that prunes a mixture of all ops, by how kernels and linear regions of the untrained network change.

    A meta-step scores one candidate. Weights and data of a repeat are the same for all candidates of a stage, so that
    the network as it is is measured once, and candidates are compared on common random numbers. Everything is a
    function of (seed, stage, repeat, candidate): a run continues after any candidate, and needs only the menu and the
    scores of the stage. Several ranks do the same work.

    Deviations from the released codes: data are common to the candidates of a stage (there drawn anew for each); a
    kernel whose spectrum rounding decides counts as the worst conditioned; in the stages of a node's edges both
    networks are as they are (there the network before the first node is kept). Crops are drawn once for each repeat.

    Args:
        net: the supernet; its space is searched. Its own weights have no part in it, and score what was found.
        pruning: how candidates are scored and pruned.
        outer: one candidate per meta-step; max_meta_steps must be at least the number of candidates.
        seed: names every random stream of the run.

    Attributes:
        stage: what is left to prune.
        scores: of the candidates of the stage that are scored, in order.
        seconds: spent on kernels and on linear regions.
        pruned: the ops that are gone, with the number of the stage that pruned them.
    """

    default_model: ClassVar[str] = "Supernet"
    data_defaults: ClassVar[Mapping[str, int]] = {"meta_batch_size": 3, "train_query": 1, "val_episodes": 10}
    uses_head = False

    def __init__(self, net: nn.Module, *, pruning: Pruning, outer: OuterLoop, seed: int) -> None:
        super().__init__(net, outer=outer, seed=seed)
        space = self.supernet.space
        if space.cells < 2:
            raise InputError(
                f"{type(self).__name__}: cells={space.cells} given, at least 2 are needed, one of each cell type"
            )
        self.pruning = pruning
        # Not modules of this module: they are functions of the seed and belong in no checkpoint.
        thin = thin_body(space.name, space.nodes, lambda space: space.with_fixed_parts(space.menu()))
        self._thin = (thin,)
        self.stage = first_stage(space, pruning.prune_number)
        self.total = evaluations(self.stage)
        self.scores: list[Scores] = []
        self.pruned: dict[Candidate, int] = {}
        self.seconds = {"kernel": 0.0, "regions": 0.0}
        self._draws: dict[tuple[int, int], Draw] = {}
        self._pools: dict[int, Tensor] = {}
        self.hparams.update(dataclasses.asdict(pruning))

    # ---- what a search says -----------------------------------------------------------------------------------------

    @abstractmethod
    def condition(self, menu: Menu, images: Tensor, repeat: int, head: str) -> Condition:
        """Return the condition number of the kernel of the ops left.

        Args:
            menu: the ops left.
            images: of the kernel, as :meth:`kernel_images` returns them.
            repeat: names the weights, with the stage.
            head: names the weights of the head besides.
        """

    @abstractmethod
    def kernel_images(self, episode: Episode) -> Tensor:
        """Return the images of a meta-batch on which a kernel is taken."""

    def progress(self) -> tuple[int, str]:
        """Return the meta-step of the last candidate, and the round that is scored."""
        return min(self.outer.max_meta_steps, self.total), f"round {self.stage.number + 1}"

    # ---- one candidate ----------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> None:
        """Nothing is trained."""
        return None

    def task_loss(self, task: Task) -> TaskLoss:
        """Refuse: a search without training has no loss."""
        raise RuntimeError(f"{type(self).__name__} has no loss: it trains nothing")

    def update(self, batch: Any) -> dict[str, float]:
        """Score the next candidate, and prune if it is the last one of its stage. The batch is not used."""
        candidates = self.stage.candidates()
        if not candidates:
            return {}
        with torch.autocast(self.device.type, enabled=False):  # kernels in half precision are noise
            scores, scalars = self.score(candidates[len(self.scores)], len(self.scores))
        self.scores.append(scores)
        if len(self.scores) == len(candidates):
            scored = dict(zip(candidates, self.scores, strict=True))
            gone = self.stage.pruned(scored)
            scalars["search/margin"] = margin(scored, gone)
            self.pruned.update(dict.fromkeys(gone, self.stage.number))
            self.stage, self.scores, self._draws = self.stage.after(scored), [], {}
        return scalars

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """One meta-step; the run ends with the last candidate."""
        super().training_step(batch, batch_idx)
        if self.stage.finished and self._trainer is not None:
            self.trainer.should_stop = True

    def score(self, candidate: Candidate, index: int) -> tuple[Scores, dict[str, float]]:
        """Return the scores of pruning a candidate, and what is logged of it."""
        before, changes, logs = dict(self.seconds), [], []
        head = f"candidate {index}" if self.pruning.compat == "code" else ""
        menu = without(self.stage.active, [candidate])
        for repeat in range(self.pruning.repeats):
            draw = self.draw(repeat)
            found = self._timed_condition(menu, draw.images, repeat, head)
            regions = self.regions(menu, repeat)
            trainability = (draw.condition.value - found.value) / draw.condition.value
            expressivity = (draw.regions - regions) / draw.regions
            changes.append(Scores(round(trainability, DECIMALS), round(expressivity, DECIMALS)))
            logs.append((found.log, regions, found.degenerate))
        scores = Scores(*(sum(values) / len(values) for values in zip(*changes, strict=True)))
        log_kappa, regions, degenerate = (sum(values) / len(values) for values in zip(*logs, strict=True))
        return scores, {
            "search/log_kappa": log_kappa,
            "search/regions": regions,
            "search/degenerate": degenerate,
            "search/trainability": scores.trainability,
            "search/expressivity": scores.expressivity,
            **{f"search/seconds_{part}": self.seconds[part] - before[part] for part in self.seconds},
        }

    def draw(self, repeat: int) -> Draw:
        """Return data of a repeat of the stage and the measures of the network as it is."""
        key = (self.stage.number, repeat)
        if key not in self._draws:
            images = self.kernel_images(self.meta_batch(self.stage.number * self.pruning.repeats + repeat))
            condition = self._timed_condition(self.stage.active, images, repeat, "")
            self._draws[key] = Draw(images, condition, self.regions(self.stage.active, repeat))
        return self._draws[key]

    def meta_batch(self, number: int) -> Episode:
        """Return a meta-batch of training tasks by its number."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        size = data.meta_batch_size
        ids = range(number * size, (number + 1) * size)
        return fitted(data.episode("train", ids), next(self.parameters()))

    def stream(self, repeat: int) -> tuple[int | str, ...]:
        """Return the name of the weights of a repeat of the stage."""
        draw = repeat if self.pruning.init == "kaiming" else 0
        return (self.seed, "pruning", self.stage.number, draw)

    def _timed_condition(self, menu: Menu, images: Tensor, repeat: int, head: str) -> Condition:
        started = time.monotonic()
        found = self.condition(menu, images, repeat, head)
        self.seconds["kernel"] += time.monotonic() - started
        return found

    def weights(self, menu: Menu) -> EdgeWeights:
        """Return the mixture of the ops left, in the type and on the device of the supernet."""
        return equal_weights(menu, next(self.supernet.parameters()).detach())

    def regions(self, menu: Menu, repeat: int) -> int:
        """Return how many linear regions of the thin network of the ops left the crops of a repeat fall into."""
        started = time.monotonic()
        thin = self._thin[0]
        draw_weights(thin, self.pruning.init, "fan_in", *self.stream(repeat), "regions")
        thin.to(next(self.supernet.parameters()))
        with torch.no_grad():
            found = linear_regions(mixture_of(thin, self.weights(menu)), self.pool(repeat), batch=CROPS)
        self.seconds["regions"] += time.monotonic() - started
        return found

    def pool(self, repeat: int) -> Tensor:
        """Return the crops of a repeat, the same in all stages."""
        if repeat not in self._pools:
            batch = self.meta_batch(repeat)
            images = torch.cat([batch.support_x, batch.query_x], dim=1).flatten(0, 1)
            stream = generator(self.seed, "crops", repeat)
            self._pools[repeat] = crop_pool(images, self.pruning.regions_crops, stream)
        return self._pools[repeat]

    # ---- evaluation and the end -------------------------------------------------------------------------------------

    def incumbent(self) -> Genotype:
        """Return the architecture of the ops left; of ops that still compete the first.

        Where that exceeds the limits, ops come back that were pruned last.
        """
        mixture = {
            cell_type: torch.tensor(
                [[self._lasted(Candidate(cell_type, place, op)) for op in ops] for place, ops in edges.items()]
            )
            for cell_type, edges in self.supernet.space.menu().items()
        }
        return self.supernet.limits.discretise(mixture)

    def _lasted(self, candidate: Candidate) -> float:
        """Return 1 for an op that is left, less for one the earlier it went, and 0 for one that never competed."""
        if candidate.op in self.stage.active[candidate.cell_type][candidate.place]:
            return 1.0
        return (self.pruned[candidate] + 1) / (self.stage.number + 2) if candidate in self.pruned else 0.0

    def task_logits(self, task: SingleTask) -> dict[str, Tensor]:
        """Query logits of the architecture at untrained weights, by the nearest class mean."""
        genotype, n_way = self.genotype or self.incumbent(), ways(task.support_y)
        features = support_features(self.supernet, task, genotype=genotype)
        queries = {mode: query_features(self.supernet, task, mode, genotype=genotype) for mode in self.bn_modes}
        head = HEADS["prototype"]
        return {mode: head.logits(features, task.support_y, found, n_way) for mode, found in queries.items()}

    def end_search(self, datamodule: Any) -> SearchResult:
        """Return the architecture that is left, and what it took to find it."""
        done = self.meta_step if not self.stage.finished else self.total
        if not self.stage.finished:
            logger.warning(
                "%s: %d of %d candidates scored, so the first of the ops that are left is taken on each edge; continue "
                "with --ckpt_path=last and a larger --max_meta_steps",
                type(self).__name__, done, self.total,
            )  # fmt: skip
        facts = {f"seconds_{part}": seconds for part, seconds in self.seconds.items()}
        cost = {"candidates_scored": done, "kernel_evaluations": (done + self.stage.number) * self.pruning.repeats}
        return SearchResult(self.incumbent(), cost, {"candidates_in_all": self.total, "weights": "untrained", **facts})

    # ---- checkpoints ------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the stage and the scores."""
        super().on_save_checkpoint(checkpoint)
        scores = [list(scores) for scores in self.scores]
        pruned = [[cell_type, list(place), op, stage] for (cell_type, place, op), stage in self.pruned.items()]
        own = {"scores": scores, "seconds": dict(self.seconds), "pruned": pruned}
        checkpoint[KEY]["pruning"] = {**self.stage.state(), **own}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the stage and the scores."""
        super().on_load_checkpoint(checkpoint)
        state = checkpoint[KEY]["pruning"]
        self.stage, self._draws = first_stage(self.supernet.space, self.pruning.prune_number).restored(state), {}
        self.scores = [Scores(*scores) for scores in state["scores"]]
        self.seconds = dict(state["seconds"])
        # Checkpoints of versions without these remember nothing of what is gone.
        self.pruned = {Candidate(t, tuple(place), op): stage for t, place, op, stage in state.get("pruned", ())}
