"""A reward table as an environment: the rewards of architectures on tasks are looked up."""

import copy
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from few_shot_nas.errors import InputError
from few_shot_nas.tabular.reward_table import RewardTable

RewardColumn = Literal["accuracy", "loss", "loo_accuracy", "loo_loss"]


class Environment:
    """Rewards of a table by looking them up.

    Args:
        table: the table of a whole space.

    Attributes:
        architectures: number of architectures A.
        tasks: number of tasks T.
        replicates: number of replicates of each task R.
        sizes: number of choices of each decision, L of them.
        embedding: what a conditioned controller sees of each task, ``[T, D]`` float32.
        source: which part of the data each task is from, ``[T]`` int64.

    Raises:
        InputError: if the table has a single replicate, or not every architecture of its space.
    """

    def __init__(self, table: RewardTable) -> None:
        if table.shape[2] < 2:
            raise InputError("reward table with 1 replicate: adaptation and score need different ones; fill 2 or more")
        self.architectures, self.tasks, self.replicates = table.shape
        self.sizes = tuple((table.decisions.max(0) + 1).tolist())
        if int(np.prod(self.sizes)) != self.architectures:
            raise InputError(f"reward table of {self.architectures} architectures: is not the whole space {self.sizes}")
        signs = {"accuracy": 1, "loss": -1, "loo_accuracy": 1, "loo_loss": -1}
        self._rewards = {name: torch.from_numpy(sign * getattr(table, name)) for name, sign in signs.items()}
        strides = np.cumprod((1, *self.sizes[:0:-1]))[::-1].copy()
        self._strides = torch.from_numpy(strides)
        self.embedding = torch.from_numpy(table.embedding).float()
        self.source = torch.from_numpy(table.source)

    def told_source(self) -> "Environment":
        """Return the same environment with the source of each task as its embedding: one-hot, ``[T, S]``."""
        told = copy.copy(self)
        told.embedding = torch.nn.functional.one_hot(self.source).float()
        return told

    def rewards(self, kind: RewardColumn, decisions: Tensor, tasks: Tensor, replicates: Tensor) -> Tensor:
        """Return the rewards of architectures ``[B, n, L]`` on tasks ``[B]`` and replicates ``[B, n]``: ``[B, n]``.

        Raises:
            InputError: if the table does not have that kind.
        """
        rewards = self._rewards[kind]
        if not bool(torch.isfinite(rewards[0, 0, 0])):
            raise InputError(f"reward {kind}: the table has none; leave-one-out needs k_shot >= 2")
        return rewards[(decisions * self._strides).sum(-1), tasks.unsqueeze(1), replicates]
