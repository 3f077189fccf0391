"""MetaNAS: Reptile on weights and architecture parameters, with an architecture that hardens within each task."""

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from few_shot_nas.algorithms.alpha_search import AlphaLoop, AlphaSearch, alphas_of, is_alpha
from few_shot_nas.algorithms.outer_step import TaskLoss
from few_shot_nas.algorithms.linear_head import start_head
from few_shot_nas.algorithms.reptile import half_squared_distance, mini_batches
from few_shot_nas.algorithms.settings import InnerLoop, OuterLoop
from few_shot_nas.episode import SingleTask, Task
from few_shot_nas.errors import InputError
from few_shot_nas.meta.functional import Params, call, trainable
from few_shot_nas.meta.inner_loop import descend
from few_shot_nas.meta.inner_optimizer import Adam
from few_shot_nas.meta.outer_loss import query_logits
from few_shot_nas.ranges import Count, Fraction, Number, Positive, check_arguments
from few_shot_nas.seeding import generator
from few_shot_nas.settings import Settings
from few_shot_nas.spaces.genotype import Genotype
from few_shot_nas.spaces.pair_mixed_supernet import PairMixedSupernet
from few_shot_nas.stats.statistics import accuracy


@dataclass(frozen=True)
class Hardening(Settings):
    """How a task's architecture becomes discrete while it is adapted.

    Attributes:
        temperature_max: what the alphas are divided by in the first inner step.
        temperature_min: the same in the last one; between them it falls linearly.
        alpha_warmup_steps: meta-steps at the start that train the weights alone.
        eval_alpha_share: share of the inner steps of evaluation, from the first, in which alphas move too.
    """

    temperature_max: Positive = 1.0
    temperature_min: Positive = 0.1
    alpha_warmup_steps: Number = 0
    eval_alpha_share: Fraction = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature_min > self.temperature_max:
            raise InputError(
                f"temperature_min={self.temperature_min} given; it must not be above "
                f"temperature_max={self.temperature_max}"
            )

    def temperature(self, step: int, steps: int) -> float:
        """Return the temperature of one of so many inner steps, counted from 0."""
        done = step / (steps - 1) if steps > 1 else 1.0
        return self.temperature_max - done * (self.temperature_max - self.temperature_min)


def _constant(rate: float, name: str, step: int) -> float:
    return rate


class MetaNAS(AlphaSearch):
    """MetaNAS (Elsken et al., CVPR 2020, "Meta-learning of neural architectures for few-shot learning").

    In every inner step Adam (betas 0 and 0.999) moves the alphas on one mini-batch of the task's images and the weights
    on another, at a temperature that falls. The outer loop is Reptile's: ``w <- w + outer_lr * mean(w_task - w)`` and
    ``alpha <- alpha + alpha_lr * mean(alpha_task - alpha)``.

    Deviations: gradients of the alphas are those at the current weights (the released code takes them at the first
    ones, in a copy that is never brought up to date); the inner Adams start afresh for every task; no path is dropped
    at random; one threshold serves training and test.

    Args:
        net: a PairMixedSupernet; that of the paper has space=metanas, channels=28, cells=4, nodes=3.
        inner: the inner loop of the weights.
        alphas: how the alphas are learned: alpha_inner_lr in the inner Adam, alpha_weight_decay the L2 penalty there,
            alpha_lr the outer rate.
        hardening: temperature, warm-up, and when the alphas move in evaluation.
        outer: the outer loop; outer_lr is the rate towards the weights of the tasks.
        inner_batch: images in a mini-batch of the inner loop.
        seed: names every random stream of the run.
    """

    default_model: ClassVar[str] = "PairMixedSupernet"

    def __init__(
        self,
        net: nn.Module,
        *,
        inner: InnerLoop = InnerLoop(
            inner_lr=1e-3, inner_steps=5, eval_inner_steps=50, first_order=True, inner_optimizer="adam"
        ),
        alphas: AlphaLoop = AlphaLoop(alpha_inner_lr=1e-3, alpha_lr=0.6),
        hardening: Hardening = Hardening(),
        outer: OuterLoop = OuterLoop(outer_lr=1.0),
        inner_batch: Count = 20,
        seed: int = 0,
    ) -> None:
        super().__init__(net, alphas=alphas, outer=outer, seed=seed)
        if not isinstance(net, PairMixedSupernet):
            kind = type(net).__name__
            raise InputError(f"MetaNAS mixes pairs of inputs, but model_class is {kind}; use PairMixedSupernet")
        if not inner.first_order or inner.engine != "unroll" or inner.inner_optimizer != "adam":
            raise InputError(
                f"MetaNAS: first_order={inner.first_order}, engine={inner.engine}, inner_optimizer="
                f"{inner.inner_optimizer}: it takes plain steps of Adam; leave these flags out"
            )
        if outer.label_smoothing:
            raise InputError(f"MetaNAS: label_smoothing={outer.label_smoothing}: it has no outer loss; leave it at 0")
        check_arguments(MetaNAS.__init__, {"inner_batch": inner_batch})
        self.inner, self.hardening, self.inner_batch = inner, hardening, inner_batch
        start_head(net, inner, "MetaNAS")
        self.hparams.update(
            {**dataclasses.asdict(inner), **dataclasses.asdict(hardening), "inner_batch": inner_batch}
        )

    # ---- one task ----------------------------------------------------------------------------------------------------

    def batch_loss(self, params: Params, images: Tensor, labels: Tensor, temperature: float) -> Tensor:
        """Mean cross-entropy of one mini-batch under the mixture at a temperature."""
        return F.cross_entropy(call(self.net, params, images, temperature=temperature), labels)

    def penalised(self, params: Params, images: Tensor, labels: Tensor, temperature: float) -> Tensor:
        """The loss of the alphas: that of the mini-batch, and half alpha_weight_decay times their squared norm."""
        norm = torch.stack([value.square().sum() for name, value in params.items() if is_alpha(name)]).sum()
        return self.batch_loss(params, images, labels, temperature) + 0.5 * self.alphas.alpha_weight_decay * norm

    def train_on(
        self, images: Tensor, labels: Tensor, *, steps: int, alpha_steps: int, stream: torch.Generator
    ) -> Params:
        """Return weights and alphas after the inner loop on a pool of images; the alphas move in the first steps."""
        chosen = mini_batches(images.shape[0], self.inner_batch, 2 * steps, stream).to(images.device)
        start, rule = trainable(self.net), Adam(beta1=0.0, root_eps=0.0, eps=1e-8)
        moved = [{n: v for n, v in start.items() if is_alpha(n) == alphas} for alphas in (True, False)]
        slots = [rule.start(part) for part in moved]
        rates = (self.alphas.alpha_inner_lr, self.inner.inner_lr)
        for step in range(steps):
            temperature = self.hardening.temperature(step, steps)
            for kind, loss in ((0, self.penalised), (1, self.batch_loss)):
                if kind == 0 and step >= alpha_steps:
                    continue
                drawn = chosen[2 * step + kind]
                trajectory, slots[kind] = descend(
                    partial(self._loss_of_part, loss, moved[1 - kind], images[drawn], labels[drawn], temperature),
                    moved[kind],
                    lr=partial(_constant, rates[kind]),
                    num_steps=1,
                    second_order=False,
                    rule=rule,
                    slots=slots[kind],
                )
                moved[kind] = trajectory[-1]
        return {**moved[0], **moved[1]}

    @staticmethod
    def _loss_of_part(
        loss: Any, others: Params, images: Tensor, labels: Tensor, temperature: float, part: Params, step: int
    ) -> Tensor:
        return loss({**others, **part}, images, labels, temperature)

    def hardened_logits(self, task: SingleTask, params: Params, mode: str) -> Tensor:
        """Query logits under the hardened mixture."""
        return query_logits(self.net, task, params, 0, mode, temperature=self.hardening.temperature_min)

    def task_loss(self, task: Task) -> TaskLoss:
        """Half the squared distance to the task's weights and alphas; the logged loss is the queries' before them.

        All images of the task, support and queries, are the pool of the inner loop, so the logged accuracy is that of
        images that were trained on.
        """
        images, labels = torch.cat([task.support_x, task.query_x]), torch.cat([task.support_y, task.query_y])
        steps = self.inner.steps(training=True)
        alpha_steps = steps if self.meta_step >= self.hardening.alpha_warmup_steps else 0
        with torch.no_grad():
            stream = self.task_stream("meta-nas", task)
            params = self.train_on(images, labels, steps=steps, alpha_steps=alpha_steps, stream=stream)
            logits = self.hardened_logits(task, params, "transductive")
        loss = F.cross_entropy(logits, task.query_y)
        scalars = {"train/loss": loss, "train/accuracy": accuracy(logits, task.query_y)}
        return half_squared_distance(trainable(self.net), params), scalars

    def adapted_params(self, task: SingleTask) -> Params:
        """Return weights and alphas after the inner loop of evaluation on the support set."""
        task_id = -1 if task.task_id is None else int(task.task_id)
        steps = self.inner.steps(training=False)
        alpha_steps = round(steps * self.hardening.eval_alpha_share)
        stream = generator(self.seed, "meta-nas-eval", task_id + 1)
        with torch.no_grad():
            return self.train_on(task.support_x, task.support_y, steps=steps, alpha_steps=alpha_steps, stream=stream)

    def task_logits(self, task: SingleTask) -> dict[str, Tensor]:
        """Query logits after the inner loop on the support set, for every bn_mode."""
        params = self.adapted_params(task)
        return {mode: self.hardened_logits(task, params, mode) for mode in self.bn_modes}

    # ---- the outer step and the end ----------------------------------------------------------------------------------

    def make_optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Plain gradient descent on the distances."""
        return torch.optim.SGD(groups, lr=self.outer.outer_lr, weight_decay=self.outer.weight_decay)

    def alpha_group(self, alphas: list[nn.Parameter]) -> dict[str, Any]:
        """The alphas at alpha_lr; their penalty is in the inner loop."""
        return {"params": alphas, "lr": self.alphas.alpha_lr, "weight_decay": 0.0}

    def decode(self, task: SingleTask) -> Genotype:
        """Return the genotype of one task: likeliest pairs and ops of its adapted alphas."""
        return self.supernet.discretise_alphas(alphas_of(self.adapted_params(task)))

    def decoded(self, datamodule: Any) -> list[Genotype]:
        """The genotypes of decode_episodes validation tasks."""
        return self.decoded_tasks(datamodule)

    def decoding_cost(self, tasks: int) -> int:
        """One forward pass for every inner step of the weights, and one for every step of the alphas."""
        steps = self.inner.steps(training=False)
        return tasks * (steps + round(steps * self.hardening.eval_alpha_share))

    def passes_per_task(self) -> int:
        """Two in every inner step, and one over the queries."""
        return 2 * self.inner.inner_steps + 1
