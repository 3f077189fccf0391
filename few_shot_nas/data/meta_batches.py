"""Meta-batches as the items of a dataset, and the loader that hands them out."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from few_shot_nas.data.augment import Augment, Augmentation, draw_augmentation, stack_augmentations
from few_shot_nas.data.sampler import TaskPlan, draw_task, image_tensor, materialise, stack
from few_shot_nas.data.source import Source, Split
from few_shot_nas.episode import Episode


class PlannedBatch(NamedTuple):
    """A meta-batch whose images are still to be gathered, on the device where they live."""

    plan: TaskPlan
    split_name: str
    copies: Augmentation | None = None


class MetaBatches(Dataset):
    """Map-style dataset whose items are whole meta-batches.

    Args:
        source: where the images come from.
        split_name: the split of the tasks.
        ids: ``ids[i]`` are the task ids of item i.
        shape: seed, n_way, k_shot and n_query.
        augment: what happens to every image of the tasks.
        planned: whether items are plans, whose images are still to be gathered.
        support_copies: augmented copies that stand for each support image; 0 gives the image itself.
    """

    def __init__(
        self,
        source: Source,
        split_name: str,
        ids: Sequence[np.ndarray],
        shape: dict[str, int],
        *,
        augment: Augment,
        planned: bool,
        support_copies: int,
    ) -> None:
        self.source = source
        self.split_name = split_name
        self.ids = ids
        self.shape = shape
        self.augment = augment
        self.planned = planned
        self.support_copies = support_copies

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, item: int) -> Episode | PlannedBatch:
        split = self.source.split(self.split_name)
        plan = stack([self._plan(split, int(task)) for task in self.ids[item]])
        copies = None if self.support_copies == 0 else self._copies(item, plan.n_support)
        if self.planned:
            return PlannedBatch(plan, self.split_name, copies)
        return materialise(plan, image_tensor(split), self.source.mean, self.source.std, copies)

    def _plan(self, split: Split, task_id: int) -> TaskPlan:
        rotation = self.source.rotation(self.split_name)
        plan = draw_task(split, split_name=self.split_name, task_id=task_id, rotation=rotation, **self.shape)
        return plan._replace(augmentation=self._draw(self.augment, len(plan.index), "augment", task_id))

    def _copies(self, item: int, n_support: int) -> Augmentation | None:
        count = n_support * self.support_copies
        drawn = [self._draw("crop_flip_jitter", count, "support copies", int(task)) for task in self.ids[item]]
        return stack_augmentations(drawn)

    def _draw(self, kind: Augment, count: int, purpose: str, task_id: int) -> Augmentation | None:
        words = (self.shape["seed"], purpose, self.split_name, task_id)
        return draw_augmentation(kind, count, self.source.image_size, *words)


def _as_it_is(batch: Any) -> Any:
    return batch


def task_loader(dataset: Dataset, num_workers: int, pin_memory: bool) -> DataLoader:
    """Return a DataLoader whose items are those of ``dataset``, and which leaves the global generators alone."""
    return DataLoader(
        dataset,
        batch_size=None,
        num_workers=num_workers,
        collate_fn=_as_it_is,
        pin_memory=pin_memory,
        # A DataLoader takes a number from its generator for every iterator; from the global one, that would change
        # what the program draws next.
        generator=torch.Generator(),
    )
