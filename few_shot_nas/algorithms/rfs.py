"""RFS: a good embedding from ordinary training, and logistic regression on it."""

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from few_shot_nas.algorithms.feature_learner import Classifier
from few_shot_nas.algorithms.flat_learner import FlatModule
from few_shot_nas.algorithms.flat_sgd import FlatSGD
from few_shot_nas.algorithms.settings import OuterLoop
from few_shot_nas.episode import SingleTask
from few_shot_nas.errors import InputError
from few_shot_nas.meta.probe import logistic_regression
from few_shot_nas.ranges import Positive


class RFS(FlatModule):
    """Rethinking few-shot classification (Tian et al., ECCV 2020, arXiv:2003.11539), without distillation.

    Cross-entropy over all training classes by SGD; per task, logistic regression on L2-normalised penultimate features
    (section 3.2). Support augmentation is the data's: ``support_copies=5`` is the published protocol, 0 leaves the
    support images as they are; report which.

    Deviations: the epochs' last batches are full (see FlatDataModule), the flip comes before the colour jitter, and
    the regression is run to a tighter optimum. The ``running`` bn_mode is the paper's.

    Args:
        net: any network of MODELS.
        sgd: the optimizer.
        probe_c: inverse strength of the logistic regression's penalty (C of scikit-learn).
        outer: the outer loop.
        seed: names every random stream of the run.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        sgd: FlatSGD = FlatSGD(),
        probe_c: Positive = 1.0,
        outer: OuterLoop = OuterLoop(outer_lr=0.05, weight_decay=5e-4, bn_mode="running"),
        seed: int = 0,
    ) -> None:
        super().__init__(net, outer=outer, seed=seed)
        if not probe_c > 0:
            raise InputError(f"probe_c={probe_c}: must be greater than 0")
        self.sgd = sgd
        self.probe_c = probe_c
        self.hparams.update({**dataclasses.asdict(sgd), "probe_c": probe_c})

    def make_optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """SGD with momentum."""
        return self.sgd.optimizer(groups, self.outer)

    def schedule(self) -> float:
        """Return the factor on the learning rate: lr_decay for every milestone passed, or that of outer_schedule."""
        return self.sgd.decay(self.meta_step) if self.outer.outer_schedule == "constant" else super().schedule()

    def classifier(self, features: Tensor, labels: Tensor, task: SingleTask) -> Classifier:
        """Logistic regression on the normalised support features."""
        head = logistic_regression(features, labels, c=self.probe_c)
        return lambda query: head.logits(F.normalize(query.double(), dim=1))
