"""The LightningDataModule that feeds meta-batches of episodes, rank by rank, resumable at any meta-step."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader

from few_shot_nas.data.augment import AUGMENTS, Augment
from few_shot_nas.data.meta_batches import MetaBatches, PlannedBatch, task_loader
from few_shot_nas.data.sampler import check_task, class_name, classes_by_label, draw_task, image_tensor, materialise
from few_shot_nas.data.source import Source
from few_shot_nas.episode import Episode
from few_shot_nas.errors import InputError
from few_shot_nas.ranges import Count, Number, Seed, Size, Workers, check_arguments

_DEVICE_SHARE = 0.5  # of the device's free memory that the images may take
#: Id of the first task of a split that is scored for itself: of train, where no run trains on so many tasks, and of
#: val, where validations, which select the checkpoint, score the first ones.
OWN_TASKS = 2**40


class _TrainBatches:
    """Sized iterable over the meta-steps that are left of the current epoch; it moves the DataModule's cursor on."""

    def __init__(self, data: "EpisodicDataModule") -> None:
        self._data = data
        self._steps = data.remaining_steps()

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[Episode | PlannedBatch]:
        self._steps = self._data.remaining_steps()
        batches = self._data.train_loader(self._steps)
        for step, batch in zip(self._steps, batches, strict=True):
            # Before the batch is handed over: a checkpoint at the end of this meta-step counts it as consumed. What
            # workers have prefetched does not count.
            self._data.done = step + 1
            yield batch


class _EvalBatches:
    """Sized iterable over the fixed tasks of an evaluation split; every pass gives the same episodes."""

    def __init__(self, data: "EpisodicDataModule", split_name: str, episodes: int, first: int = 0) -> None:
        self._data = data
        self._split_name = split_name
        self._ids = [part + first for part in data.eval_ids(episodes)]

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[Episode | PlannedBatch]:
        yield from self._data.loader(self._split_name, self._ids)


class EpisodicDataModule(pl.LightningDataModule):
    """Meta-batches of N-way K-shot episodes from a source.

    Meta-step t trains on the tasks ``t * M .. t * M + M - 1`` of the stream (seed, train), M = meta_batch_size. Rank r
    of W gets a contiguous part of these, so that the union over ranks is the stream of a single process. Validation and
    test use the tasks ``0 .. n - 1`` of their splits, rank r the ids ``r, r + W, ...``: every model, epoch and machine
    sees the same ones, and results can be compared in pairs. A test on the val split takes the tasks from 2**40 on: the
    first ones have selected the checkpoint. The gap episodes are tasks of the train split, of the shape of validation
    tasks and treated like them, with ids from 2**40 on.

    One Lightning epoch runs up to the next multiple of ``val_every`` meta-steps (or to ``max_meta_steps``); the Trainer
    needs ``reload_dataloaders_every_n_epochs=1`` and ``use_distributed_sampler=False``. The loader's length is the
    number of meta-steps *left* in the epoch, which after a resume is fewer.

    On a CUDA device the images live there as uint8 if they take at most half of its free memory; loaders then send
    only indices, and the images are gathered after the transfer. Otherwise the workers gather them.

    Attributes:
        done: number of meta-steps consumed; kept in checkpoints.
        kind: what training batches are: episodes or flat.

    Args:
        source: where the images come from.
        n_way: classes per task N.
        k_shot: support images per class K.
        n_query: query images per class.
        train_way: classes per training task, for learners whose network has no part of a fixed number of ways; None
            takes n_way. Validation and test always have n_way.
        train_query: query images per class in training tasks; None takes n_query.
        meta_batch_size: tasks per meta-step M, over all ranks together.
        num_workers: worker processes per loader; the episodes do not depend on it.
        val_every: meta-steps per epoch.
        max_meta_steps: meta-steps of the whole run.
        val_episodes: tasks per validation, over all ranks.
        test_episodes: tasks per test, over all ranks.
        gap_episodes: tasks of the training classes, never trained on, that each validation scores too, for the gap
            between training and validation classes under one protocol; 0 scores none.
        test_split: the split that a test draws from; ``auto`` is test where the source has it, else val.
        augment: what happens to every image of a training task, support and query, each by itself: ``crop_flip`` takes
            a random window of the image padded with black and mirrors every other one left to right;
            ``crop_flip_jitter`` changes brightness, contrast and saturation too. Meant for photographs: a mirrored
            character is another character. Validation and test are never augmented.
        seed: of all streams of tasks.

    Raises:
        InputError: for a number below its minimum, or an unknown ``test_split`` or ``augment``.
    """

    kind: ClassVar[str] = "episodes"

    #: Augmented copies that stand for each support image in evaluation; none here.
    support_copies: int = 0

    def __init__(
        self,
        source: Source,
        *,
        n_way: Size = 5,
        k_shot: Size = 1,
        n_query: Size = 15,
        train_way: Size | None = None,
        train_query: Size | None = None,
        meta_batch_size: Size = 4,
        num_workers: Workers = 0,
        val_every: Count = 500,
        max_meta_steps: Number = 1000,
        val_episodes: Count = 100,
        test_episodes: Number = 600,
        test_split: Literal["auto", "test", "val"] = "auto",
        augment: Augment = "none",
        gap_episodes: Number = 0,
        seed: Seed = 0,
    ) -> None:
        if test_episodes < 1:  # a run may go without a test; what there is of one has tasks
            raise InputError(f"test_episodes={test_episodes} must be at least 1")
        check_arguments(EpisodicDataModule.__init__, locals())
        super().__init__()
        for flag, ways in (("n_way", n_way), ("train_way", train_way)):
            if ways == 1:
                raise InputError(f"{flag}=1 must be at least 2: with one class there is nothing to tell apart")
        if test_split not in ("auto", "test", "val"):
            raise InputError(f"test_split={test_split} is not one of auto, test, val")
        if augment not in AUGMENTS:
            raise InputError(f"augment={augment} is not one of {', '.join(AUGMENTS)}")
        self.source = source
        self.augment = augment
        self.n_way = n_way
        self.k_shot = k_shot
        self.n_query = n_query
        self.train_way = train_way
        self.train_query = train_query
        self.meta_batch_size = meta_batch_size
        self.num_workers = num_workers
        self.val_every = val_every
        self.max_meta_steps = max_meta_steps
        self.val_episodes = val_episodes
        self.test_episodes = test_episodes
        self.test_split = test_split
        self.gap_episodes = gap_episodes
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
        if stage in (None, "fit"):
            self.check_train(world)
            if self.gap_episodes:
                self._check_tasks("train", scored=True)
        tested = (self.resolved_test_split,)
        splits = {"fit": ("val",), "validate": ("val",), "test": tested, "predict": tested}
        for flag, episodes in (("val_episodes", self.val_episodes), ("test_episodes", self.test_episodes)):
            if stage is not None and episodes < world:
                raise InputError(
                    f"{flag}={episodes} is smaller than the number of processes, {world}: every one needs an episode; "
                    f"raise {flag} or use fewer devices"
                )
        for name in dict.fromkeys(splits.get(stage, ()) if stage else (*splits["fit"], *splits["test"])):
            self._check_tasks(name)
        if stage in (None, "test") and self.test_split == "auto" and self.resolved_test_split == "val":
            rank_zero_warn(
                f"{self.source.name} has no test split: the test runs on VAL, the classes that models are selected on. "
                "Do not report its numbers as test accuracy."
            )

    def check_train(self, world: int) -> None:
        """Refuse settings under which ``world`` ranks cannot train; see :meth:`setup`.

        Raises:
            InputError: for fewer tasks than ranks, or tasks that the train split cannot give.
        """
        if self.meta_batch_size < world:
            raise InputError(
                f"meta_batch_size={self.meta_batch_size} is smaller than the number of processes, {world}: every one "
                "needs a task; raise meta_batch_size or use fewer devices"
            )
        self._check_tasks("train")

    def _check_tasks(self, name: str, scored: bool = False) -> None:
        trained = name == "train" and not scored
        check_task(
            self.source.split(name),
            label=f"{self.source.name}, split {name}{' (gap_episodes)' if name == 'train' and scored else ''}",
            rotation=self.source.rotation(name),
            way_flag="train_way" if trained and self.train_way else "n_way",
            query_flag="train_query" if trained and self.train_query else "n_query",
            **self.shape(name, scored),
        )

    def shape(self, split_name: str, scored: bool = False) -> dict[str, int]:
        """Return n_way, k_shot and n_query of the tasks of a split; tasks of train that are ``scored`` have val's."""
        shape = {"n_way": self.n_way, "k_shot": self.k_shot, "n_query": self.n_query}
        if split_name == "train" and not scored:
            shape["n_way"] = self.train_way or self.n_way
            shape["n_query"] = self.train_query or self.n_query
        return shape

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
        return _EvalBatches(self, self.resolved_test_split, self.test_episodes, first=self.first_test_task)

    @property
    def first_test_task(self) -> int:
        """The id of the first test task; none of them is a task that selected the model."""
        return OWN_TASKS if self.resolved_test_split == "val" else 0

    def predict_dataloader(self) -> _EvalBatches:
        """Return the test tasks: what ``trainer.predict`` gives class probabilities of."""
        return self.test_dataloader()

    def train_loader(self, steps: Sequence[int]) -> DataLoader:
        """Return a DataLoader over this rank's parts of the meta-batches of these meta-steps, for iterating once."""
        return self.loader("train", self.train_ids(steps))

    def gap_loader(self) -> DataLoader:
        """Return a DataLoader over this rank's gap episodes, the same in every validation, for iterating once."""
        return self.loader("train", [part + OWN_TASKS for part in self.eval_ids(self.gap_episodes)], scored=True)

    def loader(self, split_name: str, ids: Sequence[np.ndarray], scored: bool = False) -> DataLoader:
        """Return a DataLoader over meta-batches with these task ids, for iterating once.

        Args:
            split_name: the split.
            ids: task ids of each meta-batch.
            scored: treat tasks of the train split as those of validation; the other splits' always are.
        """
        planned = self._device_images(split_name) is not None
        dataset = self._meta_batches(split_name, ids, planned=planned, scored=scored)
        return task_loader(dataset, min(self.num_workers, len(ids)), pin_memory=self._device().type == "cuda")

    def episode(self, split_name: str, task_ids: Sequence[int]) -> Episode:
        """Return the tasks with these ids as one meta-batch on the CPU, the same that the loaders give."""
        episode = self._meta_batches(split_name, [np.asarray(task_ids)], planned=False)[0]
        if not isinstance(episode, Episode):
            raise RuntimeError("the images were to be gathered at once")
        return episode

    def classes(self, split_name: str, task_id: int) -> list[int]:
        """Return the classes of an evaluation task, as numbers within its split, in the order of its labels."""
        split, rotation = self.source.split(split_name), self.source.rotation(split_name)
        shape = self.shape(split_name, scored=True)
        plan = draw_task(split, seed=self.seed, split_name=split_name, task_id=task_id, rotation=rotation, **shape)
        return classes_by_label(split, plan, rotation)

    def class_name(self, split_name: str, number: int) -> str:
        """Return the name of a class by its number in :meth:`classes`."""
        return class_name(self.source.split(split_name), number, self.source.rotation(split_name))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Gather the images of a batch that came as indices; pass an episode through."""
        if not isinstance(batch, PlannedBatch):
            return batch
        images = self._device_images(batch.split_name)
        if images is None:
            raise RuntimeError(f"a planned batch of split {batch.split_name}, but its images are not on the device")
        return materialise(batch.plan, images, self.source.mean, self.source.std, batch.copies)

    def teardown(self, stage: str | None = None) -> None:
        """Free the images on the device."""
        self._on_device = {}

    def state_dict(self) -> dict[str, Any]:
        """Return the cursor."""
        return {"done": self.done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Set the cursor; loaders made from now on continue there."""
        self.done = int(state_dict["done"])

    def _meta_batches(
        self, split_name: str, ids: Sequence[np.ndarray], planned: bool, scored: bool = False
    ) -> MetaBatches:
        shape, training = {"seed": self.seed, **self.shape(split_name, scored)}, split_name == "train" and not scored
        return MetaBatches(
            self.source, split_name, ids, shape, augment=self.augment if training else "none", planned=planned,
            support_copies=0 if training else self.support_copies,
        )  # fmt: skip

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
