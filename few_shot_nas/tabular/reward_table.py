"""Rewards of every architecture of a small space on fixed tasks, and the file that holds them.

Shapes: A architectures, T tasks, R replicates of each task, L decisions, D length of the task embedding.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from few_shot_nas.errors import InputError
from few_shot_nas.seeding import derived_seed
from few_shot_nas.tabular.array_file import read_arrays, write_arrays

#: Largest space whose table is filled.
MAX_ARCHITECTURES = 1000
#: The entries of an architecture on one replicate of a task.
SCORES = ("accuracy", "loss", "loo_accuracy", "loo_loss")
#: Who has the planted preference: all tasks of a source the same, or each task one of its own.
Preference = Literal["source", "task"]


@dataclass(frozen=True)
class RewardTable:
    """What every architecture scores on every replicate of every task.

    Attributes:
        decisions: the architectures, ``[A, L]`` int64, in the order of ``space.enumerate()``.
        accuracy: query accuracy, a fraction, ``[A, T, R]`` float32.
        loss: query cross-entropy in nats, ``[A, T, R]``.
        loo_accuracy: leave-one-out accuracy on the support set, ``[A, T, R]``; nan with one shot.
        loo_loss: leave-one-out cross-entropy on the support set, ``[A, T, R]``; nan with one shot.
        embedding: of the support images of each task's first replicate, ``[T, D]``, by
            :meth:`few_shot_nas.spaces.supernet.Supernet.task_embedding`; what a conditioned controller sees. Tables
            without the fact ``embedding_dim`` hold an earlier description instead.
        source: which part of the data each task is from, ``[T]`` int64; 0 where there are no parts.
        classes: numbers of the N classes of each task within its split, ``[T, N]`` int64.
        done: how many tasks have been filled; the others are nan.
        facts: what the table was made of: run, split, seed, head and so on.
    """

    decisions: np.ndarray
    accuracy: np.ndarray
    loss: np.ndarray
    loo_accuracy: np.ndarray
    loo_loss: np.ndarray
    embedding: np.ndarray
    source: np.ndarray
    classes: np.ndarray
    done: int
    facts: Mapping[str, Any]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of architectures, tasks and replicates."""
        architectures, tasks, replicates = self.accuracy.shape
        return architectures, tasks, replicates

    def save(self, path: Path) -> None:
        """Write the table, whole or not at all."""
        write_arrays(path, {name: value for name, value in vars(self).items() if name != "facts"}, self.facts)


def empty_table(
    decisions: np.ndarray, tasks: int, replicates: int, embedding_dim: int, facts: Mapping[str, Any]
) -> RewardTable:
    """Return a table of which nothing has been filled."""
    nothing = {name: np.full((len(decisions), tasks, replicates), np.nan, np.float32) for name in SCORES}
    embedding = np.full((tasks, embedding_dim), np.nan, np.float32)
    source = np.zeros(tasks, np.int64)
    classes = np.zeros((tasks, int(facts.get("n_way", 1))), np.int64)
    return RewardTable(
        decisions=decisions, embedding=embedding, source=source, classes=classes, done=0, facts=facts, **nothing
    )


def extended(table: RewardTable, tasks: int) -> RewardTable:
    """Return the table with room for ``tasks`` tasks, at least as many as it has; what is filled stays as it is."""
    architectures, present, replicates = table.shape
    larger = empty_table(table.decisions, tasks, replicates, table.embedding.shape[1], {**table.facts, "tasks": tasks})
    for name in SCORES:
        getattr(larger, name)[:, :present] = getattr(table, name)
    for name in ("embedding", "source", "classes"):
        getattr(larger, name)[:present] = getattr(table, name)
    return replace(larger, done=table.done)


def load_table(path: Path, *, complete: bool = True) -> RewardTable:
    """Read a table.

    Args:
        path: a file that :meth:`RewardTable.save` wrote.
        complete: refuse one that is not filled to the end.

    Raises:
        InputError: if there is no such file, or it is damaged or incomplete.
    """
    names = [field.name for field in fields(RewardTable) if field.name != "facts"]
    found, facts = read_arrays(path, names, "table", "training/tabular/stage0.py")
    table = RewardTable(**{**found, "done": int(found["done"]), "facts": facts})
    tasks = table.shape[1]
    if complete and table.done < tasks:
        raise InputError(
            f"table {path}: {table.done} of {tasks} tasks are filled; run training/tabular/stage0.py to its end"
        )
    return table


def planted(table: RewardTable, points: float, per: Preference = "source") -> RewardTable:
    """Add a preference of known size to every reward: the positive control of an experiment that finds nothing.

    The first decision has C choices, and each task favours the architectures with one of these choices. A share ``p``
    of the task's queries is answered right by the favoured architectures and wrong by the others: ``accuracy' = (1 - p)
    accuracy + p favoured``. The other rewards move by the same multiple of their own spread, so that they are as good a
    sign of the preference as before. The spread is the standard deviation of the architectures' means. The
    leave-one-out accuracy thus has another ``p``, and losses of the favoured architectures fall by that multiple.

    A learner that sees no task can follow one choice only. With ``per="source"``, tasks of source i favour choice
    ``i mod C``: a learner that sees the images can follow each. With ``per="task"``, the choice that a task favours is
    drawn uniformly for each task. Nothing in the images tells this choice, only rewards of the task do. This is what
    adaptation within a task claims to find.

    Args:
        table: a table; of tasks from at least two sources for ``per="source"``.
        points: the share p in percent, 0 or more and less than 50; 0 returns the table as it is.
        per: whose preference it is.

    Raises:
        InputError: if ``points`` or ``per`` is out of range, or ``per`` is source and all tasks are from one source.
    """
    if not 0 <= points < 50:
        raise InputError(f"planted preference of {points} points given, it must be 0 or more and less than 50")
    if per not in get_args(Preference):
        raise InputError(f"planted preference per {per} given. Choices: {', '.join(get_args(Preference))}")
    if points == 0:
        return table
    if per == "source" and len(np.unique(table.source)) < 2:
        raise InputError(
            f"a planted preference of {points} points per source needs tasks from two sources or more, but those of "
            "this table are all from one; take a table of data_class=Mixed, or plant it per task"
        )
    first = table.decisions[:, 0]
    count = int(first.max()) + 1
    liked = table.source % count if per == "source" else _drawn_preference(table, count)
    favoured = (first[:, None] == liked[None])[..., None]
    spread = {name: float(getattr(table, name).mean((1, 2)).std()) for name in SCORES}
    rewards = {}
    for name in SCORES:
        size = np.float32(points / 100 * spread[name] / spread["accuracy"])
        own = getattr(table, name)
        rewards[name] = own - size * favoured if name.endswith("loss") else (1 - size) * own + size * favoured
    return replace(table, facts={**table.facts, "planted_points": points, "planted_per": per}, **rewards)


def _drawn_preference(table: RewardTable, count: int) -> np.ndarray:
    """Return which of ``count`` choices each task favours, ``[T]``; the split and the task's number decide alone."""
    rng = np.random.default_rng(derived_seed("plant", str(table.facts.get("split", ""))))
    return rng.integers(count, size=table.shape[1])
