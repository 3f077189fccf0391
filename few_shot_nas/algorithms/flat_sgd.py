"""SGD with step decay, for learners that are trained on flat batches."""

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

import torch

from few_shot_nas.algorithms.settings import OuterLoop
from few_shot_nas.errors import InputError
from few_shot_nas.ranges import Number, Positive, Share
from few_shot_nas.settings import Settings


@dataclass(frozen=True)
class FlatSGD(Settings):
    """SGD with step decay on flat batches; its rate and weight decay are outer_lr and weight_decay.

    Attributes:
        flat_momentum: momentum.
        lr_milestones: meta-steps after which the rate is multiplied by lr_decay, ascending; only with
            outer_schedule=constant. RFS on mini-ImageNet: 36000 and 48000 of 60000 (epochs 60 and 80 of 100).
        lr_decay: factor at each milestone.
    """

    flat_momentum: Share = 0.9
    lr_milestones: tuple[Number, ...] = (600, 800)
    lr_decay: Positive = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if list(self.lr_milestones) != sorted(self.lr_milestones):
            raise InputError(f"lr_milestones={list(self.lr_milestones)}: must ascend")

    def optimizer(self, groups: list[dict[str, Any]], outer: OuterLoop) -> torch.optim.Optimizer:
        """Return SGD with momentum on parameter groups."""
        return torch.optim.SGD(
            groups, lr=outer.outer_lr, momentum=self.flat_momentum, weight_decay=outer.weight_decay
        )

    def decay(self, meta_step: int) -> float:
        """Return the factor on the learning rate after the milestones that are passed.

        Example:
            >>> [round(FlatSGD(lr_milestones=(2, 4)).decay(step), 3) for step in (1, 2, 5)]
            [1.0, 0.1, 0.01]
        """
        return self.lr_decay ** bisect_right(self.lr_milestones, meta_step)
