"""The LightningDataModule that feeds meta-batches of episodes, rank by rank, resumable at any meta-step."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from few_shot_nas.data.augment import AUGMENTS, Augment, draw_augmentation
from few_shot_nas.data.sampler import TaskPlan, check_task, draw_task, image_tensor, materialise, stack
from few_shot_nas.data.source import Source, Split
from few_shot_nas.episode import Episode
from few_shot_nas.errors import InputError

_DEVICE_SHARE = 0.5  # of the device's free memory that the images may take


class PlannedBatch(NamedTuple):
    """A meta-batch whose images are still to be gathered, on the device where they live."""

    plan: TaskPlan
    split_name: str


class _MetaBatches(Dataset):
    """Map-style dataset whose items are whole meta-batches; ``ids[i]`` are the task ids of item i."""

    def __init__(
        self,
        source: Source,
        split_name: str,
        ids: Sequence[np.ndarray],
        shape: dict[str, int],
        augment: Augment,
        planned: bool,
    ) -> None:
        self.source = source
        self.split_name = split_name
        self.ids = ids
        self.shape = shape
        self.augment = augment
        self.planned = planned

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, item: int) -> Episode | PlannedBatch:
        split = self.source.split(self.split_name)
        plan = stack([self._plan(split, int(task)) for task in self.ids[item]])
        if self.planned:
            return PlannedBatch(plan, self.split_name)
        return materialise(plan, image_tensor(split), self.source.mean, self.source.std)

    def _plan(self, split: Split, task_id: int) -> TaskPlan:
        rotation = self.source.rotation(self.split_name)
        plan = draw_task(split, split_name=self.split_name, task_id=task_id, rotation=rotation, **self.shape)
        augmentation = draw_augmentation(
            self.augment,
            count=len(plan.index),
            image_size=split.images.shape[1],
            seed=self.shape["seed"],
            split_name=self.split_name,
            task_id=task_id,
        )
        return plan._replace(augmentation=augmentation)


def _as_it_is(batch: Any) -> Any:
    return batch


def _loader(dataset: _MetaBatches, num_workers: int, pin_memory: bool) -> DataLoader:
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


class _TrainBatches:
    """Sized iterable over the meta-steps that are left of the current epoch; it moves the DataModule's cursor on."""

    def __init__(self, data: "EpisodicDataModule") -> None:
        self._data = data
        self._steps = data.remaining_steps()

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[Episode | PlannedBatch]:
        self._steps = self._data.remaining_steps()
        batches = self._data.loader("train", self._data.train_ids(self._steps))
        for step, batch in zip(self._steps, batches, strict=True):
            # Before the batch is handed over: a checkpoint at the end of this meta-step counts it as consumed. What
            # workers have prefetched does not count.
            self._data.done = step + 1
            yield batch


class _EvalBatches:
    """Sized iterable over the fixed tasks of an evaluation split; every pass gives the same episodes."""

    def __init__(self, data: "EpisodicDataModule", split_name: str, episodes: int) -> None:
        self._data = data
        self._split_name = split_name
        self._ids = data.eval_ids(episodes)

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[Episode | PlannedBatch]:
        yield from self._data.loader(self._split_name, self._ids)


class EpisodicDataModule(pl.LightningDataModule):
    """Meta-batches of N-way K-shot episodes from a source.

    Meta-step t trains on the tasks ``t * M .. t * M + M - 1`` of the stream (seed, train), M = meta_batch_size. Rank r
    of W gets a contiguous part of these, so that the union over ranks is the stream of a single process. Validation and
    test use the tasks ``0 .. n - 1`` of their splits, rank r the ids ``r, r + W, ...``: every model, epoch and machine
    sees the same ones, and results can be compared in pairs.

    One Lightning epoch runs up to the next multiple of ``val_every`` meta-steps (or to ``max_meta_steps``); the Trainer
    needs ``reload_dataloaders_every_n_epochs=1`` and ``use_distributed_sampler=False``. The loader's length is the
    number of meta-steps *left* in the epoch, which after a resume is fewer.

    On a CUDA device the images live there as uint8 if they take at most half of its free memory; loaders then send
    only indices, and the images are gathered after the transfer. Otherwise the workers gather them.

    Attributes:
        done: number of meta-steps consumed; kept in checkpoints.

    Args:
        source: where the images come from.
        n_way: classes per task N.
        k_shot: support images per class K.
        n_query: query images per class.
        meta_batch_size: tasks per meta-step M, over all ranks together.
        num_workers: worker processes per loader; the episodes do not depend on it.
        val_every: meta-steps per epoch.
        max_meta_steps: meta-steps of the whole run.
        val_episodes: tasks per validation, over all ranks.
        test_episodes: tasks per test, over all ranks.
        test_split: the split that a test draws from; ``auto`` is test where the source has it, else val.
        augment: what happens to every image of a training task, support and query, each by itself: ``crop_flip`` takes
            a random window of the image padded with black and mirrors every other one left to right;
            ``crop_flip_jitter`` changes brightness, contrast and saturation too. Meant for photographs: a mirrored
            character is another character. Validation and test are never augmented.
        seed: of all streams of tasks.

    Raises:
        InputError: for a number below its minimum.
    """

    def __init__(
        self,
        source: Source,
        *,
        n_way: int = 5,
        k_shot: int = 1,
        n_query: int = 15,
        meta_batch_size: int = 4,
        num_workers: int = 0,
        val_every: int = 500,
        max_meta_steps: int = 1000,
        val_episodes: int = 100,
        test_episodes: int = 600,
        test_split: Literal["auto", "test", "val"] = "auto",
        augment: Augment = "none",
        seed: int = 0,
    ) -> None:
        super().__init__()
        positive = {"meta_batch_size": meta_batch_size, "val_every": val_every, "val_episodes": val_episodes}
        positive.update({"test_episodes": test_episodes, "n_way": n_way, "k_shot": k_shot, "n_query": n_query})
        for flag, value in positive.items():
            if value < 1:
                raise InputError(f"{flag}={value} must be at least 1")
        for flag, value in {"num_workers": num_workers, "max_meta_steps": max_meta_steps, "seed": seed}.items():
            if value < 0:
                raise InputError(f"{flag}={value} must not be negative")
        if test_split not in ("auto", "test", "val"):
            raise InputError(f"test_split={test_split} is not one of auto, test, val")
        if augment not in AUGMENTS:
            raise InputError(f"augment={augment} is not one of {', '.join(AUGMENTS)}")
        self.source = source
        self.augment = augment
        self.n_way = n_way
        self.k_shot = k_shot
        self.n_query = n_query
        self.meta_batch_size = meta_batch_size
        self.num_workers = num_workers
        self.val_every = val_every
        self.max_meta_steps = max_meta_steps
        self.val_episodes = val_episodes
        self.test_episodes = test_episodes
        self.test_split = test_split
        self.seed = seed
        self.done = 0
        self._on_device: dict[str, Tensor | None] = {}

    @property
    def resolved_test_split(self) -> str:
        """The split that a test draws from.

        Raises:
            InputError: if ``test_split`` is test and the source has no such split.
        """
        if self.test_split == "test" and not self.source.has_split("test"):
            raise InputError(
                f"{self.source.name}: test_split=test, but the data has no test split; add its files or give "
                "test_split=val"
            )
        if self.test_split == "auto":
            return "test" if self.source.has_split("test") else "val"
        return self.test_split

    def prepare_data(self) -> None:
        """Pack the source's images into the cache. Lightning calls this on one process per machine."""
        self.source.prepare()

    def setup(self, stage: str | None = None) -> None:
        """Check that the splits this stage needs can give the tasks.

        Args:
            stage: fit, validate, test or predict; None stands for fit and test.

        Raises:
            InputError: if a split is missing, has too few classes or a class too few images (it is named), or if there
                are more ranks than tasks in a meta-batch.
        """
        world = self._rank_and_world()[1]
        if stage in (None, "fit") and self.meta_batch_size < world:
            raise InputError(
                f"meta_batch_size={self.meta_batch_size} is smaller than the number of processes, {world}: every one "
                "needs a task; raise meta_batch_size or use fewer devices"
            )
        splits = {"fit": ("train", "val"), "validate": ("val",), "test": (self.resolved_test_split,)}
        for name in dict.fromkeys(splits.get(stage, ()) if stage else (*splits["fit"], *splits["test"])):
            check_task(
                self.source.split(name),
                label=f"{self.source.name}, split {name}",
                n_way=self.n_way,
                k_shot=self.k_shot,
                n_query=self.n_query,
                rotation=self.source.rotation(name),
            )
        if stage in (None, "test") and self.test_split == "auto" and self.resolved_test_split == "val":
            rank_zero_warn(
                f"{self.source.name} has no test split: the test runs on VAL, the classes that models are selected on. "
                "Do not report its numbers as test accuracy."
            )

    def remaining_steps(self) -> range:
        """Return the meta-steps from the cursor to the end of the current epoch."""
        boundary = min((self.done // self.val_every + 1) * self.val_every, self.max_meta_steps)
        return range(self.done, max(boundary, self.done))

    def train_ids(self, steps: Sequence[int]) -> list[np.ndarray]:
        """Return, for each meta-step, the ids of the tasks that this rank trains on."""
        rank, world = self._rank_and_world()
        size = self.meta_batch_size
        part = np.array_split(np.arange(size), world)[rank]
        return [step * size + part for step in steps]

    def eval_ids(self, episodes: int) -> list[np.ndarray]:
        """Return the ids of the tasks that this rank evaluates, in meta-batches; ranks may differ in how many."""
        rank, world = self._rank_and_world()
        ids = np.arange(rank, episodes, world)
        return [ids[start : start + self.meta_batch_size] for start in range(0, len(ids), self.meta_batch_size)]

    def train_dataloader(self) -> _TrainBatches:
        """Return a sized iterable over the rest of the current epoch."""
        return _TrainBatches(self)

    def val_dataloader(self) -> _EvalBatches:
        """Return a sized iterable over the validation tasks of this rank."""
        return _EvalBatches(self, "val", self.val_episodes)

    def test_dataloader(self) -> _EvalBatches:
        """Return a sized iterable over the test tasks of this rank."""
        return _EvalBatches(self, self.resolved_test_split, self.test_episodes)

    def loader(self, split_name: str, ids: Sequence[np.ndarray]) -> DataLoader:
        """Return a DataLoader over meta-batches with these task ids, for iterating once."""
        dataset = self._meta_batches(split_name, ids, planned=self._device_images(split_name) is not None)
        return _loader(dataset, min(self.num_workers, len(ids)), pin_memory=self._device().type == "cuda")

    def episode(self, split_name: str, task_ids: Sequence[int]) -> Episode:
        """Return the tasks with these ids as one meta-batch on the CPU, the same that the loaders give."""
        episode = self._meta_batches(split_name, [np.asarray(task_ids)], planned=False)[0]
        if not isinstance(episode, Episode):
            raise RuntimeError("the images were to be gathered at once")
        return episode

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Gather the images of a batch that came as indices; pass an episode through."""
        if not isinstance(batch, PlannedBatch):
            return batch
        images = self._device_images(batch.split_name)
        if images is None:
            raise RuntimeError(f"a planned batch of split {batch.split_name}, but its images are not on the device")
        return materialise(batch.plan, images, self.source.mean, self.source.std)

    def teardown(self, stage: str | None = None) -> None:
        """Free the images on the device."""
        self._on_device = {}

    def state_dict(self) -> dict[str, Any]:
        """Return the cursor."""
        return {"done": self.done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Set the cursor; loaders made from now on continue there."""
        self.done = int(state_dict["done"])

    def _meta_batches(self, split_name: str, ids: Sequence[np.ndarray], planned: bool) -> _MetaBatches:
        shape = {"seed": self.seed, "n_way": self.n_way, "k_shot": self.k_shot, "n_query": self.n_query}
        augment: Augment = self.augment if split_name == "train" else "none"
        return _MetaBatches(self.source, split_name, ids, shape, augment, planned)

    def _rank_and_world(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size

    def _device(self) -> torch.device:
        return torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device

    def _device_images(self, split_name: str) -> Tensor | None:
        """Return the split's images on the CUDA device, moving them there the first time; None where they stay here."""
        device = self._device()
        if device.type != "cuda":
            return None
        if split_name not in self._on_device:
            images = image_tensor(self.source.split(split_name))
            free = torch.cuda.mem_get_info(device)[0]
            self._on_device[split_name] = images.to(device) if images.nbytes <= _DEVICE_SHARE * free else None
        return self._on_device[split_name]
