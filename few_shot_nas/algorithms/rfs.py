"""RFS: a good embedding from ordinary training, and logistic regression on it."""

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from few_shot_nas.algorithms.distillation import Distillation
from few_shot_nas.algorithms.feature_learner import Classifier
from few_shot_nas.algorithms.flat_learner import FlatModule
from few_shot_nas.algorithms.flat_sgd import FlatSGD
from few_shot_nas.algorithms.outer_step import TaskLoss
from few_shot_nas.algorithms.settings import OuterLoop
from few_shot_nas.episode import SingleTask, Task
from few_shot_nas.errors import InputError
from few_shot_nas.forward_context import forward_context
from few_shot_nas.meta.distillation import distillation_loss
from few_shot_nas.meta.features import query_features, support_features
from few_shot_nas.meta.functional import full_precision
from few_shot_nas.meta.probe import logistic_regression
from few_shot_nas.nn.drop_path import set_drop_path
from few_shot_nas.ranges import Positive, Share
from few_shot_nas.stats.statistics import accuracy

#: Stands before the bn_mode of scores by the C that validation tasks chose.
TUNED = "tuned_"


class RFS(FlatModule):
    """Rethinking few-shot classification (Tian et al., ECCV 2020, arXiv:2003.11539), simple and distilled.

    Cross-entropy over all training classes by SGD; per task, logistic regression on L2-normalised penultimate features
    (section 3.2). Support augmentation is the data's: ``support_copies=5`` is the published protocol, 0 leaves the
    support images as they are; report which. With a teacher the network learns from its answers too (section 3.3,
    equation 5): train a first generation by labels, the next with the one before as ``teacher``; published numbers take
    at least two.

    Deviations: the epochs' last batches are full (see FlatDataModule), the flip comes before the colour jitter, and
    the regression is run to a tighter optimum. The ``running`` bn_mode is the paper's.

    Args:
        net: any network of MODELS.
        sgd: the optimizer.
        probe_c: inverse strength of the logistic regression's penalty (C of scikit-learn).
        probe_cs: strengths that compete in every validation; the test then scores the best one's regression too, as
            ``tuned_`` and the bn_mode, beside that of probe_c. Released results of MetaNTK-NAS seem to be such. None
            by default.
        drop_path: probability with which the output of an op that is no identity is left out for an image, at the end
            of training; it grows linearly from 0 with the meta-steps. MetaNTK-NAS: 0.2 on mini-ImageNet, 0.1 on
            tieredImageNet, and constant within an epoch.
        distillation: the teacher, if there is one.
        outer: the outer loop.
        seed: names every random stream of the run.

    Attributes:
        teacher: the teacher's network in a tuple, or none: it is no part of this module or its checkpoints.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        sgd: FlatSGD = FlatSGD(),
        probe_c: Positive = 1.0,
        probe_cs: tuple[Positive, ...] = (),
        drop_path: Share = 0.0,
        distillation: Distillation = Distillation(),
        outer: OuterLoop = OuterLoop(outer_lr=0.05, weight_decay=5e-4, bn_mode="running"),
        seed: int = 0,
    ) -> None:
        super().__init__(net, outer=outer, seed=seed)
        for name, strengths in (("probe_c", (probe_c,)), ("probe_cs", probe_cs)):
            if not all(strength > 0 for strength in strengths):
                raise InputError(f"{name}={', '.join(map(str, strengths))}: must be greater than 0")
        if not 0 <= drop_path < 1:
            raise InputError(f"drop_path={drop_path}: must be at least 0 and less than 1")
        set_drop_path(net, drop_path)
        self.sgd = sgd
        self.probe_c = probe_c
        self.probe_cs = probe_cs
        self.drop_path = drop_path
        self.distillation = distillation
        self.teacher: tuple[nn.Module, ...] = ()
        if probe_cs:
            self.register_buffer("tuned_c", torch.tensor(probe_c, dtype=torch.float64))
        settings = {"probe_c": probe_c, "probe_cs": list(probe_cs), "drop_path": drop_path}
        self.hparams.update({**dataclasses.asdict(sgd), **dataclasses.asdict(distillation), **settings})

    def make_optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """SGD with momentum."""
        return self.sgd.optimizer(groups, self.outer)

    def schedule(self) -> float:
        """Return the factor on the learning rate: lr_decay for every milestone passed, or that of outer_schedule."""
        return self.sgd.decay(self.meta_step) if self.outer.outer_schedule == "constant" else super().schedule()

    # ---- training -----------------------------------------------------------------------------------------------

    def learn_from(self, teacher: nn.Module) -> None:
        """Take a trained network for the teacher; it is kept in evaluation mode and not changed."""
        self.teacher = (teacher.eval().requires_grad_(False),)

    def setup(self, stage: str) -> None:
        """Give the network a head for the training classes, and check that the teacher has such a head.

        Raises:
            InputError: if the teacher tells other classes apart, or there is none though ``teacher`` names one.
        """
        super().setup(stage)
        if stage == "fit" and self.distillation.teacher is not None and not self.teacher:
            raise InputError(f"teacher={self.distillation.teacher}: was not loaded; call learn_from() with its network")
        for teacher in self.teacher if stage == "fit" else ():
            known = getattr(getattr(teacher, "head", None), "out_features", None)
            if known != self.num_classes:
                raise InputError(
                    f"teacher={self.distillation.teacher}: tells {known} classes apart, the training data has "
                    f"{self.num_classes}; give a run of RFS on the same data"
                )
            teacher.to(self.device)

    def update(self, batch: Any) -> dict[str, Any]:
        """One update, at the drop-path rate of the meta-step."""
        set_drop_path(self.net, self.drop_path * self.meta_step / max(self.outer.max_meta_steps, 1))
        return super().update(batch)

    def batch_loss(self, logits: Tensor, batch: Any) -> TaskLoss:
        """Cross-entropy, and with a teacher the weighted sum of it and of the divergence from the teacher's answers."""
        loss, scalars = super().batch_loss(logits, batch)
        for teacher in self.teacher:
            with torch.no_grad(), forward_context(running=True):
                taught = full_precision(teacher(batch.images))
            divergence = distillation_loss(logits, taught, self.distillation.distill_temperature)
            loss = self.distillation.label_weight * loss + self.distillation.distill_weight * divergence
            scalars = {**scalars, "train/distill_loss": divergence}
        return loss, scalars

    # ---- evaluation ---------------------------------------------------------------------------------------------

    def classifier(self, features: Tensor, labels: Tensor, task: SingleTask) -> Classifier:
        """Logistic regression on the normalised support features, of strength ``probe_c``."""
        return self._regression(features, labels, self.probe_c)

    def classifiers(self, features: Tensor, task: SingleTask) -> dict[str, Classifier]:
        """The regression of strength ``probe_c``, and that of the chosen strength where there is one."""
        found = super().classifiers(features, task)
        if self.probe_cs:
            found[TUNED] = self._regression(features, task.support_y, self.chosen()["probe_c"])
        return found

    @staticmethod
    def _regression(features: Tensor, labels: Tensor, c: float) -> Classifier:
        head = logistic_regression(features, labels, c=c)
        return lambda query: head.logits(F.normalize(query.double(), dim=1))

    def watched_logits(self, task: Task) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Query logits; and the accuracies in ``outer.bn_mode`` of the strengths that compete."""
        logits, scalars = super().watched_logits(task)
        if self.probe_cs:
            mode = self.outer.bn_mode
            support = support_features(self.net, task, running=mode == "running")
            query = query_features(self.net, task, mode)
            for c in self.probe_cs:
                found = self._regression(support, task.support_y, c)(query)
                scalars[_column(c)] = float(accuracy(found, task.query_y))
        return logits, scalars

    def choose_on_validation(self, metrics: Mapping[str, float]) -> None:
        """Choose the strength with the best mean over the validation tasks; the first of equals."""
        if self.probe_cs:
            best = max(self.probe_cs, key=lambda c: metrics[f"val/{_column(c)}"])
            cast(Tensor, self.tuned_c).fill_(best)

    def chosen(self) -> dict[str, float]:
        """Return the strength that the latest validation chose; probe_c before the first."""
        return {"probe_c": float(cast(Tensor, self.tuned_c))} if self.probe_cs else {}


def _column(c: float) -> str:
    return f"accuracy_c{c:g}"
