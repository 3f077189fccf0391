"""EpisodicModule: everything that episodic algorithms share under Lightning's manual optimisation.

An algorithm says how one task becomes a loss and how it becomes logits; or, in :meth:`EpisodicModule.update`, what one
meta-step is. This base owns the three steps of Lightning, the mean over the meta-batch and over ranks, clipping, the
optimizer, ``meta_step``, the schedule, the scores with their confidence interval, and what a checkpoint holds.
"""

import dataclasses
import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from few_shot_nas.algorithms.settings import OuterLoop
from few_shot_nas.episode import Episode, tasks
from few_shot_nas.errors import InputError
from few_shot_nas.meta.bn_mode import bn_modes, check_bn_mode
from few_shot_nas.meta.schedule import cosine_with_restarts
from few_shot_nas.nn.foreign import refuse_foreign_norms
from few_shot_nas.runtime.checkpoint import KEY
from few_shot_nas.runtime.early_stop import NOTHING_SEEN, Waiting
from few_shot_nas.runtime.gradients import average_gradients, gather_rows, world
from few_shot_nas.search.found import Found
from few_shot_nas.seeding import derived_seed, generator, seed_global
from few_shot_nas.spaces.genotype import Genotype
from few_shot_nas.stats.statistics import accuracy, mean_ci

logger = logging.getLogger(__name__)

#: The outer loss of one task, differentiable, and scalars of the task by name.
TaskLoss = tuple[Tensor, dict[str, Tensor]]


class EpisodicModule(pl.LightningModule, ABC):
    """A meta-learner over episodes.

    Args:
        net: the network whose parameters are meta-learned.
        outer: the outer loop.
        seed: names every random stream of the run.
        per_query: the algorithm scores the bn_mode per_query too.

    Attributes:
        bn_modes: the bn_modes that tasks are scored in, those of the network.
        meta_step: outer updates done so far. Lightning's ``global_step`` counts optimizer steps and is not used.
        val_accuracy: mean accuracy of the latest validation in ``outer.bn_mode``.
        test_rows: after a test, one dict per (task, bn_mode) with task_id, bn_mode, accuracy and loss, of all ranks.
        skipped_steps: meta-steps left out because their gradient was not finite.
        run_identity: what this run is (algorithm, n_way, ...); saved in checkpoints and compared on resume.
        genotype: the architecture that a search ended with, or None.
        search_summary: what a search spent, e.g. ``{"reward_calls": 800}``.
    """

    default_model: ClassVar[str] = "Conv4"
    #: Whether training ends with an architecture: set where a class says how, in :meth:`end_search`.
    searches: ClassVar[bool] = False
    #: What the batches of training are: the data module that the learner needs says the same of itself.
    data_kind: ClassVar[Literal["episodes", "flat"]] = "episodes"

    #: What the command line gives the data module by default for this algorithm, instead of the data module's own.
    data_defaults: ClassVar[Mapping[str, int]] = {}
    #: Whether training uses the network's head, which fixes the number of ways to that of the test tasks.
    uses_head: bool = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.searches = cls.end_search is not EpisodicModule.end_search

    def __init__(self, net: nn.Module, *, outer: OuterLoop, seed: int, per_query: bool = False) -> None:
        super().__init__()
        refuse_foreign_norms(net)
        check_bn_mode(net, outer.bn_mode, per_query=per_query)
        self.bn_modes = bn_modes(net, per_query=per_query)
        self.automatic_optimization = False
        self.net = net
        self.outer = outer
        self.seed = seed
        self.meta_step = 0
        self._last_loss: float | Tensor = float("nan")
        self.val_accuracy = float("nan")
        self.run_identity: dict[str, str | int] = {}
        self.genotype: Genotype | None = None
        self.search_summary: dict[str, Any] = {}
        self.test_rows: list[dict[str, Any]] = []
        self._rows: list[dict[str, Any]] = []
        self._window: dict[str, list[float | Tensor]] = {}
        self._norms: list[tuple[int, Tensor]] = []
        self.skipped_steps = 0
        self._window_started = time.monotonic()
        self._train_accuracy: tuple[float | Tensor, int] = (0.0, 0)
        self._waiting = NOTHING_SEEN
        self.hparams.update({**dataclasses.asdict(outer), "seed": seed})

    @property
    def last_loss(self) -> float:
        """The latest ``train/loss``, of all ranks' tasks."""
        return float(self._last_loss)

    # ---- what an algorithm says -------------------------------------------------------------------------------

    @abstractmethod
    def task_loss(self, task: Episode) -> TaskLoss:
        """Return the outer loss of one training task, differentiable, and scalars of the task by name.

        The names are the same for all tasks of a meta-step: those of columns of metrics.csv, ``train/loss`` and
        ``train/accuracy`` among them where there are such.
        """

    @abstractmethod
    def task_logits(self, task: Episode) -> dict[str, Tensor]:
        """Adapt to one task and return the query logits ``[Q, N]`` for every bn_mode. Runs under ``no_grad``."""

    def watched_logits(self, task: Episode) -> tuple[dict[str, Tensor], dict[str, float]]:
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
        on_gpu = all(parameter.device.type == "cuda" for group in groups for parameter in group["params"])
        options: dict[str, Any] = {"lr": self.outer.outer_lr, "weight_decay": self.outer.weight_decay}
        return torch.optim.Adam(groups, **options, fused=True if on_gpu else None)  # one kernel instead of dozens

    def outer_loss(self, logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
        """Cross-entropy of ``logits [B, N]`` against labels of which ``label_smoothing`` is spread over all N classes.

        Source: Szegedy et al., CVPR 2016, arXiv:1512.00567, section 7. The inner loop and every score use hard labels.
        """
        return F.cross_entropy(logits, labels, reduction=reduction, label_smoothing=self.outer.label_smoothing)

    def schedule(self) -> float:
        """Return the factor on every group's learning rate at ``meta_step``.

        From 1 at the start to ``outer_lr_min / outer_lr`` at ``max_meta_steps``.
        """
        done, floor = self.meta_step / self.outer.max_meta_steps, self.outer.outer_lr_min / self.outer.outer_lr
        if self.outer.outer_schedule == "constant":
            return 1.0
        if self.outer.outer_schedule == "sgdr":
            return cosine_with_restarts(self.meta_step, self.outer.restart_steps, self.outer.restart_factor, floor)
        left = 1.0 - done if self.outer.outer_schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
        return floor + (1.0 - floor) * left

    # ---- training -----------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Refuse training batches of another kind, or tasks that the network's head cannot label.

        Raises:
            InputError: if the data module's ``kind`` is not ``data_kind``, or ``train_way`` is not ``n_way`` and the
                head is used.
        """
        data: Any = getattr(self.trainer, "datamodule", None)
        kind = getattr(data, "kind", self.data_kind)
        if stage == "fit" and kind != self.data_kind:
            raise InputError(
                f"{type(self).__name__} is trained on {self.data_kind}, but {type(data).__name__} gives {kind}"
            )
        train_way = getattr(data, "train_way", None)
        if stage == "fit" and self.uses_head and train_way not in (None, data.n_way):
            raise InputError(
                f"{type(self).__name__}: train_way={train_way} given, but its head has n_way={data.n_way} outputs; "
                "leave train_way out (metric learners such as ProtoNet can use it)"
            )

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
        names: tuple[str, ...] = ()
        sums = torch.zeros(0, device=self.device)
        for loss, scalars in losses:
            self.manual_backward(loss)
            names = tuple(scalars)
            values = [scalar.detach().float() for scalar in scalars.values()]
            sums = (sums if len(sums) else torch.zeros(len(values), device=self.device)) + torch.stack(values)
        means = average_gradients(self._trained(), count, sums)
        return dict(zip(names, means.tolist() if means.device.type == "cpu" else means.unbind(), strict=True))

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
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * (self.schedule() if group.get("scheduled", True) else 1.0)

    def _trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def clip_gradient(self) -> bool:
        """Clip the meta-gradient to ``meta_grad_clip``, and note its norm where ``log_grad_norm`` asks for it.

        Returns:
            Whether to take the step: not where the gradient is not finite and ``on_nonfinite`` is skip.

        Raises:
            InputError: if the gradient is not finite and ``on_nonfinite`` is stop.
        """
        with_gradient = [parameter for parameter in self._trained() if parameter.grad is not None]
        if self.outer.log_grad_norm is not None:
            gradients = [p.grad for p in with_gradient if p.grad is not None]
            norm = nn.utils.get_total_norm(gradients, norm_type=self.outer.log_grad_norm)
            self._window.setdefault("train/grad_norm", []).append(norm)
        limit = math.inf if self.outer.meta_grad_clip is None else self.outer.meta_grad_clip
        norm = nn.utils.clip_grad_norm_(with_gradient, limit)
        if self.outer.on_nonfinite == "skip":  # waits for the device: the step depends on it
            finite = bool(norm.isfinite())
            self.skipped_steps += not finite
            return finite
        self._norms.append((self.meta_step, norm))
        if norm.device.type == "cpu":  # other devices would have to be waited for: they are asked once a row
            self._check_norms()
        return True

    def _check_norms(self) -> None:
        """Raise InputError for the first meta-step since the last call whose gradient was not finite."""
        noted, self._norms = self._norms, []
        if not noted:
            return
        finite = torch.stack([norm for _, norm in noted]).isfinite().tolist()
        for (step, _), fine in zip(noted, finite, strict=True):
            if not fine:
                raise InputError(
                    f"{type(self).__name__}: the meta-gradient of meta-step {step} is not finite; "
                    "lower inner_lr or outer_lr, set meta_grad_clip, or leave such steps out with on_nonfinite=skip"
                )

    def _record(self, scalars: Mapping[str, float | Tensor]) -> None:
        """Add the scalars of one meta-step to the window, and log the window where a row is due."""
        self._last_loss = scalars.get("train/loss", self._last_loss)
        self._check_loss(self._last_loss if "train/loss" in scalars else 0.0)
        for name, value in scalars.items():
            self._window.setdefault(name, []).append(value)
        if "train/accuracy" in scalars:
            total, steps = self._train_accuracy
            self._train_accuracy = (total + scalars["train/accuracy"], steps + 1)
        if self._trainer is not None and getattr(self.trainer, "progress_bar_callback", None) is not None:
            shown = {name: scalars[name] for name in ("train/loss", "train/accuracy") if name in scalars}
            self.log_dict(shown, prog_bar=True, logger=False)
        if self.meta_step % self.outer.log_every == 0 or self.meta_step == self.outer.max_meta_steps:
            self._check_norms()
            row = {name: sum(values) / len(values) for name, values in self._numbers().items()}
            self._check_loss(row.get("train/loss", 0.0))
            now = time.monotonic()
            self.log_row({**row, **self.end_window(), "train/seconds": now - self._window_started})
            self._window, self._window_started = {}, now

    def _check_loss(self, loss: float | Tensor) -> None:
        """Raise InputError for a training loss that is not finite, unless such steps are left out."""
        if self.outer.on_nonfinite == "stop" and isinstance(loss, float) and not math.isfinite(loss):
            raise InputError(
                f"{type(self).__name__}: the training loss at meta-step {self.meta_step} is not finite; lower inner_lr "
                "or outer_lr, set meta_grad_clip, or leave such steps out with on_nonfinite=skip"
            )

    def _numbers(self) -> dict[str, list[float]]:
        """Return the window's scalars as numbers; waits for the device that has them, once."""
        kept = [value for values in self._window.values() for value in values if isinstance(value, Tensor)]
        numbers = iter(torch.stack([value.float() for value in kept]).tolist() if kept else [])
        return {
            name: [next(numbers) if isinstance(value, Tensor) else value for value in values]
            for name, values in self._window.items()
        }

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

    def task_stream(self, purpose: str, task: Episode) -> torch.Generator:
        """Return a stream that depends on seed, purpose, meta-step and task alone, not on rank or order."""
        task_id = -1 if task.task_id is None else int(task.task_id)
        return generator(self.seed, purpose, self.meta_step, task_id + 1)

    # ---- evaluation ---------------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Refuse a Trainer under which the inner loop cannot work; do not train on after an early stop."""
        if getattr(self.trainer, "_inference_mode", False):
            raise InputError(
                "Trainer(inference_mode=True) forbids the inner loop in evaluation; set inference_mode=False"
            )
        self.trainer.should_stop = self._waiting.enough(self.outer.patience)

    def scored(self, batch: Episode, watched: bool) -> Iterator[tuple[Episode, dict[str, Tensor], dict[str, float]]]:
        """Give every task of a meta-batch with its query logits by bn_mode, and its scalars if they are ``watched``."""
        for task in tasks(batch):
            yield (task, *(self.watched_logits(task) if watched else (self.task_logits(task), {})))

    def _score(self, batch: Episode, watched: bool = False) -> None:
        for task, logits, scalars in self.scored(batch, watched):
            self._add_rows(task, logits, scalars)

    def _add_rows(self, task: Episode, by_mode: dict[str, Tensor], watched: Mapping[str, float] | None = None) -> None:
        for mode, logits in by_mode.items():
            self._rows.append(
                {
                    "task_id": -1 if task.task_id is None else int(task.task_id),
                    "bn_mode": mode,
                    "accuracy": float(accuracy(logits, task.query_y)),
                    "loss": float(F.cross_entropy(logits, task.query_y)),
                    "finite": bool(logits.isfinite().all()),
                    **({"watched": dict(watched)} if watched and mode == self.outer.bn_mode else {}),
                }
            )

    def _take_rows(self) -> list[dict[str, Any]]:
        rows = gather_rows(self._rows)
        self._rows = []
        return sorted(rows, key=lambda row: (row["bn_mode"], row["task_id"]))

    def validation_step(self, batch: Episode, batch_idx: int) -> None:
        """Score the tasks of ``batch`` in every bn_mode."""
        self._score(batch, watched=True)

    def on_validation_epoch_end(self) -> None:
        """Log accuracy, CI and loss over the validation episodes of all ranks; stop if there is no more to wait for."""
        rows = self._take_rows()
        by_mode = {mode: [row for row in rows if row["bn_mode"] == mode] for mode in self.bn_modes}
        chosen = by_mode[self.outer.bn_mode]
        score = mean_ci([row["accuracy"] for row in chosen])
        self.val_accuracy = score.mean
        loss = mean_ci([row["loss"] for row in chosen]).mean
        metrics = {"val/accuracy": score.mean, "val/ci95": score.ci95, "val/loss": loss}
        for mode, mode_rows in by_mode.items():
            metrics[f"val/accuracy_{mode}"] = mean_ci([row["accuracy"] for row in mode_rows]).mean
        for name in chosen[0].get("watched", ()):
            metrics[f"val/{name}"] = mean_ci([row["watched"][name] for row in chosen]).mean
        diverged = sum(not row["finite"] for row in chosen)
        if diverged:
            metrics["val/non_finite"] = float(diverged)
            if world()[0] == 0:
                logger.warning(
                    "%s, meta-step %d: the answers to %d of %d validation tasks are not finite: training has diverged, "
                    "or the inner loop does on them",
                    type(self).__name__, self.meta_step, diverged, len(chosen),
                )  # fmt: skip
        self.log("val/non_finite", float(diverged), logger=False)
        metrics.update(self._gap())
        self.log("val/accuracy", score.mean, logger=False, prog_bar=True)
        self.log("val/ci95", score.ci95, logger=False)
        self.log_row(metrics)
        self._stop_if_no_better(-math.inf if diverged else self.val_accuracy)

    def _datamodule(self) -> Any:
        """Return the data module of a fit, and None elsewhere: without a Trainer, or in its check before training."""
        if self._trainer is None or self.trainer.state.fn != "fit" or self.trainer.sanity_checking:
            return None
        return getattr(self.trainer, "datamodule", None)

    def _gap(self) -> dict[str, float]:
        """Accuracy on training classes minus that of this validation, by the gap episodes where there are any.

        Without them the accuracy is that of the training tasks since the last validation, which have their own numbers
        of inner steps and queries; learners that are trained on other tasks than they are scored on have no such gap.
        """
        data, (total, steps) = self._datamodule(), self._train_accuracy
        if data is None:
            return {}
        self._train_accuracy = (0.0, 0)
        if getattr(data, "gap_episodes", 0):
            rows = [row for row in self._rows_of_gap(data) if row["bn_mode"] == self.outer.bn_mode]
            means = {name: mean_ci([row[name] for row in rows]).mean for name in ("accuracy", "loss")}
            gap = means["accuracy"] - self.val_accuracy
            return {"train/eval_accuracy": means["accuracy"], "train/eval_loss": means["loss"], "val/gap": gap}
        total = float(total)
        same_task = self.data_kind == "episodes" and getattr(data, "train_way", None) in (None, data.n_way)
        return {"val/gap": total / steps - self.val_accuracy} if same_task and steps else {}

    def _rows_of_gap(self, data: Any) -> list[dict[str, Any]]:
        plugin = self.trainer.precision_plugin
        for batch in data.gap_loader():
            ready = self.trainer.strategy.batch_to_device(plugin.convert_input(batch))
            with plugin.val_step_context():
                self._score(ready)
        return self._take_rows()

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
        self.test_rows = self._take_rows()
        for mode in dict.fromkeys(row["bn_mode"] for row in self.test_rows):
            score = mean_ci([row["accuracy"] for row in self.test_rows if row["bn_mode"] == mode])
            self.log_dict({f"test/accuracy_{mode}": score.mean, f"test/ci95_{mode}": score.ci95})
        self.log("step", float(self.meta_step))  # what loggers take for the x axis

    def predict_step(self, batch: Episode, batch_idx: int) -> Tensor:
        """Return the class probabilities of the queries, ``[M, Q, N]``; their labels are not used.

        Each is judged by itself: they are normalised by running statistics where ``outer.bn_mode`` is ``running``, else
        by the support set.
        """
        mode = "running" if self.outer.bn_mode == "running" else "support"
        unknown = batch._replace(query_y=torch.zeros_like(batch.query_y))
        return torch.stack([self.task_logits(task)[mode].softmax(dim=1) for task in tasks(unknown)])

    # ---- search -------------------------------------------------------------------------------------------------

    def end_search(self, datamodule: Any) -> Found | None:
        """Return the architecture that training ends with and its cost; None for a learner that searches none.

        Runs on every rank after training, and the ranks must agree.

        Args:
            datamodule: the data module of the run, for tasks to decide on (:meth:`episodes_of`).
        """
        return None

    def finish_search(self, datamodule: Any) -> None:
        """Keep what :meth:`end_search` returns as ``genotype`` and ``search_summary``."""
        found = self.end_search(datamodule)
        if found is not None:
            self.genotype, self.search_summary = found.genotype, found.summary()

    def episodes_of(self, datamodule: Any, split: str, task_ids: Sequence[int]) -> list[Episode]:
        """Return single tasks of a split by their ids, on this module's device."""
        batch = datamodule.episode(split, task_ids)
        return list(tasks(self.transfer_batch_to_device(batch, self.device, 0)))

    # ---- checkpoints --------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a bit-exact continuation needs: plain Python only, so that ``weights_only=True`` reads it."""
        self._check_norms()
        checkpoint[KEY] = {
            "meta_step": self.meta_step,
            "identity": dict(self.run_identity),
            "window": self._numbers(),
            "train_accuracy": [float(self._train_accuracy[0]), self._train_accuracy[1]],
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
        self._window = {name: list(values) for name, values in state["window"].items()}
        # Checkpoints of versions without these begin to count where they are continued.
        self._train_accuracy = tuple(state.get("train_accuracy", (0.0, 0)))
        self._waiting = Waiting(*state.get("waiting", NOTHING_SEEN))
        self.skipped_steps = state.get("skipped_steps", 0)
        checkpoint.pop("loops", None)
