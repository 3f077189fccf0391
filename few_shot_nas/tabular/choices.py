"""Which architecture of a space is chosen for every replicate of fixed tasks, and the file that holds it.

For ways to choose that need the network: what they choose is then scored on a reward table of the same tasks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from few_shot_nas.errors import InputError
from few_shot_nas.tabular.array_file import read_arrays, write_arrays

#: The letter of the arm that a method is; every other method is a proxy.
LETTERS = {"alphas": "H", "meta_alphas": "H"}
PROXY_LETTER = "I"
#: Facts that choices and the table that scores them must share.
SAME = (
    "data_class", "split", "seed", "tasks", "replicates", "n_way", "k_shot", "n_query", "head", "bn_mode", "precision",
    "space", "channels", "cells", "nodes", "architectures", "weights",
)  # fmt: skip


@dataclass(frozen=True)
class Choices:
    """One architecture for each replicate of each task.

    Attributes:
        choices: place of the architecture in ``space.enumerate()``, ``[T, R]`` int64; the choice for a replicate saw
            no other replicate.
        facts: those of the table of these tasks, and ``method``, ``label_free``, ``passes_before`` and
            ``passes_per_task`` (cost in forward passes of one architecture, before the first task and for each), and
            what else the method tells.
    """

    choices: np.ndarray
    facts: Mapping[str, Any]

    @property
    def arm(self) -> str:
        """Name of the arm."""
        method = self.facts["method"]
        return f"{LETTERS.get(method, PROXY_LETTER)}_{method}"

    def save(self, path: Path) -> None:
        """Write the choices, whole or not at all."""
        write_arrays(path, {"choices": self.choices}, self.facts)


def load_choices(path: Path) -> Choices:
    """Read choices.

    Raises:
        InputError: if there is no such file, or it is damaged.
    """
    arrays, facts = read_arrays(path, ["choices"], "choices", "training/tabular/choose.py")
    return Choices(arrays["choices"], facts)


def check_same_tasks(path: Path, facts: Mapping[str, Any], table_facts: Mapping[str, Any]) -> None:
    """Check that choices are of the tasks and weights of a table.

    Args:
        path: file of the choices, for the message.
        facts: those of the choices.
        table_facts: those of the table.

    Raises:
        InputError: naming every fact that differs.
    """
    other = [
        f"{key}={table_facts.get(key)} there, {facts.get(key)} here"
        for key in SAME
        if facts.get(key) != table_facts.get(key)
    ]
    if other:
        raise InputError(
            f"choices {path} do not fit the table that scores them ({'; '.join(other)}); "
            "run training/tabular/choose.py with the flags that training/tabular/stage0.py had"
        )
