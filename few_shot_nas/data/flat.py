"""The LightningDataModule for flat pre-training: batches of labelled images in training, episodes in evaluation."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from few_shot_nas.data.augment import Augment, Augmentation, draw_augmentation
from few_shot_nas.data.episodic import EpisodicDataModule
from few_shot_nas.data.meta_batches import task_loader
from few_shot_nas.data.normalisation import normalise, planes
from few_shot_nas.data.sampler import QUARTER_TURNS, gather, image_tensor
from few_shot_nas.data.source import Source, Split
from few_shot_nas.errors import InputError
from few_shot_nas.ranges import Count, Number, Seed, Size, Workers, check_arguments
from few_shot_nas.seeding import derived_seed


class FlatBatch(NamedTuple):
    """Labelled images of all training classes.

    Attributes:
        images: ``[B, C, H, W]`` float32, normalised as the source says.
        labels: index of the class among all training classes, ``[B]`` int64.
    """

    images: Tensor
    labels: Tensor


class FlatPlan(NamedTuple):
    """Which images make up this rank's part of a batch, before any is touched.

    Attributes:
        rows: of the train split's image array, ``[B]`` int64.
        turns: quarter turns, ``[B]`` int64.
        labels: ``[B]`` int64.
        augmentation: what happens to each image, or None.
    """

    rows: Tensor
    turns: Tensor
    labels: Tensor
    augmentation: Augmentation | None


@lru_cache(maxsize=2)  # a batch lies in one epoch, or in two
def _shuffled(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(derived_seed(seed, "flat", epoch))).permutation(count)


def draw_batch(
    split: Split, *, seed: int, step: int, size: int, part: np.ndarray, turned: bool, augment: Augment
) -> FlatPlan:
    """Draw one rank's part of the batch of meta-step ``step``: a pure function of its arguments.

    The stream is one permutation of all images after another, cut into batches: batch t holds the places ``t * size``
    to ``t * size + size - 1``. So every image comes once per epoch, and a batch may end one epoch and begin the next.

    Args:
        split: the images.
        seed: of the stream.
        step: the meta-step t.
        size: images per batch, over all ranks together.
        part: places within the batch that this rank takes, int64.
        turned: every (class, quarter turn) is a class of its own, and every image comes in all four.
        augment: what happens to the images.
    """
    images = len(split.images)
    count = images * (QUARTER_TURNS if turned else 1)
    places = step * size + part
    drawn = np.array([_shuffled(seed, int(place // count), count)[place % count] for place in places], dtype=np.int64)
    rows, turns = drawn % images, drawn // images
    classes = np.searchsorted(split.starts, rows, side="right") - 1
    how = draw_augmentation(augment, size, split.images.shape[1], seed, "flat augmentation", step)
    return FlatPlan(
        torch.from_numpy(rows),
        torch.from_numpy(turns),
        torch.from_numpy(classes + turns * (len(split.starts) - 1)),
        None if how is None else how.part(part),
    )


def materialise_batch(plan: FlatPlan, images: Tensor, mean: Sequence[float], std: Sequence[float]) -> FlatBatch:
    """Gather, turn, augment and normalise the images of a plan on the device of ``images``, uint8 ``[n, H, W, C]``."""
    turns = plan.turns if bool(plan.turns.any()) else None
    x = planes(gather(images, plan.rows, turns), plan.augmentation)
    return FlatBatch(normalise(x, mean, std), plan.labels)


class _FlatBatches(Dataset):
    """Map-style dataset whose items are batches; item i is the batch of meta-step ``steps[i]``."""

    def __init__(self, source: Source, steps: Sequence[int], settings: dict[str, Any], planned: bool) -> None:
        self.source = source
        self.steps = steps
        self.settings = settings
        self.planned = planned

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, item: int) -> FlatBatch | FlatPlan:
        split = self.source.split("train")
        plan = draw_batch(split, step=self.steps[item], **self.settings)
        if self.planned:
            return plan
        return materialise_batch(plan, image_tensor(split), self.source.mean, self.source.std)


class FlatDataModule(EpisodicDataModule):
    """Ordinary labelled batches from all training classes; validation and test are the episodes of the parent class.

    One meta-step is one batch of ``flat_batch_size`` images over all ranks together. The labels are the index of the
    class in the train split. Where the source turns characters by quarter turns, every (class, turn) is a class of its
    own and there are four times as many, as tasks see them.

    RFS drops the last, smaller batch of an epoch; here the stream goes on into the next permutation, so that every
    image comes exactly once per epoch and all batches are full.

    Args:
        source: where the images come from.
        n_way: classes per task N in validation and test.
        k_shot: support images per class K.
        n_query: query images per class.
        flat_batch_size: images per training batch, over all ranks together.
        augment: what happens to training images of three channels: ``crop_flip`` takes a random window of the image
            padded with black and mirrors every other one left to right; ``crop_flip_jitter`` changes brightness,
            contrast and saturation too. Images of one channel are left as they are, because a mirrored character is
            another character.
        support_copies: copies that stand for each support image in validation and test, augmented by
            ``crop_flip_jitter`` whatever ``augment`` says (RFS: 5); 0 gives the image itself.
        meta_batch_size: tasks per batch in validation and test.
        num_workers: worker processes per loader; the batches do not depend on it.
        val_every: meta-steps between validations.
        max_meta_steps: meta-steps of the whole run.
        val_episodes: tasks per validation, over all ranks.
        test_episodes: tasks per test, over all ranks.
        gap_episodes: tasks of the training classes that each validation scores too, for the gap between training and
            validation classes under one protocol; 0 scores none.
        test_split: the split that a test draws from; ``auto`` is test where the source has it, else val.
        seed: of all streams.

    Raises:
        InputError: for a number below its minimum, an unknown ``augment``, or ``support_copies`` of images that are not
            augmented.
    """

    kind: ClassVar[str] = "flat"

    def __init__(
        self,
        source: Source,
        *,
        n_way: Size = 5,
        k_shot: Size = 1,
        n_query: Size = 15,
        flat_batch_size: Size = 64,
        augment: Augment = "crop_flip_jitter",
        support_copies: Number = 0,
        meta_batch_size: Size = 4,
        num_workers: Workers = 0,
        val_every: Count = 500,
        max_meta_steps: Number = 1000,
        val_episodes: Count = 100,
        test_episodes: Number = 600,
        test_split: Literal["auto", "test", "val"] = "auto",
        gap_episodes: Number = 0,
        seed: Seed = 0,
    ) -> None:
        check_arguments(FlatDataModule.__init__, {"flat_batch_size": flat_batch_size, "support_copies": support_copies})
        super().__init__(
            source, n_way=n_way, k_shot=k_shot, n_query=n_query, meta_batch_size=meta_batch_size,
            num_workers=num_workers, val_every=val_every, max_meta_steps=max_meta_steps, val_episodes=val_episodes,
            test_episodes=test_episodes, test_split=test_split, augment=augment, gap_episodes=gap_episodes, seed=seed,
        )  # fmt: skip
        if support_copies and source.in_channels != 3:
            raise InputError(
                f"support_copies={support_copies} given, but images of {source.in_channels} channel(s) are not "
                f"augmented, and {source.name} has such: the copies would be all alike; leave support_copies out"
            )
        self.flat_batch_size = flat_batch_size
        if source.in_channels != 3:
            self.augment = "none"
        self.support_copies = support_copies

    @property
    def num_classes(self) -> int:
        """Number of training classes; a class in four quarter turns counts four times."""
        return len(self.source.split("train").class_names) * (QUARTER_TURNS if self._turned() else 1)

    def check_train(self, world: int) -> None:
        """Refuse more ranks than images in a batch; any split with images can give batches.

        Raises:
            InputError: naming both numbers.
        """
        if self.flat_batch_size < world:
            raise InputError(
                f"flat_batch_size={self.flat_batch_size} is smaller than the number of processes, {world}: every one "
                "needs an image; raise flat_batch_size or use fewer devices"
            )

    def train_loader(self, steps: Sequence[int]) -> DataLoader:
        """Return a DataLoader over this rank's parts of the batches of these meta-steps, for iterating once."""
        rank, world = self._rank_and_world()
        settings = {
            "seed": self.seed,
            "size": self.flat_batch_size,
            "part": np.array_split(np.arange(self.flat_batch_size), world)[rank],
            "turned": self._turned(),
            "augment": self.augment,
        }
        dataset = _FlatBatches(self.source, steps, settings, planned=self._device_images("train") is not None)
        return task_loader(dataset, min(self.num_workers, len(steps)), pin_memory=self._device().type == "cuda")

    def train_images(self) -> Iterator[Tensor]:
        """Yield this rank's share of the training images ``[B, C, H, W]``, each of all ranks' once, not augmented.

        Images that are turned come in all four quarter turns.
        """
        rank, world = self._rank_and_world()
        split, on_device = self.source.split("train"), self._device_images("train")
        images = image_tensor(split) if on_device is None else on_device
        count = len(images) * (QUARTER_TURNS if self._turned() else 1)
        for places in torch.arange(rank, count, world).split(self.flat_batch_size):
            turns = places // len(images)
            plan = FlatPlan(places % len(images), turns, turns, None)  # whose labels nobody asks for
            yield materialise_batch(plan, images, self.source.mean, self.source.std).images

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Gather the images of a batch that came as indices; pass anything else on to the parent class."""
        if not isinstance(batch, FlatPlan):
            return super().on_after_batch_transfer(batch, dataloader_idx)
        images = self._device_images("train")
        if images is None:
            raise RuntimeError("a planned batch of split train, but its images are not on the device")
        return materialise_batch(batch, images, self.source.mean, self.source.std)

    def _turned(self) -> bool:
        return self.source.rotation("train") != "none"
