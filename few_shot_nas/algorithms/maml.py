"""MAML and FOMAML: learn an initialisation that adapts in a few gradient steps."""

import dataclasses

import torch.nn.functional as F
from torch import Tensor, nn

from few_shot_nas.algorithms.base import EpisodicModule
from few_shot_nas.algorithms.settings import InnerLoop, OuterLoop
from few_shot_nas.episode import Episode
from few_shot_nas.meta.functional import Params, trainable
from few_shot_nas.meta.inner_loop import adapt
from few_shot_nas.meta.outer_loss import BN_MODES, query_logits, support_loss
from few_shot_nas.meta.statistics import accuracy


class MAML(EpisodicModule):
    """MAML (Finn et al., ICML 2017, arXiv:1703.03400, Algorithm 2); ``first_order`` gives FOMAML.

    Deviations from the authors' code: the inner loss is the mean over the support images (theirs is N times larger,
    so rates differ by that factor), BatchNorm's scale and shift are adapted like all other parameters, and the
    meta-gradient is the mean over the meta-batch.

    Args:
        net: any network of MODELS.
        inner: the inner loop.
        outer: the outer loop.
        seed: names every random stream of the run.
    """

    def __init__(
        self, net: nn.Module, *, inner: InnerLoop = InnerLoop(), outer: OuterLoop = OuterLoop(), seed: int = 0
    ):
        super().__init__(net, outer=outer, seed=seed)
        self.inner = inner
        self.hparams.update(dataclasses.asdict(inner))

    def adapted(self, task: Episode, *, training: bool) -> Params:
        """Return the parameters after the inner loop on the support set of one task."""
        return adapt(
            lambda params, step: support_loss(self.net, task, params, step),
            trainable(self.net),
            lr=lambda name, step: self.inner.inner_lr,
            num_steps=self.inner.steps(training),
            second_order=training and not self.inner.first_order,
        )[-1]

    def task_loss(self, task: Episode) -> tuple[Tensor, list[Tensor]]:
        """Mean cross-entropy of the queries after adaptation (equation 2 of the paper for one task)."""
        params = self.adapted(task, training=True)
        logits = query_logits(self.net, task, params, self.inner.inner_steps - 1, "transductive")
        loss = F.cross_entropy(logits, task.query_y)
        return loss, [loss, accuracy(logits, task.query_y)]

    def task_logits(self, task: Episode) -> dict[str, Tensor]:
        """Query logits after adaptation, for every bn_mode."""
        params = self.adapted(task, training=False)
        last = max(self.inner.steps(training=False) - 1, 0)
        return {mode: query_logits(self.net, task, params, last, mode) for mode in BN_MODES}
