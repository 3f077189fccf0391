"""EpisodicModule: everything that episodic algorithms share under Lightning's manual optimisation.

An algorithm says how one task becomes a loss and how it becomes logits; or, in :meth:`EpisodicModule.update`, what one
meta-step is. This base answers Lightning's hooks and owns ``meta_step`` and what a checkpoint holds. The update itself
is in ``outer_step``, what a row of training metrics holds in ``recorder``, how tasks were answered in ``task_scores``,
what a search ends with in ``end_of_search``.
"""

import dataclasses
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from few_shot_nas.algorithms.accuracy_gap import gap_by_episodes, gap_by_training, score_gap_episodes
from few_shot_nas.algorithms.before_fit import refuse_inference_mode, refuse_unfit_data
from few_shot_nas.algorithms.end_of_search import EndOfSearch
from few_shot_nas.algorithms.outer_step import TaskLoss, adam, clip, set_mean_gradient, set_rates
from few_shot_nas.algorithms.recorder import Recorder
from few_shot_nas.algorithms.settings import OuterLoop
from few_shot_nas.algorithms.task_scores import TaskScores, in_mode, validation_metrics, warn_of_divergence
from few_shot_nas.episode import Episode, SingleTask, Task, fitted, tasks
from few_shot_nas.meta.bn_mode import bn_modes, check_bn_mode
from few_shot_nas.nn.foreign import refuse_foreign_norms
from few_shot_nas.runtime.checkpoint import KEY
from few_shot_nas.runtime.early_stop import NOTHING_SEEN, Waiting
from few_shot_nas.runtime.gradients import world
from few_shot_nas.seeding import derived_seed, generator, seed_global
from few_shot_nas.stats.statistics import mean_ci

logger = logging.getLogger(__name__)


class EpisodicModule(pl.LightningModule, EndOfSearch, ABC):
    """A meta-learner over episodes.

    Args:
        net: the network whose parameters are meta-learned.
        outer: the outer loop.
        seed: names every random stream of the run.
        per_query: the algorithm scores the bn_mode per_query too.

    Attributes:
        network_bn_modes: the bn_modes that the network has.
        bn_modes: the bn_modes that tasks are scored in: all of these, or ``outer.bn_mode`` (``outer.score_modes``).
        meta_step: outer updates done so far. Lightning's ``global_step`` counts optimizer steps and is not used.
        val_accuracy: mean accuracy of the latest validation in ``outer.bn_mode``.
        val_finite: whether all its answers were finite.
        test_rows: after a test, one dict per (task, bn_mode) with task_id, bn_mode, accuracy and loss, of all ranks.
        task_scores: rows of the tasks that this rank has scored.
        recorder: scalars since the latest row of training metrics.
        skipped_steps: meta-steps left out because their gradient was not finite.
        run_identity: what this run is (algorithm, n_way, ...); saved in checkpoints and compared on resume.
    """

    default_model: ClassVar[str] = "Conv4"
    #: What the batches of training are: the data module that the learner needs says the same of itself.
    data_kind: ClassVar[Literal["episodes", "flat"]] = "episodes"

    #: What the command line gives the data module by default for this algorithm, instead of the data module's own.
    data_defaults: ClassVar[Mapping[str, int]] = {}
    #: Whether training uses the network's head, which fixes the number of ways to that of the test tasks.
    uses_head: bool = True

    def __init__(self, net: nn.Module, *, outer: OuterLoop, seed: int, per_query: bool = False) -> None:
        super().__init__()
        refuse_foreign_norms(net)
        check_bn_mode(net, outer.bn_mode, per_query=per_query)
        self.network_bn_modes = bn_modes(net, per_query=per_query)
        self.bn_modes = self.network_bn_modes if outer.score_modes == "all" else (outer.bn_mode,)
        self.automatic_optimization = False
        self.net = net
        self.outer = outer
        self.seed = seed
        self.meta_step = 0
        self.val_accuracy, self.val_finite = float("nan"), True
        self.run_identity: dict[str, str | int] = {}
        self.genotype = None
        self.search_summary = {}
        self.test_rows: list[dict[str, Any]] = []
        self.task_scores = TaskScores()
        self.recorder = Recorder(type(self).__name__, outer.on_nonfinite)
        self.skipped_steps = 0
        self._waiting = NOTHING_SEEN
        self.hparams.update({**dataclasses.asdict(outer), "seed": seed})

    @property
    def last_loss(self) -> float:
        """The latest ``train/loss``, of all ranks' tasks."""
        return float(self.recorder.last_loss)

    def progress(self) -> tuple[int, str]:
        """Return the meta-step at which the run ends, and in words how it goes."""
        return self.outer.max_meta_steps, f"loss {self.last_loss:.3g}"

    # ---- what an algorithm says -------------------------------------------------------------------------------

    @abstractmethod
    def task_loss(self, task: Task) -> TaskLoss:
        """Return the outer loss of one training task, differentiable, and scalars of the task by name.

        The names are columns of metrics.csv, and the same for all tasks of a meta-step. ``train/loss`` and
        ``train/accuracy`` are among them where a learner has such.
        """

    @abstractmethod
    def task_logits(self, task: SingleTask) -> dict[str, Tensor]:
        """Adapt to one task and return the query logits ``[Q, N]`` for every bn_mode. Runs under ``no_grad``."""

    def watched_logits(self, task: Task) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Return :meth:`task_logits`, and scalars of the task that a validation logs as ``val/<name>``.

        The names are the same for every task.
        """
        return self.task_logits(task), {}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return Adam's parameter groups; one group of all parameters by default."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def parts(self, batch: Any) -> tuple[Iterable[Any], int]:
        """Split a batch into what :meth:`task_loss` takes, and say over how many of these the losses are averaged."""
        return tasks(batch), batch.support_x.shape[0]

    def make_optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return the optimizer of the meta-parameters; Adam unless an algorithm says otherwise."""
        return adam(groups, self.outer)

    def outer_loss(self, logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
        """Cross-entropy of ``logits [B, N]`` against labels of which ``label_smoothing`` is spread over all N classes.

        Source: Szegedy et al., CVPR 2016, arXiv:1512.00567, section 7. The inner loop and every score use hard labels.
        """
        return F.cross_entropy(logits, labels, reduction=reduction, label_smoothing=self.outer.label_smoothing)

    def schedule(self) -> float:
        """Return the factor on every group's learning rate at ``meta_step``, that of ``outer_schedule``."""
        return self.outer.rate_factor(self.meta_step)

    # ---- training -----------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Refuse training data that does not fit (:func:`refuse_unfit_data`)."""
        if stage == "fit":
            data: Any = getattr(self.trainer, "datamodule", None)
            refuse_unfit_data(type(self).__name__, data, self.data_kind, self.uses_head)

    def configure_optimizers(self) -> torch.optim.Optimizer | None:
        """One optimizer on :meth:`parameter_groups`; remembers each group's own rate for the schedule."""
        groups = self.parameter_groups()
        for group in groups:
            group.setdefault("lr", self.outer.outer_lr)
            group["base_lr"] = group["lr"]
        return self.make_optimizer(groups)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """One meta-step: :meth:`update`, and the bookkeeping that every algorithm needs around it."""
        # Dropout masks have no generator argument: tie the global one to the step, so that a resumed run repeats them.
        seed_global(derived_seed(self.seed, "dropout", self.meta_step, world()[0]), self.device)
        scalars = self.update(batch)
        self.meta_step += 1
        self._record(scalars)
        if self._trainer is not None:
            datamodule = getattr(self.trainer, "datamodule", None)
            if datamodule is not None:
                datamodule.done = self.meta_step
            self.trainer.should_stop = self.meta_step >= self.outer.max_meta_steps

    def update(self, batch: Any) -> dict[str, Any]:
        """Move what is learned by one meta-step, and return what is logged of it, by name.

        A scalar may stay on its device as a tensor ``[]``; it is waited for when a row is logged.

        As it stands: descend the mean of :meth:`task_loss` over the meta-batch and over all ranks. An algorithm without
        loss, gradient or optimizer overrides this method, and :meth:`configure_optimizers` to return None.

        Args:
            batch: what the data module gives this rank.
        """
        losses, count = self.parts(batch)
        scalars = self.backward_mean(map(self.task_loss, losses), count)
        self.descend_outer()
        return scalars

    def backward_mean(self, losses: Iterable[TaskLoss], count: int) -> dict[str, Any]:
        """Set every parameter's gradient to that of the mean loss, and return the means of the scalars.

        Args:
            losses: of this rank's tasks, with their scalars. Each is differentiated before the next is taken.
            count: over how many of this rank's tasks the losses are sums; the mean is over the counts of all ranks.
        """
        self._optimizer().zero_grad(set_to_none=True)
        return set_mean_gradient(losses, count, self._trained(), self.manual_backward, self.device)

    def descend_outer(self) -> None:
        """Clip the gradient and take the optimizer's step at the rates of this meta-step."""
        optimizer = self._optimizer()
        if self.clip_gradient():
            self.apply_schedule(optimizer)
            optimizer.step()

    def _optimizer(self) -> LightningOptimizer:
        return cast(LightningOptimizer, self.optimizers())  # exactly one

    def apply_schedule(self, optimizer: LightningOptimizer | torch.optim.Optimizer) -> None:
        """Set the learning rates of this meta-step; a group may stay out of the schedule."""
        set_rates(optimizer, self.schedule())

    def _trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def clip_gradient(self) -> bool:
        """Clip the meta-gradient (:func:`clip`); return whether to take the step, and count a step that is left out."""
        finite = clip(self._trained(), self.outer, self.recorder, self.meta_step)
        self.skipped_steps += not finite
        return finite

    def _record(self, scalars: Mapping[str, float | Tensor]) -> None:
        """Add the scalars of one meta-step to the window, and log the window where a row is due."""
        self.recorder.add_step(scalars, self.meta_step)
        if self._trainer is not None and getattr(self.trainer, "progress_bar_callback", None) is not None:
            shown = {name: scalars[name] for name in ("train/loss", "train/accuracy") if name in scalars}
            self.log_dict(shown, prog_bar=True, logger=False)
        if self.meta_step % self.outer.log_every == 0 or self.meta_step == self.outer.max_meta_steps:
            means, seconds = self.recorder.close(self.meta_step)
            self.log_row({**means, **self.end_window(), "train/seconds": seconds})

    def end_window(self) -> dict[str, float]:
        """Return what a row of training metrics holds beside the means of :meth:`update`'s scalars; none by default.

        Runs once per row.
        """
        return {}

    def log_row(self, metrics: dict[str, float]) -> None:
        """Write one row to every logger at the current ``meta_step``, our x axis; cheaper than ``self.log``."""
        # The check before training scores a few tasks only: no row of it is a validation's.
        if self._trainer is not None and not self.trainer.sanity_checking:
            for logger in self.trainer.loggers:
                logger.log_metrics({"meta_step": self.meta_step, **metrics}, step=self.meta_step)

    def task_stream(self, purpose: str, task: SingleTask) -> torch.Generator:
        """Return a stream that depends on seed, purpose, meta-step and task alone, not on rank or order."""
        task_id = -1 if task.task_id is None else int(task.task_id)
        return generator(self.seed, purpose, self.meta_step, task_id + 1)

    # ---- evaluation ---------------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Refuse a Trainer under which the inner loop cannot work; do not train on after an early stop."""
        refuse_inference_mode(self.trainer)
        self.trainer.should_stop = self._waiting.enough(self.outer.patience)

    def scored(self, batch: Episode, watched: bool) -> Iterator[tuple[Task, dict[str, Tensor], dict[str, float]]]:
        """Give every task of a meta-batch with its query logits by bn_mode, and its scalars if they are ``watched``."""
        for task in tasks(batch):
            yield (task, *(self.watched_logits(task) if watched else (self.task_logits(task), {})))

    def _score(self, batch: Episode, watched: bool = False) -> None:
        for task, logits, scalars in self.scored(batch, watched):
            self.task_scores.add(task, logits, {self.outer.bn_mode: scalars})

    def validation_step(self, batch: Episode, batch_idx: int) -> None:
        """Score the tasks of ``batch`` in every bn_mode."""
        self._score(batch, watched=True)

    def on_validation_epoch_end(self) -> None:
        """Log accuracy, CI and loss over the validation episodes of all ranks; stop if there is no more to wait for."""
        rows = self.task_scores.take()
        metrics = validation_metrics(rows, self.bn_modes, self.outer.bn_mode)
        self.val_accuracy = metrics["val/accuracy"]
        diverged = metrics.get("val/non_finite", 0.0)
        self.val_finite = not diverged
        self._warn("validation", rows)
        self.log("val/non_finite", diverged, logger=False)
        metrics.update(self._gap())
        self.log("val/accuracy", self.val_accuracy, logger=False, prog_bar=True)
        self.log("val/ci95", metrics["val/ci95"], logger=False)
        self.log_row(metrics)
        if self._datamodule() is not None:
            self.choose_on_validation(metrics)
        self._stop_if_no_better(-math.inf if diverged else self.val_accuracy)

    def _warn(self, stage: str, rows: Sequence[dict[str, Any]]) -> None:
        if world()[0] == 0:
            warn_of_divergence(type(self).__name__, self.meta_step, stage, in_mode(rows, self.outer.bn_mode))

    def _datamodule(self) -> Any:
        """Return the data module of a fit, and None elsewhere: without a Trainer, or in its check before training."""
        if self._trainer is None or self.trainer.state.fn != "fit" or self.trainer.sanity_checking:
            return None
        return getattr(self.trainer, "datamodule", None)

    def _gap(self) -> dict[str, float]:
        """Accuracy on training classes minus that of this validation: by the gap episodes where there are any."""
        data = self._datamodule()
        if data is None:
            return {}
        total, steps = self.recorder.take_train_accuracy()
        if getattr(data, "gap_episodes", 0):
            score_gap_episodes(self.trainer, data, self._score)
            return gap_by_episodes(in_mode(self.task_scores.take(), self.outer.bn_mode), self.val_accuracy)
        same_task = self.data_kind == "episodes" and getattr(data, "train_way", None) in (None, data.n_way)
        return gap_by_training(total, steps, self.val_accuracy) if same_task else {}

    @property
    def stopped_early(self) -> bool:
        """Whether training ended for want of a better validation, before ``max_meta_steps``."""
        return self.meta_step < self.outer.max_meta_steps and self._waiting.enough(self.outer.patience)

    def _stop_if_no_better(self, accuracy: float) -> None:
        if self._datamodule() is None:
            return
        self._waiting = self._waiting.after(accuracy)
        if self._waiting.enough(self.outer.patience):
            self.trainer.should_stop = True
            if world()[0] == 0:
                logger.info(
                    "%s, meta-step %d: stopped early, no validation better than %.4f in the last %d",
                    type(self).__name__, self.meta_step, self._waiting.best, self._waiting.since,
                )  # fmt: skip

    def test_step(self, batch: Episode, batch_idx: int) -> None:
        """Score the tasks of ``batch`` in every bn_mode."""
        self._score(batch)

    def on_test_epoch_end(self) -> None:
        """Gather the rows of all ranks into ``test_rows``; ``trainer.test`` returns their means."""
        self.test_rows = self.task_scores.take()
        self._warn("test", self.test_rows)
        for mode in dict.fromkeys(row["bn_mode"] for row in self.test_rows):
            score = mean_ci([row["accuracy"] for row in in_mode(self.test_rows, mode)])
            self.log_dict({f"test/accuracy_{mode}": score.mean, f"test/ci95_{mode}": score.ci95})
        self.log("step", float(self.meta_step))  # what loggers take for the x axis

    def predict_step(self, batch: Episode, batch_idx: int) -> Tensor:
        """Return the class probabilities of the queries, ``[M, Q, N]``; their labels are not used.

        Each is judged by itself: they are normalised by running statistics where ``outer.bn_mode`` is ``running``, else
        by the support set.
        """
        mode = "running" if self.outer.bn_mode == "running" else "support"
        return torch.stack([self.logits_in(task.unlabelled(), mode).softmax(dim=1) for task in tasks(batch)])

    def logits_in(self, task: SingleTask, bn_mode: str) -> Tensor:
        """Return the query logits ``[Q, N]`` of a task in one bn_mode, whichever tasks are scored in."""
        scored, self.bn_modes = self.bn_modes, (bn_mode,)
        try:
            return self.task_logits(task)[bn_mode]
        finally:
            self.bn_modes = scored

    def choose_on_validation(self, metrics: Mapping[str, float]) -> None:
        """Choose what is left to validation, by the columns that it logs; nothing here."""

    def chosen(self) -> dict[str, float]:
        """Return what validation tasks have chosen, by the name of the flag, for results.json."""
        return {}

    def episodes_of(self, datamodule: Any, split: str, task_ids: Sequence[int]) -> list[Task]:
        """Return single tasks of a split by their ids, on the device and in the precision of the parameters."""
        return list(tasks(fitted(datamodule.episode(split, task_ids), next(self.parameters()))))

    # ---- checkpoints --------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a bit-exact continuation needs: plain Python only, so that ``weights_only=True`` reads it."""
        checkpoint[KEY] = {
            "meta_step": self.meta_step,
            "identity": dict(self.run_identity),
            **self.recorder.state(),
            "waiting": list(self._waiting),
            "skipped_steps": self.skipped_steps,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore our own progress, and drop Lightning's.

        Its loop counters say how many batches of an epoch are gone; our loaders start at ``meta_step`` and yield what
        is left, so the counters would count the same batches twice.
        """
        state = checkpoint[KEY]
        self.meta_step = state["meta_step"]
        self.recorder.restore(state)
        # Checkpoints of versions without these begin to count where they are continued.
        self._waiting = Waiting(*state.get("waiting", NOTHING_SEEN))
        self.skipped_steps = state.get("skipped_steps", 0)
        checkpoint.pop("loops", None)
