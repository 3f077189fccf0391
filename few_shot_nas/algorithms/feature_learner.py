"""What learners share that classify queries by comparing features with the support set's, and adapt no weights."""

import itertools
from abc import abstractmethod
from collections.abc import Callable

from torch import Tensor

from few_shot_nas.algorithms.base import EpisodicModule
from few_shot_nas.algorithms.outer_step import TaskLoss
from few_shot_nas.episode import SingleTask, Task
from few_shot_nas.meta.features import query_features, support_features
from few_shot_nas.stats.statistics import accuracy

Classifier = Callable[[Tensor], Tensor]
#: Stands before the name of scores for which the support images themselves were taken, not their augmented copies.
NO_COPIES = "no_copies_"


class FeatureModule(EpisodicModule):
    """A learner whose task-specific part is a classifier built from the features of the support set.

    The network's own head is not used, so training tasks may have another number of ways than test tasks.
    """

    uses_head = False

    @abstractmethod
    def classifier(self, features: Tensor, labels: Tensor, task: SingleTask) -> Classifier:
        """Build the classifier of one task.

        Args:
            features: of the support images, ``[S, D]``.
            labels: of the support images, ``[S]``; every class 0..N-1 occurs.
            task: the task, because a classifier may depend on more of it, such as the task id.

        Returns:
            A function from query features ``[Q, D]`` to logits ``[Q, N]``.
        """

    def task_loss(self, task: Task) -> TaskLoss:
        """Mean cross-entropy of the queries; support set and queries are normalised separately."""
        classify = self.classifier(support_features(self.net, task), task.support_y, task)
        logits = classify(query_features(self.net, task, "transductive"))
        loss = self.outer_loss(logits, task.query_y)
        return loss, {"train/loss": loss, "train/accuracy": accuracy(logits, task.query_y)}

    def task_logits(self, task: SingleTask) -> dict[str, Tensor]:
        """Query logits for every bn_mode; one classifier serves all in which the support set normalises itself.

        Where the support set holds augmented copies, the images themselves are scored too, in the bn_mode of the outer
        loop: the same tasks with and without support augmentation.
        """
        logits: dict[str, Tensor] = {}
        for running, modes in itertools.groupby(self.bn_modes, lambda mode: mode == "running"):
            classifiers = self.classifiers(support_features(self.net, task, running=running), task)
            for mode in modes:
                features = query_features(self.net, task, mode)
                logits.update({f"{prefix}{mode}": classify(features) for prefix, classify in classifiers.items()})
        if isinstance(task, Task) and task.originals is not None and self.outer.bn_mode in self.bn_modes:
            logits.update(self._without_copies(task, task.originals))
        return logits

    def _without_copies(self, task: Task, originals: Tensor) -> dict[str, Tensor]:
        plain = task._replace(support_x=originals, support_y=task.support_y[: len(originals)], originals=None)
        mode = self.outer.bn_mode
        classifiers = self.classifiers(support_features(self.net, plain, running=mode == "running"), plain)
        features = query_features(self.net, plain, mode)
        return {f"{NO_COPIES}{prefix}{mode}": classify(features) for prefix, classify in classifiers.items()}

    def classifiers(self, features: Tensor, task: SingleTask) -> dict[str, Classifier]:
        """Return the classifiers that are scored, by what stands before the bn_mode in their name; one, of no prefix.

        Args:
            features: of the support images, ``[S, D]``.
            task: the task.
        """
        return {"": self.classifier(features, task.support_y, task)}
