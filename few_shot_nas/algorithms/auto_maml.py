"""Auto-MAML: one architecture for all tasks, learned by the query loss of adapted weights."""

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from torch import nn

from few_shot_nas.algorithms.alpha_search import AlphaLoop, AlphaSearch, is_alpha
from few_shot_nas.algorithms.outer_step import TaskLoss
from few_shot_nas.algorithms.gradient_learner import GradientLearner
from few_shot_nas.algorithms.settings import InnerLoop, OuterLoop
from few_shot_nas.algorithms.tnas import PUBLISHED_INNER
from few_shot_nas.episode import Episode, Task, tasks
from few_shot_nas.errors import InputError
from few_shot_nas.runtime.gradients import world
from few_shot_nas.settings import require_choice
from few_shot_nas.stats.statistics import accuracy

Compat = Literal["paper", "code"]


class AutoMAML(AlphaSearch, GradientLearner):
    """Auto-MAML (Lian et al., ICLR 2020, section 4.1): DARTS's alternation with MAML in place of training.

    A meta-step has two updates. The tasks at even places of the meta-batch adapt the weights and give the gradient of
    the query loss with respect to the alphas, which Adam follows; then those at odd places do the same for the
    weights. Both are of the first order, and the inner loop leaves the alphas where they are.

    Deviations: the authors draw the two kinds of tasks from two halves of every class's images, here all tasks see all
    images of the training classes; ``first_order=false`` is an option that the paper does not have.

    Args:
        net: a MixedSupernet.
        inner: the inner loop of the weights.
        alphas: how the alphas are learned; alpha_inner_lr is not used.
        compat: paper takes the gradient of the query loss; code accumulates as the authors' code does, which never
            clears the gradient of the alphas within a meta-batch: ``(1/B) sum_j (B - j + 1) [sum_m g_support(j, m) +
            g_query(j)]`` over tasks j and inner steps m. For comparison, on one process.
        outer: the outer loop of the weights.
        seed: names every random stream of the run.
    """

    data_defaults: ClassVar = {"meta_batch_size": 8, "train_query": 15}

    def __init__(
        self,
        net: nn.Module,
        *,
        inner: InnerLoop = PUBLISHED_INNER,
        alphas: AlphaLoop = AlphaLoop(alpha_lr=3e-4),
        compat: Compat = "paper",
        outer: OuterLoop = OuterLoop(outer_lr=1e-3),
        seed: int = 0,
    ) -> None:
        super().__init__(net, inner=inner, alphas=alphas, outer=outer, seed=seed)
        require_choice("compat", compat, Compat)
        self.compat = compat
        self.hparams.update({"compat": compat})

    def is_adapted(self, name: str) -> bool:
        """The weights, not the alphas."""
        return not is_alpha(name)

    def setup(self, stage: str) -> None:
        """Refuse the authors' accumulation on several processes: it depends on the order of the tasks."""
        super().setup(stage)
        if stage == "fit" and self.compat == "code" and world()[1] > 1:
            raise InputError("AutoMAML: compat=code adds up over tasks in their order; use one process (devices=1)")

    def update(self, batch: Episode) -> dict[str, float]:
        """Move the alphas by the tasks at even places, then the weights by those at odd places.

        Raises:
            InputError: if the meta-batch of a process has an odd number of tasks.
        """
        count = batch.support_x.shape[0]
        if count % 2:
            raise InputError(
                f"AutoMAML: meta_batch_size gives a process {count} tasks; an even number is needed, half of the tasks "
                "for the alphas and half for the weights"
            )
        drawn, skipped = list(tasks(batch)), self.skipped_steps
        self.backward_mean(self._alpha_losses(drawn[0::2]), count // 2)
        self._descend_only(alphas=True)
        scalars = self.backward_mean(map(self.task_loss, drawn[1::2]), count // 2)
        self._descend_only(alphas=False)
        self.skipped_steps = min(self.skipped_steps, skipped + 1)  # a meta-step counts once
        return scalars

    def _alpha_losses(self, drawn: list[Task]) -> Iterator[TaskLoss]:
        for place, task in enumerate(drawn):
            yield self.task_loss(task) if self.compat == "paper" else self.accumulated_loss(task, len(drawn) - place)

    def accumulated_loss(self, task: Task, times: int) -> TaskLoss:
        """Return a loss whose gradient of the alphas is what one task adds in the authors' code, ``times`` over."""
        problem = self.problem(task)
        with torch.no_grad():
            iterates = self.descend(problem, training=True)
        steps = self.inner.inner_steps
        losses = [problem.support(params, problem.fixed, step) for step, params in enumerate(iterates[:-1])]
        loss, logits = problem.query(iterates[-1], problem.fixed, steps - 1)
        total = times * (torch.stack(losses).sum() + loss)
        return total, {"train/loss": loss, "train/accuracy": accuracy(logits, task.query_y)}

    def _descend_only(self, *, alphas: bool) -> None:
        """Take a step of the optimizer that leaves the other kind of parameters alone."""
        for name, value in self.net.named_parameters():
            if is_alpha(name) != alphas:
                value.grad = None
        self.descend_outer()

    def passes_per_task(self) -> int:
        """The inner steps on the support set, and one pass over the queries."""
        return self.inner.inner_steps + 1
