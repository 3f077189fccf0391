"""Which images make up a task, as a pure function of (seed, split, task id), and how they become an episode.

No state and no global random generator are involved: the same task comes out in any worker, on any rank, before and
after a resume, and whatever was drawn before it.
"""

import warnings
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from few_shot_nas.data.augment import Augmentation, stack_augmentations
from few_shot_nas.data.normalisation import normalise, planes
from few_shot_nas.data.source import Rotation, Split
from few_shot_nas.episode import Episode
from few_shot_nas.errors import InputError

QUARTER_TURNS = 4


class TaskPlan(NamedTuple):
    """What a task consists of, before any image is touched. B = N * (K + n_query) images, support first.

    Attributes:
        index: rows of the split's image array, ``[B]`` int64.
        label: labels in 0..N-1, ``[B]`` int64.
        rotation: quarter turns, counter-clockwise, 0..3, ``[B]`` int64.
        task_id: the task's identity within its split, ``[]`` int64.
        n_support: N * K, the number of leading images that are the support set.
        augmentation: what happens to each of the B images after it is turned; None for nothing.
        turned: False says that no image is turned, so that nobody has to look on a device that would be waited for.

    :func:`stack` puts M plans together; the tensors then have a leading axis M.
    """

    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody looks for here
    label: Tensor
    rotation: Tensor
    task_id: Tensor
    n_support: int
    augmentation: Augmentation | None = None
    turned: bool = True


def draw_task(
    split: Split,
    *,
    seed: int,
    split_name: str,
    task_id: int,
    n_way: int,
    k_shot: int,
    n_query: int,
    rotation: Rotation = "none",
) -> TaskPlan:
    """Draw an N-way K-shot task.

    N different classes are drawn, all from one group where the split has groups (any group is as likely as another,
    whatever its size), and of each K + n_query different images. The labels 0..N-1 are permuted afresh for
    every task, because with labels fixed per class a learner could store the classes instead of adapting. The support
    set holds exactly K images of each class; the query set holds n_query of each, shuffled, so that neither the order
    nor the position gives labels away to transductive normalisation.

    Args:
        split: the images to draw from; :func:`check_task` says whether it has enough.
        seed: of the whole stream of tasks.
        split_name: train, val or test: the splits' streams are independent.
        task_id: which task of the stream.
        n_way: number of classes N.
        k_shot: support images per class K.
        n_query: query images per class.
        rotation: ``augment`` turns each class by its own random number of quarter turns, the same for all its images
            in the task; ``classes`` counts every (character, quarter turn) as a class of its own, so that two rotations
            of one character can meet in one task; ``none`` turns nothing.
    """
    sequence = np.random.SeedSequence((seed, zlib.crc32(split_name.encode()), task_id))
    rng = np.random.Generator(np.random.Philox(sequence))
    classes, turns = _draw_classes(rng, split, n_way, rotation)
    rows = np.empty((n_way, k_shot + n_query), dtype=np.int64)
    for way, class_index in enumerate(classes):
        first, last = split.starts[class_index], split.starts[class_index + 1]
        rows[way] = first + rng.choice(last - first, k_shot + n_query, replace=False)
    labels = rng.permutation(n_way)
    ways = np.repeat(np.arange(n_way), n_query)[rng.permutation(n_way * n_query)]
    # Which of its class's query images an entry is follows from the order of drawing, which is random already.
    order = np.argsort(ways, kind="stable")
    query_rows = np.empty(n_way * n_query, dtype=np.int64)
    query_rows[order] = rows[:, k_shot:].ravel()
    way_of = np.concatenate([np.repeat(np.arange(n_way), k_shot), ways])
    return TaskPlan(
        index=torch.from_numpy(np.concatenate([rows[:, :k_shot].ravel(), query_rows])),
        label=torch.from_numpy(labels[way_of]),
        rotation=torch.from_numpy(turns[way_of]),
        task_id=torch.tensor(task_id),
        n_support=n_way * k_shot,
        turned=bool(turns.any()),
    )


def _draw_classes(
    rng: np.random.Generator, split: Split, n_way: int, rotation: Rotation
) -> tuple[np.ndarray, np.ndarray]:
    """Return the classes of a task and the quarter turns of each."""
    pool = np.arange(len(split.starts) - 1)
    if split.groups is not None:  # nothing is drawn without groups, so that those tasks stay what they are
        pool = pool[split.groups == rng.integers(len(_group_sizes(split)))]
    if rotation == "classes":
        drawn = rng.choice(len(pool) * QUARTER_TURNS, n_way, replace=False)
        return pool[drawn % len(pool)], drawn // len(pool)
    classes = pool[rng.choice(len(pool), n_way, replace=False)]
    turns = rng.integers(QUARTER_TURNS, size=n_way) if rotation == "augment" else np.zeros(n_way, dtype=np.int64)
    return classes, turns


def check_task(
    split: Split,
    *,
    label: str,
    n_way: int,
    k_shot: int,
    n_query: int,
    rotation: Rotation = "none",
    way_flag: str = "n_way",
    query_flag: str = "n_query",
) -> None:
    """Raise InputError if tasks of that shape cannot be drawn from ``split``.

    Args:
        split: the images to draw from.
        label: source and split, for the message.
        n_way: number of classes.
        k_shot: support images per class.
        n_query: query images per class.
        rotation: with ``classes`` every class counts four times.
        way_flag: the flag that gave ``n_way``, for the message.
        query_flag: the flag that gave ``n_query``.
    """
    for flag, value in ((way_flag, n_way), ("k_shot", k_shot), (query_flag, n_query)):
        if value < 1:
            raise InputError(f"{label}: {flag}={value} must be at least 1")
    sizes = _group_sizes(split) * (QUARTER_TURNS if rotation == "classes" else 1)
    if n_way > sizes.min():
        found = f"{sizes.min()} classes{_poorest(split)}"
        raise InputError(f"{label}: {way_flag}={n_way} but there are {found}; lower {way_flag}")
    counts = np.diff(split.starts)
    needed = k_shot + n_query
    if int(counts.min()) < needed:
        poorest = int(counts.argmin())
        raise InputError(
            f"{label}: class {split.class_names[poorest]} has {int(counts[poorest])} images, k_shot={k_shot} and "
            f"{query_flag}={n_query} need {needed} of every class; lower one of them"
        )


def group_of(split: Split, plan: TaskPlan) -> int:
    """Return the group that a task's classes come from; 0 where the split has no groups."""
    if split.groups is None:
        return 0
    return int(split.groups[np.searchsorted(split.starts, int(plan.index[0]), side="right") - 1])


def classes_by_label(split: Split, plan: TaskPlan, rotation: Rotation = "none") -> list[int]:
    """Return the classes of a task as numbers within its split, in the order of the labels; N of them.

    Args:
        split: the split that the task was drawn from.
        plan: the task.
        rotation: as it was drawn; with ``classes``, every quarter turn of a class is a class of its own.
    """
    found = np.searchsorted(split.starts, plan.index.numpy(), side="right") - 1
    if rotation == "classes":
        found = found * QUARTER_TURNS + plan.rotation.numpy()
    _, first = np.unique(plan.label.numpy(), return_index=True)
    return found[first].tolist()


def classes_of(split: Split, plan: TaskPlan, rotation: Rotation = "none") -> list[int]:
    """Return what :func:`classes_by_label` does, in ascending order."""
    return sorted(classes_by_label(split, plan, rotation))


def class_name(split: Split, number: int, rotation: Rotation = "none") -> str:
    """Return the name of a class by its number in :func:`classes_by_label`."""
    if rotation != "classes":
        return split.class_names[number]
    return f"{split.class_names[number // QUARTER_TURNS]}, turned {number % QUARTER_TURNS}/{QUARTER_TURNS}"


def _group_sizes(split: Split) -> np.ndarray:
    """Return the number of classes in each group."""
    return np.array([len(split.class_names)]) if split.groups is None else np.bincount(split.groups)


def _poorest(split: Split) -> str:
    """Return words for the smallest group, naming a class of it; nothing where there are no groups."""
    if split.groups is None:
        return ""
    first = int(np.argmax(split.groups == _group_sizes(split).argmin()))
    return f" in the group of {split.class_names[first]}"


def stack(plans: Sequence[TaskPlan]) -> TaskPlan:
    """Put M plans of the same shape together: every tensor gets a leading axis M. All are augmented or none is."""
    return TaskPlan(
        index=torch.stack([plan.index for plan in plans]),
        label=torch.stack([plan.label for plan in plans]),
        rotation=torch.stack([plan.rotation for plan in plans]),
        task_id=torch.stack([plan.task_id for plan in plans]),
        n_support=plans[0].n_support,
        augmentation=stack_augmentations([plan.augmentation for plan in plans]),
        turned=any(plan.turned for plan in plans),
    )


def image_tensor(split: Split) -> Tensor:
    """Return the split's images as a uint8 tensor ``[n, H, W, C]`` that shares the memory map; never write to it."""
    with warnings.catch_warnings():
        # Said of every read-only array. Nothing here writes to it.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(split.images)


def materialise(
    plans: TaskPlan | Sequence[TaskPlan],
    images: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    copies: Augmentation | None = None,
) -> Episode:
    """Gather, turn, augment and normalise the images of M tasks.

    Args:
        plans: stacked by :func:`stack`, on the device of ``images``; or a sequence of single plans.
        images: uint8 ``[n, H, W, C]``, on any device; the work is done there.
        mean: per channel, of the image scaled to [0, 1].
        std: per channel.
        copies: what happens to the ``[M, c * S]`` images that stand for the support images, the whole support set c
            times in each task, instead of what the plans say; stacked by :func:`stack_augmentations`. The episode then
            has the images themselves as ``originals``.

    Returns:
        The episode, float32 ``[M, S or Q, C, H, W]``, contiguous.
    """
    batch = plans if isinstance(plans, TaskPlan) else stack(plans)
    s = batch.n_support

    def part(rows: slice, how: Augmentation | None, times: int = 1) -> Tensor:
        index, turns = batch.index[:, rows].repeat(1, times), batch.rotation[:, rows].repeat(1, times)
        x = planes(gather(images, index.flatten(), turns.flatten() if batch.turned else None), how)
        return normalise(x, mean, std).view(len(batch.index), -1, *x.shape[1:])

    def drawn(rows: slice) -> Augmentation | None:
        return None if batch.augmentation is None else batch.augmentation.in_one_row(rows)

    support, query = slice(None, s), slice(s, None)
    times = 1 if copies is None else copies.flip.shape[1] // s
    how = drawn(support) if copies is None else copies.in_one_row(slice(None))
    return Episode(
        support_x=part(support, how, times),
        support_y=batch.label[:, :s].repeat(1, times),
        query_x=part(query, drawn(query)),
        query_y=batch.label[:, s:].contiguous(),
        task_id=batch.task_id,
        originals=None if copies is None else part(support, drawn(support)),
    )


def gather(images: Tensor, index: Tensor, turns: Tensor | None) -> Tensor:
    """Return the images of those rows, uint8 ``[B, H, W, C]``, turned counter-clockwise if ``turns [B]`` is given."""
    pixels = images.index_select(0, index)
    if turns is not None:
        turned = torch.stack([torch.rot90(pixels, k, dims=(1, 2)) for k in range(QUARTER_TURNS)])
        pixels = turned[turns, torch.arange(len(turns), device=turns.device)]
    return pixels
