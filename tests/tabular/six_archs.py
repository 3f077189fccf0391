"""The reward table that the tests of the simulator and of the arms share."""

import numpy as np
import torch

from few_shot_nas.tabular.reward_table import RewardTable, empty_table

#: Every architecture of a space of two decisions, with 3 and 2 choices.
DECISIONS = torch.cartesian_prod(torch.arange(3), torch.arange(2)).numpy()


def make_table(tasks: int = 20, replicates: int = 2, seed: int = 0) -> RewardTable:
    """Return a table of random scores of :data:`DECISIONS`, with random embeddings of length 2."""
    rng = np.random.default_rng(seed)
    table = empty_table(DECISIONS, tasks, replicates, 2, {})
    for name in ("accuracy", "loss", "loo_accuracy", "loo_loss"):
        getattr(table, name)[:] = rng.random(table.shape)
    table.embedding[:] = rng.normal(size=(tasks, 2))
    return table
