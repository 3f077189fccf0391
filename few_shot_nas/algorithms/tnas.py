"""T-NAS: adapt weights and architecture parameters to a task together, and learn where both start."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from few_shot_nas.algorithms.alpha_search import ADAPTED_SPREAD, AlphaLoop, AlphaSearch, alphas_of, is_alpha, spread
from few_shot_nas.algorithms.gradient_learner import GradientLearner
from few_shot_nas.algorithms.outer_step import TaskLoss
from few_shot_nas.algorithms.settings import InnerLoop, OuterLoop
from few_shot_nas.episode import Episode, SingleTask, Task
from few_shot_nas.meta.functional import Params
from few_shot_nas.spaces.genotype import Genotype

#: What the authors' script sets.
PUBLISHED_INNER = InnerLoop(inner_lr=0.01, inner_steps=5, eval_inner_steps=10, first_order=True)


class TaskDecoding(AlphaSearch, GradientLearner):
    """A gradient learner whose inner loop moves the alphas too, so that every task has a genotype of its own."""

    data_defaults: ClassVar = {"meta_batch_size": 4, "train_query": 15}

    def rate(self, name: str, step: int) -> float | Tensor:
        """alpha_inner_lr for the alphas, and the learner's rate for the weights."""
        return self.alphas.alpha_inner_lr if is_alpha(name) else super().rate(name, step)

    def after_task(self, task: Task, trajectory: Sequence[Params]) -> None:
        """Note how far apart the task has driven the alphas."""
        super().after_task(task, trajectory)
        self._spreads.append(spread(alphas_of(trajectory[-1]).values()).detach())

    def task_loss(self, task: Task | Episode) -> TaskLoss:
        """The learner's; and the spread of the adapted alphas among the scalars."""
        self._spreads: list[Tensor] = []
        loss, scalars = super().task_loss(task)
        return loss, {**scalars, ADAPTED_SPREAD: torch.stack(self._spreads).sum()}

    def decode(self, task: SingleTask) -> Genotype:
        """Return the genotype of one task: that of the alphas after the inner loop on its support set."""
        with torch.no_grad():
            adapted = self.descend(self.problem(task), training=False)[-1]
        return self.supernet.discretise_alphas(alphas_of(adapted))

    def decoded(self, datamodule: Any) -> list[Genotype]:
        """The genotypes of decode_episodes validation tasks."""
        return self.decoded_tasks(datamodule)

    def decoding_cost(self, tasks: int) -> int:
        """One forward pass on the support set for every inner step."""
        return tasks * self.inner.steps(training=False)

    def passes_per_task(self) -> int:
        """The inner steps on the support set, and one pass over the queries."""
        return self.inner.inner_steps + 1


class TNAS(TaskDecoding):
    """T-NAS (Lian et al., ICLR 2020, "Towards fast adaptation of neural architectures with meta learning").

    Weights w and alphas are adapted together (equation 5): ``w <- w - inner_lr * dL_support/dw`` and
    ``alpha <- alpha - alpha_inner_lr * dL_support/dalpha``, both at the same point. The outer loop moves where both
    start by the query loss at the adapted point, in its first order, with one Adam each.

    A task's genotype is decoded from its support set alone; the search ends with the one that most validation tasks
    share. Validation and test score the adapted mixture.

    Deviations: the authors' code also passes the queries after every inner step but the last, and uses none of these
    passes; fresh tasks are drawn in place of 5000 that return in every epoch; ``first_order=false``, which the paper
    does not have, differentiates through the inner loop.

    Args:
        net: a MixedSupernet; that of the paper has space=darts, channels=16, affine=false, norm_pools=true.
        inner: the inner loop of the weights.
        alphas: how the alphas are learned.
        outer: the outer loop of the weights.
        seed: names every random stream of the run.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        inner: InnerLoop = PUBLISHED_INNER,
        alphas: AlphaLoop = AlphaLoop(),
        outer: OuterLoop = OuterLoop(outer_lr=1e-3),
        seed: int = 0,
    ) -> None:
        super().__init__(net, inner=inner, alphas=alphas, outer=outer, seed=seed)
