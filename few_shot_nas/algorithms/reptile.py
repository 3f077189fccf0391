"""Reptile: move the initialisation towards the weights that ordinary training on a task ends with."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from few_shot_nas.algorithms.base import EpisodicModule
from few_shot_nas.algorithms.before_fit import refuse_lost_buffers
from few_shot_nas.algorithms.outer_step import TaskLoss
from few_shot_nas.algorithms.linear_head import start_head
from few_shot_nas.algorithms.settings import InnerLoop, OuterLoop
from few_shot_nas.episode import Episode, SingleTask, Task, tasks
from few_shot_nas.errors import InputError
from few_shot_nas.meta.functional import Params, call, takes_tasks, trainable
from few_shot_nas.meta.inner_loop import Descent, descend, tape_gradient
from few_shot_nas.meta.inner_optimizer import PLAIN, Adam, InnerRule, Slots
from few_shot_nas.meta.outer_loss import cross_entropy, query_logits
from few_shot_nas.nn.convolution import shared_by_tasks
from few_shot_nas.ranges import Count
from few_shot_nas.runtime.gradients import average_gradients, world
from few_shot_nas.seeding import generator
from few_shot_nas.settings import require_choice
from few_shot_nas.stats.statistics import accuracy


TrainPool = Literal["all", "support"]


def mini_batches(size: int, batch: int, count: int, stream: torch.Generator) -> Tensor:
    """Draw mini-batches without replacement, shuffling anew whenever all are used up.

    Args:
        size: number of images in the pool.
        batch: images in a mini-batch; may straddle two passes over the pool.
        count: number of mini-batches.
        stream: where the shuffles come from.

    Returns:
        Indices ``[count, batch]`` int64.
    """
    passes = -(-batch * count // size)
    order = torch.cat([torch.randperm(size, generator=stream) for _ in range(max(passes, 1))])
    return order[: batch * count].view(count, batch)


def half_squared_distance(params: Params, target: Params) -> Tensor:
    """Return ``sum_p |p - target_p|^2 / 2``, a scalar whose gradient with respect to ``params`` is ``params - target``.

    >>> float(half_squared_distance({"w": torch.tensor([3.0, 1.0])}, {"w": torch.tensor([1.0, 1.0])}))
    2.0
    """
    return 0.5 * torch.stack([(value - target[name].detach()).square().sum() for name, value in params.items()]).sum()


class Reptile(EpisodicModule):
    """Reptile (Nichol et al. 2018, arXiv:1803.02999, Algorithm 2) as in the authors' code.

    For each task of a meta-batch: start from phi, take inner_steps of Adam with beta1 = 0 on mini-batches of the
    task's images, which gives W. Then ``phi <- phi + epsilon * mean(W - phi)``, epsilon = outer_lr falling linearly to
    zero. Adam's second moments are **carried from task to task** and, as a copy, into evaluation; an Adam made anew for
    each task is another algorithm. They are part of the state_dict.

    Evaluation adapts on mini-batches of the support set and scores ``transductive`` (the authors' --transductive),
    ``support`` and, with per_query_bn, ``per_query``: every query normalised together with the support set, the
    authors' default.

    Deviations: Adam's epsilon is added after the bias correction; at most rounding. A task's images in training are
    its support set and, with train_pool=all, its queries, so that k_shot need not differ between training and test:
    k_shot + n_query is the authors' train_shots, and training accuracy is then that of images trained on. With several
    ranks each carries its moments through its own tasks, and after each meta-step moments and number of updates are
    averaged over the ranks: another sequence than one rank's. With ``sgd``, which carries nothing, both are the same.

    Args:
        net: any network of MODELS.
        inner: the inner loop; its gradients are never differentiated through, so first_order stays on.
            inner_optimizer: adam has beta1 = 0; sgd is the authors' --sgd. engine: unroll, or folded with sgd.
        outer: the outer loop; outer_lr is epsilon.
        inner_batch: images in a mini-batch in training.
        eval_inner_batch: images in a mini-batch in evaluation; None takes inner_batch.
        train_pool: the images of a task that training uses: all of them, or its support set.
        per_query_bn: score the authors' non-transductive protocol too; costs a pass per query.
        seed: names every random stream of the run.
    """

    slot_updates: Tensor

    def __init__(
        self,
        net: nn.Module,
        *,
        inner: InnerLoop = InnerLoop(
            inner_lr=1e-3, inner_steps=5, eval_inner_steps=50, first_order=True, inner_optimizer="adam"
        ),
        outer: OuterLoop = OuterLoop(outer_lr=1.0, outer_schedule="linear"),
        inner_batch: Count = 10,
        eval_inner_batch: Count | None = 5,
        train_pool: TrainPool = "all",
        per_query_bn: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(net, outer=outer, seed=seed, per_query=per_query_bn)
        if not inner.first_order or inner.engine not in ("unroll", "folded"):
            raise InputError(
                f"Reptile: first_order={inner.first_order} with engine={inner.engine}: it does not differentiate "
                "through the inner loop; leave first_order on, and engine=unroll or folded"
            )
        if inner.engine == "folded" and (inner.inner_optimizer != "sgd" or not takes_tasks(net)):
            raise InputError(
                f"Reptile: engine=folded with inner_optimizer={inner.inner_optimizer} and a {type(net).__name__}: all "
                "tasks at once need inner_optimizer=sgd, whose tasks do not carry moments to each other, and a network "
                "such as Conv4; give engine=unroll"
            )
        if outer.label_smoothing:
            raise InputError(
                f"Reptile: label_smoothing={outer.label_smoothing}: it has no outer loss whose labels could be "
                "smoothed; leave label_smoothing at 0"
            )
        for flag, images in (("inner_batch", inner_batch), ("eval_inner_batch", eval_inner_batch)):
            if images is not None and images < 1:
                raise InputError(f"Reptile: {flag}={images}: must be at least 1")
        require_choice("train_pool", train_pool, TrainPool)
        self.inner = inner
        start_head(net, inner, "Reptile")
        self.inner_batch = inner_batch
        self.eval_inner_batch = eval_inner_batch or inner_batch
        self.train_pool = train_pool
        self.per_query_bn = per_query_bn
        options: dict[str, Any] = {"inner_batch": inner_batch, "eval_inner_batch": eval_inner_batch}
        options.update({"train_pool": train_pool, "per_query_bn": per_query_bn})
        self.hparams.update({**dataclasses.asdict(inner), **options})
        self.register_buffer("slot_updates", torch.zeros((), dtype=torch.int64))
        for index, moment in enumerate(self.rule().start(trainable(net)).moments):
            for name, value in moment.items():
                self.register_buffer(self._slot(index, name), value.clone())

    def setup(self, stage: str) -> None:
        """Refuse also a network whose buffers an inner loop would lose (:func:`refuse_lost_buffers`)."""
        super().setup(stage)
        if stage == "fit":
            refuse_lost_buffers(self.net, getattr(self.trainer, "datamodule", None))

    # ---- the inner optimiser ----------------------------------------------------------------------------------------

    def rule(self) -> InnerRule:
        """Adam with beta1 = 0 and the textbook's epsilon, or plain gradient descent."""
        return Adam(beta1=0.0, root_eps=0.0, eps=1e-8) if self.inner.inner_optimizer == "adam" else PLAIN

    @staticmethod
    def _slot(index: int, name: str) -> str:
        return f"slot{index}/{name.replace('.', '/')}"  # a buffer may not have dots in its name

    def slots(self) -> Slots:
        """Return what the inner optimiser carries."""
        names, count = list(trainable(self.net)), len(self.rule().start({}).moments)
        moments = tuple({name: getattr(self, self._slot(index, name)) for name in names} for index in range(count))
        return Slots(int(self.slot_updates), moments)

    def _keep(self, slots: Slots) -> None:
        self.slot_updates.fill_(slots.updates)
        for index, moment in enumerate(slots.moments):
            for name, value in moment.items():
                getattr(self, self._slot(index, name)).copy_(value)

    def rate(self, name: str, step: int) -> float | Tensor:
        """Step size for one parameter in one inner step."""
        return self.inner.inner_lr

    # ---- one task ---------------------------------------------------------------------------------------------------

    def batch_loss(self, params: Params, images: Tensor, labels: Tensor, step: int) -> Tensor:
        """Mean cross-entropy of one mini-batch; of a mini-batch of every task, the sum over the tasks."""
        return cross_entropy(call(self.net, params, images, step=step), labels)

    def train_on(
        self, images: Tensor, labels: Tensor, *, batch: int, steps: int, streams: Sequence[torch.Generator]
    ) -> Descent:
        """Train from phi on mini-batches of a pool, from the carried slots, which stay as they are.

        Args:
            images: ``[B, C, H, W]``, or ``[M, B, C, H, W]`` of many tasks, each with iterates of its own.
            labels: ``[B]`` or ``[M, B]``.
            batch: images in a mini-batch.
            steps: updates.
            streams: where the mini-batches of each task come from.
        """
        pools = images.shape[labels.ndim - 1]
        drawn = [mini_batches(pools, batch, steps, stream) for stream in streams]
        chosen, start = torch.stack(drawn).to(images.device), trainable(self.net)
        if labels.ndim == 2:
            start = {name: shared_by_tasks(value, len(labels)) for name, value in start.items()}

        def support(params: Params, step: int) -> Tensor:
            if labels.ndim == 1:
                return self.batch_loss(params, images[chosen[0, step]], labels[chosen[0, step]], step)
            rows, own = torch.arange(len(labels), device=images.device).unsqueeze(1), chosen[:, step]
            return self.batch_loss(params, images[rows, own], labels[rows, own], step)

        return descend(
            support,
            start,
            lr=self.rate,
            num_steps=steps,
            second_order=False,
            rule=self.rule(),
            slots=self.slots(),
            differentiate=tape_gradient,
        )

    def _streams(self, task: SingleTask | Episode, *words: str | int) -> list[torch.Generator]:
        """Return the stream of every task, or of the one task."""
        ids = torch.full((1,), -1) if task.task_id is None else torch.atleast_1d(torch.as_tensor(task.task_id))
        ids = ids.expand(len(task.support_x)) if task.support_y.ndim == 2 else ids
        return [generator(self.seed, *words, int(task_id) + 1) for task_id in ids]

    def parts(self, batch: Any) -> tuple[Iterable[Any], int]:
        """The tasks one by one, or the meta-batch as a whole for the folded engine."""
        one_by_one, count = super().parts(batch)
        return ([batch] if self.inner.engine == "folded" else one_by_one), count

    def task_loss(self, task: Task | Episode) -> TaskLoss:
        """Half the squared distance from phi to W, whose gradient is phi - W; the logged loss is the queries'.

        Of a meta-batch, sums over the tasks.
        """
        images, labels = task.support_x, task.support_y
        if self.train_pool == "all":
            images, labels = torch.cat([images, task.query_x], -4), torch.cat([labels, task.query_y], -1)
        steps = self.inner.steps(training=True)
        with torch.no_grad():
            streams = self._streams(task, "reptile", self.meta_step)
            trajectory, slots = self.train_on(images, labels, batch=self.inner_batch, steps=steps, streams=streams)
            self._keep(slots._replace(updates=self.slots().updates + steps * len(streams)))
            logits = query_logits(self.net, task, trajectory[-1], steps - 1, "transductive")
        loss = cross_entropy(logits, task.query_y)
        hits = accuracy(logits.flatten(0, -2), task.query_y.flatten()) * (len(logits) if logits.ndim == 3 else 1)
        distance = half_squared_distance(trainable(self.net), trajectory[-1])
        return distance, {"train/loss": loss, "train/accuracy": hits}

    def task_logits(self, task: SingleTask | Episode) -> dict[str, Tensor]:
        """Query logits after training on the support set, for every bn_mode; mini-batches depend on the task alone."""
        steps, streams = self.inner.steps(training=False), self._streams(task, "reptile-eval")
        images, labels, batch = task.support_x, task.support_y, self.eval_inner_batch
        params = self.train_on(images, labels, batch=batch, steps=steps, streams=streams).trajectory[-1]
        return {mode: query_logits(self.net, task, params, max(steps - 1, 0), mode) for mode in self.bn_modes}

    def scored(self, batch: Episode, watched: bool) -> Iterator[tuple[Task, dict[str, Tensor], dict[str, float]]]:
        """All tasks of the meta-batch at once, where the engine trains so."""
        if self.inner.engine != "folded":
            yield from super().scored(batch, watched)
            return
        logits = self.task_logits(batch)
        for index, task in enumerate(tasks(batch)):
            yield task, {mode: scores[index] for mode, scores in logits.items()}, {}

    # ---- the outer step ---------------------------------------------------------------------------------------------

    def make_optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Plain gradient descent with rate epsilon on phi - W."""
        return torch.optim.SGD(groups, lr=self.outer.outer_lr, weight_decay=self.outer.weight_decay)

    def update(self, batch: Episode) -> dict[str, float]:
        """One outer update; then the ranks agree on the slots."""
        scalars = super().update(batch)
        if world()[1] > 1:
            self._keep(self._averaged(self.slots()))
        return scalars

    @staticmethod
    def _averaged(slots: Slots) -> Slots:
        values = [value for moment in slots.moments for value in moment.values()]
        updates = torch.tensor([slots.updates])
        flat = torch.cat([updates.to(values[0]), *(v.flatten() for v in values)]) if values else updates.float()
        mean = average_gradients([], 1, flat)
        parts = iter(mean[1:].split([value.numel() for value in values]))
        moments = tuple({n: next(parts).view_as(value) for n, value in moment.items()} for moment in slots.moments)
        return Slots(round(float(mean[0])), moments)
