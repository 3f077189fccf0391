"""SimpleShot: nearest class means of centred, normalised features."""

import dataclasses
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from few_shot_nas.algorithms.feature_learner import Classifier
from few_shot_nas.algorithms.flat_learner import FlatModule
from few_shot_nas.algorithms.flat_sgd import FlatSGD
from few_shot_nas.algorithms.settings import OuterLoop
from few_shot_nas.episode import SingleTask
from few_shot_nas.meta.metric import prototypes, squared_euclidean_logits, ways
from few_shot_nas.settings import require_choice

Transform = Literal["cl2n", "l2n", "un"]


class SimpleShot(FlatModule):
    """SimpleShot (Wang et al. 2019, arXiv:1911.04623, section 3.2): no training on tasks, and no training at test.

    Cross-entropy over all training classes by SGD; per task, minus the squared distance to the class means of features
    ``x`` that are transformed first: ``un`` leaves them, ``l2n`` takes ``x / |x|`` and ``cl2n``
    ``(x - m) / |x - m|``, m the mean feature of the training images.

    Deviations: SGD without Nesterov's momentum; with 5 shots too the mean of the support features is transformed image
    by image, as the equations have it; m is taken under running statistics and subtracted in every bn_mode. The
    ``running`` bn_mode is the paper's.

    Args:
        net: any network of MODELS; it gets a buffer ``mean_feature``.
        transform: what happens to a feature vector.
        sgd: the optimizer.
        outer: the outer loop.
        seed: names every random stream of the run.
    """

    keeps_mean_feature = True

    def __init__(
        self,
        net: nn.Module,
        *,
        transform: Transform = "cl2n",
        sgd: FlatSGD = FlatSGD(),
        outer: OuterLoop = OuterLoop(outer_lr=0.1, weight_decay=1e-4, bn_mode="running"),
        seed: int = 0,
    ) -> None:
        require_choice("transform", transform, Transform)
        super().__init__(net, outer=outer, seed=seed)
        self.transform = transform
        self.sgd = sgd
        self.hparams.update({**dataclasses.asdict(sgd), "transform": transform})

    def make_optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """SGD with momentum."""
        return self.sgd.optimizer(groups, self.outer)

    def schedule(self) -> float:
        """Return the factor on the learning rate: lr_decay for every milestone passed, or that of outer_schedule."""
        return self.sgd.decay(self.meta_step) if self.outer.outer_schedule == "constant" else super().schedule()

    def transformed(self, features: Tensor) -> Tensor:
        """Return ``features [B, D]`` as they are compared."""
        if self.transform == "un":
            return features
        return F.normalize(features - self.mean_feature if self.transform == "cl2n" else features, dim=1)

    def classifier(self, features: Tensor, labels: Tensor, task: SingleTask) -> Classifier:
        """Compare queries with the class means of the transformed support features."""
        centres = prototypes(self.transformed(features), labels, ways(labels))
        return lambda query: squared_euclidean_logits(self.transformed(query), centres)
