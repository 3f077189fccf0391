"""What learners that differentiate through an inner loop have in common; MAML's relatives differ in a hook each."""

import dataclasses
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from few_shot_nas.algorithms.base import EpisodicModule
from few_shot_nas.algorithms.before_fit import refuse_lost_buffers
from few_shot_nas.algorithms.outer_step import TaskLoss
from few_shot_nas.algorithms.linear_head import start_head
from few_shot_nas.algorithms.precision_check import say_cosine
from few_shot_nas.algorithms.settings import InnerLoop, OuterLoop
from few_shot_nas.episode import Episode, HasQueries, SingleTask, Task, query_labels, tasks
from few_shot_nas.errors import InputError
from few_shot_nas.meta.engines import ENGINES, Run
from few_shot_nas.meta.functional import Params, call, takes_tasks, trainable
from few_shot_nas.meta.inner_loop import adapt, tape_gradient
from few_shot_nas.meta.outer_loss import cross_entropy, query_logits, support_loss
from few_shot_nas.meta.problem import Plan, Problem
from few_shot_nas.nn.convolution import shared_by_tasks
from few_shot_nas.runtime.checkpoint import KEY
from few_shot_nas.runtime.engine_choice import fastest
from few_shot_nas.stats.statistics import accuracy

logger = logging.getLogger(__name__)


class GradientLearner(EpisodicModule):
    """Adapt to the support set by gradient descent and learn from the query loss of the adapted parameters.

    The hooks of a learner: :meth:`is_adapted`, :meth:`rate`, :meth:`step_weights`, :meth:`second_order`,
    :meth:`problem`, :meth:`adapted_logits` and :meth:`support_logits`. As they stand they are MAML's.

    Args:
        net: any network of MODELS.
        inner: the inner loop.
        outer: the outer loop.
        seed: names every random stream of the run.
    """

    #: Most of the noise of a meta-gradient is between tasks: many tasks with few queries learn more per second than few
    #: tasks with many.
    data_defaults: ClassVar[Mapping[str, int]] = {"meta_batch_size": 10, "train_query": 5}

    def __init__(self, net: nn.Module, *, inner: InnerLoop, outer: OuterLoop, seed: int) -> None:
        super().__init__(net, outer=outer, seed=seed)
        self.inner = inner
        if inner.engine != "auto" and not ENGINES[inner.engine].serves(net):
            raise InputError(
                f"{type(self).__name__}: engine={inner.engine} cannot run a {type(net).__name__}, some layers of which "
                "do not take many tasks at once; choose unroll, sweep or vmap"
            )
        #: The engine in use; None until ``auto`` has chosen.
        self.engine: str | None = None if inner.engine == "auto" else inner.engine
        self._run: Run | None = None
        self._compared = False
        start_head(net, inner, type(self).__name__)
        self.rates = nn.ParameterDict()
        self.hparams.update(dataclasses.asdict(inner))

    def setup(self, stage: str) -> None:
        """Refuse also a network whose buffers an inner loop would lose (:func:`refuse_lost_buffers`)."""
        super().setup(stage)
        if stage == "fit":
            refuse_lost_buffers(self.net, getattr(self.trainer, "datamodule", None))

    # ---- hooks ------------------------------------------------------------------------------------------------------

    def is_adapted(self, name: str) -> bool:
        """Whether the inner loop moves the network's parameter ``name``; it takes no gradient for others."""
        return True

    def rate(self, name: str, step: int) -> float | Tensor:
        """Step size for one parameter in one inner step."""
        return self.inner.inner_lr

    def step_weights(self) -> Sequence[float] | None:
        """Weight of the query loss after each training update, ``[T]``; None for the last loss alone."""
        return None

    def second_order(self) -> bool:
        """Whether this meta-step differentiates through the inner gradients."""
        return not self.inner.first_order

    def problem(self, task: HasQueries) -> Problem:
        """Return the losses of one training task; or, for an engine that takes it whole, of a meta-batch."""
        moved, fixed = self.split()

        def query(params: Params, rest: Params, step: int) -> tuple[Tensor, Tensor]:
            logits = query_logits(self.net, task, {**rest, **params}, step, "transductive")
            return cross_entropy(logits, query_labels(task), self.outer.label_smoothing), logits

        def support(params: Params, rest: Params, step: int) -> Tensor:
            return support_loss(self.net, task, {**rest, **params}, step)

        return Problem(moved, fixed, support, query)

    def adapted_logits(self, task: HasQueries, params: Params, step: int, modes: Sequence[str]) -> dict[str, Tensor]:
        """Query logits with the adapted parameters ``params`` for these bn_modes; ``step`` is the last update's."""
        return {mode: query_logits(self.net, task, params, step, mode) for mode in modes}

    def support_logits(self, task: HasQueries, params: Params, step: int) -> Tensor:
        """Support logits with the adapted parameters, normalised by the support set as in the inner loop."""
        return call(self.net, params, task.support_x, step=step)

    # ---- learned rates ----------------------------------------------------------------------------------------------

    def add_rates(self, name: str, start: Tensor) -> None:
        """Let the outer loop learn inner rates for the network's parameter ``name``."""
        self.rates[self._rate_name(name)] = nn.Parameter(start)

    def learned_rates(self, name: str) -> Tensor:
        """Return what :meth:`add_rates` made."""
        return self.rates[self._rate_name(name)]

    @staticmethod
    def _rate_name(name: str) -> str:
        return name.replace(".", "/")  # a module's parameters may not have dots in their names

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The network; and learned rates without weight decay, which would shrink the inner steps."""
        if not self.rates:
            return super().parameter_groups()
        return [
            {"params": [p for p in self.net.parameters() if p.requires_grad]},
            {"params": list(self.rates.parameters()), "weight_decay": 0.0},
        ]

    # ---- the loops --------------------------------------------------------------------------------------------------

    def split(self) -> tuple[Params, Params]:
        """Return the network's trainable parameters that the inner loop moves, and the others."""
        everything = trainable(self.net)
        moved = {name: value for name, value in everything.items() if self.is_adapted(name)}
        if not moved:
            raise InputError(f"{type(self).__name__} finds nothing to adapt in a {type(self.net).__name__}")
        return moved, {name: value for name, value in everything.items() if name not in moved}

    def parts(self, batch: Any) -> tuple[Iterable[Any], int]:
        """The tasks one by one, or the meta-batch as a whole for an engine that takes it so."""
        if self.engine is None:
            self.engine = self._fastest(batch)
        if not self._compared:
            self._compared = True
            say_cosine(partial(self._meta_gradient, batch), batch.support_x.device, type(self).__name__)
        one_by_one, count = super().parts(batch)
        return ([batch] if ENGINES[self.engine].whole_batch else one_by_one), count

    def _meta_gradient(self, batch: Episode) -> list[Tensor]:
        """Return the meta-gradient of a meta-batch, task by task, and leave nothing behind."""
        trained = self._trained()
        run, total = ENGINES["unroll"].start(trained), [torch.zeros_like(value) for value in trained]
        for task in tasks(batch):
            found = torch.autograd.grad(run(self.problem, task, self.plan()).loss, trained, allow_unused=True)
            total = [old if new is None else old + new for old, new in zip(total, found, strict=True)]
        return total

    def _fastest(self, batch: Episode) -> str:
        """Time the engines that can run here on this meta-batch; see :mod:`few_shot_nas.runtime.engine_choice`.

        The sweep saves memory and vmap is for other networks: neither is among them.
        """
        device = batch.support_x.device
        whole = ["folded", "graph"] if device.type == "cuda" else ["folded"]
        names = ["unroll", *(whole if takes_tasks(self.net) else [])]
        runs = {name: ENGINES[name].start(self._trained()) for name in names}

        def step(name: str) -> None:
            parts = [batch] if ENGINES[name].whole_batch else tasks(batch)
            for part in parts:
                runs[name](self.problem, part, self.plan()).loss.backward()
            self.zero_grad(set_to_none=True)
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
        shapes = [list(value.shape) for value in (batch.support_x, batch.query_x, *self.net.parameters())]
        how = [type(self).__name__, self.inner.inner_steps, self.second_order(), self.inner.inner_optimizer]
        key = json.dumps([where, torch.__version__, names, type(self.net).__name__, how, shapes])
        data = getattr(self._trainer, "datamodule", None)
        folder = getattr(getattr(data, "source", None), "cache_dir", None)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            return fastest({name: partial(step, name) for name in names}, key, folder)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the engine that ``auto`` chose, which a continued run keeps: engines differ in the last digits."""
        super().on_save_checkpoint(checkpoint)
        if self.inner.engine == "auto" and self.engine is not None:
            checkpoint[KEY]["engine"] = self.engine

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the engine that ``auto`` chose before."""
        super().on_load_checkpoint(checkpoint)
        chosen = checkpoint[KEY].get("engine")
        if self.inner.engine == "auto" and chosen in ENGINES and ENGINES[chosen].serves(self.net):
            logger.info("engine=auto: %s, as the run began", chosen)
            self.engine, self._run = chosen, None

    def plan(self) -> Plan:
        """Return how this meta-step adapts to its tasks."""
        weights, steps, rule = self.step_weights(), self.inner.inner_steps, self.inner.rule()
        return Plan(self.rate, steps, self.second_order(), weights, rule)

    def task_loss(self, task: Task | Episode) -> TaskLoss:
        """Outer loss of one task: mean cross-entropy of the queries after adaptation, or a weighted sum over steps.

        Of a meta-batch, sums over the tasks.
        """
        if self._run is None:
            self._run = ENGINES[self.engine or "unroll"].start(self._trained())
        loss, logits, trajectory = self._run(self.problem, task, self.plan())
        if isinstance(task, Task):
            self.after_task(task, trajectory)
            return loss, {"train/loss": loss, "train/accuracy": accuracy(logits, task.query_y)}
        looks = type(self).after_task is not GradientLearner.after_task
        for index, own in enumerate(tasks(task) if looks else ()):
            self.after_task(own, [{name: value[index] for name, value in iterate.items()} for iterate in trajectory])
        hits = len(logits) * accuracy(logits.flatten(0, 1), task.query_y.flatten())
        return loss, {"train/loss": loss, "train/accuracy": hits}

    def after_task(self, task: Task, trajectory: Sequence[Params]) -> None:
        """Look at the iterates ``[theta_0, ..., theta_T]`` of a training task; does nothing by default."""

    def descend(self, problem: Problem, *, training: bool) -> list[Params]:
        """Return the iterates of the inner loop on one task."""
        return adapt(
            lambda params, step: problem.support(params, problem.fixed, step),
            problem.moved,
            lr=self.rate,
            num_steps=self.inner.steps(training),
            second_order=training and self.second_order(),
            rule=self.inner.rule(),
            differentiate=tape_gradient,
        )

    def task_logits(self, task: SingleTask) -> dict[str, Tensor]:
        """Query logits after adaptation, for every bn_mode."""
        problem = self.problem(task)
        params = {**problem.fixed, **self.descend(problem, training=False)[-1]}
        return self.adapted_logits(task, params, max(self.inner.steps(training=False) - 1, 0), self.bn_modes)

    def watched_logits(self, task: Task) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Query logits after adaptation; and accuracies.

        ``accuracy_step<s>`` is that of the queries after s updates in ``outer.bn_mode``, 0 before any, and
        ``support_accuracy`` that of the support set after the last; none without ``log_inner_steps``.
        """
        if not self.outer.log_inner_steps:
            return super().watched_logits(task)
        logits, by_step, support = self._logits(task, self.problem(task), True)
        return logits, _accuracies(task, by_step, support)

    def scored(self, batch: Episode, watched: bool) -> Iterator[tuple[Task, dict[str, Tensor], dict[str, float]]]:
        """All tasks of the meta-batch at once, where the engine trains so and the network allows it."""
        if not self.scores_whole_batches():
            yield from super().scored(batch, watched)
            return
        watched, problem, count = watched and self.outer.log_inner_steps, self.problem(batch), len(batch.support_x)
        moved = {name: shared_by_tasks(value, count) for name, value in problem.moved.items()}
        logits, by_step, support = self._logits(batch, problem._replace(moved=moved), watched)
        for index, task in enumerate(tasks(batch)):
            own = {mode: scores[index] for mode, scores in logits.items()}
            steps = [scores[index] for scores in by_step]
            yield task, own, _accuracies(task, steps, support[index]) if watched else {}

    def scores_whole_batches(self) -> bool:
        """Whether :meth:`adapted_logits` and :meth:`support_logits` are to be asked for many tasks at once."""
        return (self.engine is None or ENGINES[self.engine].whole_batch) and takes_tasks(self.net)

    def _logits(
        self, task: HasQueries, problem: Problem, watched: bool
    ) -> tuple[dict[str, Tensor], list[Tensor], Tensor]:
        """Query logits by bn_mode; in ``outer.bn_mode`` after 0, 1, ... updates, and support logits, if ``watched``."""
        mode = self.outer.bn_mode
        iterates = [{**problem.fixed, **moved} for moved in self.descend(problem, training=False)]
        last = max(len(iterates) - 2, 0)
        logits = self.adapted_logits(task, iterates[-1], last, self.bn_modes)
        if not watched:
            return logits, [], torch.empty(0)
        by_step = [
            self.adapted_logits(task, params, max(updates - 1, 0), (mode,))[mode]
            for updates, params in enumerate(iterates[:-1])
        ]
        return logits, [*by_step, logits[mode]], self.support_logits(task, iterates[-1], last)


def _accuracies(task: Task, by_step: Sequence[Tensor], support: Tensor) -> dict[str, float]:
    watched = {f"accuracy_step{updates}": accuracy(scores, task.query_y) for updates, scores in enumerate(by_step)}
    watched["support_accuracy"] = accuracy(support, task.support_y)
    return {name: float(value) for name, value in watched.items()}
