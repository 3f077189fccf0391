"""What transfer baselines share: train all classes at once, then fit a small classifier per task on frozen features."""

from collections.abc import Iterable
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from few_shot_nas.algorithms.outer_step import TaskLoss
from few_shot_nas.algorithms.feature_learner import FeatureModule
from few_shot_nas.algorithms.settings import OuterLoop
from few_shot_nas.errors import InputError
from few_shot_nas.meta.features import extract
from few_shot_nas.meta.functional import full_precision
from few_shot_nas.nn.foreign import refuse_foreign_norms
from few_shot_nas.nn.init import xavier_init
from few_shot_nas.nn.norm import keep_running_statistics
from few_shot_nas.runtime.gradients import average_buffers, average_gradients
from few_shot_nas.seeding import derived_seed
from few_shot_nas.stats.statistics import accuracy


class FlatModule(FeatureModule):
    """A learner that is trained by cross-entropy on batches of all training classes (FlatDataModule).

    One meta-step is one batch. The network's batch normalisation keeps running statistics, and its head is replaced by
    one for the training classes when training starts, and when a checkpoint that has one is loaded. With several ranks
    every rank normalises by its own part of the batch, and the running statistics are averaged after every step.

    Args:
        net: the network; changed in place as said above.
        outer: the outer loop. weight_decay and outer_lr are those of the optimizer on the batches.
        seed: names every random stream of the run.

    Attributes:
        num_classes: number of training classes that the head is for; None while it is the network's own.
    """

    #: Whether the network gets a :attr:`mean_feature`, which costs a pass over the training images per validation.
    keeps_mean_feature: ClassVar[bool] = False

    data_kind: ClassVar[Literal["episodes", "flat"]] = "flat"

    def __init__(self, net: nn.Module, *, outer: OuterLoop, seed: int) -> None:
        refuse_foreign_norms(net)
        keep_running_statistics(net)
        super().__init__(net, outer=outer, seed=seed)
        self.num_classes: int | None = None
        if self.keeps_mean_feature:
            size = cast(Any, net).feature_dim
            net.register_buffer("mean_feature", torch.zeros(size).to(next(net.parameters())))

    def make_head(self, features: int, classes: int) -> nn.Module:
        """Return a new head from ``features`` to ``classes`` logits."""
        head = nn.Linear(features, classes)
        xavier_init(head)
        return head

    def setup(self, stage: str) -> None:
        """Give the network a head for the training classes.

        Raises:
            InputError: if the data module gives no flat batches.
        """
        super().setup(stage)
        if stage == "fit":
            data: Any = getattr(self.trainer, "datamodule", None)
            if data is None:
                raise InputError(f"{type(self).__name__} is trained on flat batches: it needs a FlatDataModule")
            self._fit_head_to(data.num_classes)

    def _fit_head_to(self, classes: int) -> None:
        if self.num_classes == classes:
            return
        net: Any = self.net
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(self.seed, "flat head", classes))
            net.head = self.make_head(net.feature_dim, classes).to(next(net.parameters()))
        self.num_classes = classes

    def parts(self, batch: Any) -> tuple[Iterable[Any], int]:
        """The images of a rank's batch, as one part: the loss is the mean over all ranks' images."""
        return [batch], len(batch.labels)

    def task_loss(self, task: Any) -> TaskLoss:
        """Loss of a FlatBatch and number of right answers, summed over its images."""
        logits = full_precision(self.net(task.images))
        loss, scalars = self.batch_loss(logits, task)
        hits = accuracy(logits, task.labels) * len(task.labels)
        return loss, {"train/loss": loss, "train/accuracy": hits, **scalars}

    def batch_loss(self, logits: Tensor, batch: Any) -> TaskLoss:
        """Return the loss of a FlatBatch whose logits are ``[B, classes]``, and what else is logged of it; sums."""
        return self.outer_loss(logits, batch.labels, reduction="sum"), {}

    def update(self, batch: Any) -> dict[str, float]:
        """One update from the images of ``batch`` on every rank, after which the ranks agree on the statistics."""
        scalars = super().update(batch)
        average_buffers(self.net)
        return scalars

    # ---- the mean of the training features --------------------------------------------------------------------------

    @property
    def mean_feature(self) -> Tensor:
        """Mean feature ``[D]`` of the training images at the latest validation; zeros before the first.

        A buffer of the network, so that it is saved and loaded with the weights that it belongs to.
        """
        return cast(Tensor, self.net.mean_feature)

    def on_validation_start(self) -> None:
        """Take the mean of the training features by the weights that are about to be scored, for who keeps it."""
        data = self._datamodule()
        if self.keeps_mean_feature and data is not None:
            total, count = torch.zeros_like(self.mean_feature), 0
            for images in data.train_images():
                total += extract(self.net, images.to(total.device, total.dtype), running=True).sum(0).to(total)
                count += len(images)
            self.mean_feature.copy_(average_gradients([], count, total))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore our own progress, and take a head of the size that the checkpoint has."""
        super().on_load_checkpoint(checkpoint)
        saved = [tensor for name, tensor in checkpoint["state_dict"].items() if name.startswith("net.head.")]
        self._fit_head_to(len(saved[0]))
