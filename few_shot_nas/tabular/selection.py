"""Which architecture a method selects for every replicate of fixed tasks, and the file that holds it.

Methods that look at the network select here. What they select is then scored on a reward table of the same tasks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from few_shot_nas.errors import InputError
from few_shot_nas.tabular.array_file import read_arrays, write_arrays

#: The letter of a method; every other method is a proxy.
LETTERS = {"alphas": "H", "meta_alphas": "H"}
PROXY_LETTER = "I"
#: Facts that a selection and the table that scores it must share.
SAME = (
    "data_class", "split", "seed", "tasks", "replicates", "n_way", "k_shot", "n_query", "head", "bn_mode", "precision",
    "space", "channels", "cells", "nodes", "architectures", "weights",
)  # fmt: skip


@dataclass(frozen=True)
class Selection:
    """One architecture for each replicate of each task.

    Attributes:
        places: place of the architecture in ``space.enumerate()``, ``[T, R]`` int64. The architecture of one replicate
            is selected without looking at another replicate.
        facts: the facts of the table of these tasks; ``method`` and ``label_free``; the cost in forward passes of one
            architecture, ``passes_before`` the first task and ``passes_per_task``; and what else the method tells.
    """

    places: np.ndarray
    facts: Mapping[str, Any]

    @property
    def arm(self) -> str:
        """Name of the arm of a comparison that it becomes: the letter of its method, and the method."""
        method = self.facts["method"]
        return f"{LETTERS.get(method, PROXY_LETTER)}_{method}"

    def save(self, path: Path) -> None:
        """Write the selection, whole or not at all."""
        write_arrays(path, {"places": self.places}, self.facts)


def load_selection(path: Path) -> Selection:
    """Read a selection.

    Raises:
        InputError: if there is no such file, or it is damaged.
    """
    # Files of earlier versions call the array choices.
    arrays, facts = read_arrays(path, ["places"], "selection", "training/tabular/choose.py", {"places": "choices"})
    return Selection(arrays["places"], facts)


def check_same_tasks(path: Path, facts: Mapping[str, Any], table_facts: Mapping[str, Any]) -> None:
    """Check that a selection is of the tasks and weights of a table.

    Args:
        path: file of the selection, for the message.
        facts: the facts of the selection.
        table_facts: the facts of the table.

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
            f"selection {path} does not fit the table that scores it ({'; '.join(other)}); "
            "run training/tabular/choose.py with the flags that training/tabular/stage0.py had"
        )
