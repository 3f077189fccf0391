"""Baseline and Baseline++: ordinary training, then a new head fine-tuned on the support set."""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from few_shot_nas.algorithms.feature_learner import Classifier
from few_shot_nas.algorithms.flat_learner import FlatModule
from few_shot_nas.algorithms.settings import OuterLoop
from few_shot_nas.episode import SingleTask
from few_shot_nas.meta.metric import ways
from few_shot_nas.meta.probe import (
    CosineHead,
    HeadSGD,
    LinearHead,
    cosine_scale,
    fit_cosine,
    fit_linear,
)
from few_shot_nas.ranges import Count, Positive, Share
from few_shot_nas.seeding import generator
from few_shot_nas.settings import Settings


@dataclass(frozen=True)
class HeadTuning(Settings):
    """How a head is fitted to the support features of one task, by SGD.

    Attributes:
        head_lr: learning rate.
        head_momentum: momentum.
        head_dampening: 1 minus the weight of a new gradient in the velocity.
        head_weight_decay: L2 penalty.
        head_epochs: passes over the support set.
        head_batch_size: images per step.
    """

    head_lr: Positive = 0.01
    head_momentum: Share = 0.9
    head_dampening: Share = 0.9
    head_weight_decay: Share = 1e-3
    head_epochs: Count = 100
    head_batch_size: Count = 4

    def sgd(self) -> HeadSGD:
        """Return the descent that the flags name."""
        return HeadSGD(
            lr=self.head_lr,
            momentum=self.head_momentum,
            dampening=self.head_dampening,
            weight_decay=self.head_weight_decay,
            epochs=self.head_epochs,
            batch_size=self.head_batch_size,
        )


class Baseline(FlatModule):
    """Baseline of "A Closer Look at Few-shot Classification" (Chen et al., ICLR 2019, arXiv:1904.04232, section 3.2).

    Cross-entropy over all training classes by Adam; per task, a new linear head is fitted to the support features of
    the frozen network: 100 epochs of SGD in batches of 4. Head and order of the images are functions of (seed, task).

    Deviations from the authors' code: the augmentation is that of FlatDataModule (there crops at random scales), and
    flat_batch_size is 64 by default (there 16). The ``running`` bn_mode is the paper's.

    Args:
        net: any network of MODELS.
        tuning: how the head of a task is fitted.
        outer: the outer loop.
        seed: names every random stream of the run.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        tuning: HeadTuning = HeadTuning(),
        outer: OuterLoop = OuterLoop(bn_mode="running"),
        seed: int = 0,
    ) -> None:
        super().__init__(net, outer=outer, seed=seed)
        self.tuning = tuning
        self.hparams.update(dataclasses.asdict(tuning))

    def classifier(self, features: Tensor, labels: Tensor, task: SingleTask) -> Classifier:
        """Fit a new head to the support features."""
        how = self.tuning.sgd()
        stream = generator(self.seed, "head", 0 if task.task_id is None else int(task.task_id))
        return self.fit(features, labels, ways(labels), how, stream).logits

    def fit(
        self, features: Tensor, labels: Tensor, n_way: int, how: HeadSGD, stream: torch.Generator
    ) -> LinearHead | CosineHead:
        """Return the fitted head of one task."""
        return fit_linear(features, labels, n_way, how, stream)


class BaselinePlusPlus(Baseline):
    """Baseline++ of the same paper: the heads of training and of each task classify by cosine.

    Weights are normalised with a learned length per class, and all cosines multiplied by 2 (10 above 200 classes), as
    in the authors' code. Deviations as in :class:`Baseline`.

    Args:
        net: any network of MODELS.
        tuning: how the head of a task is fitted.
        outer: the outer loop.
        seed: names every random stream of the run.
    """

    def make_head(self, features: int, classes: int) -> nn.Module:
        """Return a new cosine head."""
        return CosineLayer(features, classes)

    def fit(
        self, features: Tensor, labels: Tensor, n_way: int, how: HeadSGD, stream: torch.Generator
    ) -> LinearHead | CosineHead:
        """Return the fitted head of one task."""
        return fit_cosine(features, labels, n_way, how, stream)


class CosineLayer(nn.Module):
    """:class:`few_shot_nas.meta.probe.CosineHead` with parameters of its own, started as a linear layer's."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.direction = nn.Parameter(nn.Linear(features, classes).weight.detach().clone())
        self.length = nn.Parameter(self.direction.detach().norm(dim=1, keepdim=True))
        self.scale = cosine_scale(classes)

    def forward(self, x: Tensor) -> Tensor:
        """Features ``[B, D]`` to logits ``[B, classes]``."""
        return CosineHead(self.direction, self.length, self.scale).logits(x)
