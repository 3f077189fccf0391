"""classes.json: which classes a test answered right, and which pairs it confused, by their names."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from few_shot_nas.stats.confusion import class_confusion
from training.results import write_json

#: Classes that are kept, those with the smallest share of right answers first.
MOST_CLASSES = 1000
#: Pairs that are kept, those with the most wrong answers first.
MOST_PAIRS = 50


def class_scores(data: Any, rows: Sequence[Mapping[str, Any]], split: str, bn_mode: str) -> dict[str, Any]:
    """Sum the answers of a test up by class.

    Args:
        data: the data module of the test.
        rows: scores of its tasks, with their ``confusion``.
        split: the split that was tested.
        bn_mode: the statistics whose answers are counted.

    Returns:
        The content of classes.json: ``split``, ``bn_mode``; ``classes`` (name, right, queries) and
        ``classes_left_out``, how many more there were; ``pairs`` (truth, answer, answered, queries).
    """
    tasks = ((data.classes(split, row["task_id"]), row["confusion"]) for row in rows if row["bn_mode"] == bn_mode)
    scores, pairs = class_confusion(tasks)
    name = partial(data.class_name, split)
    return {
        "split": split,
        "bn_mode": bn_mode,
        "classes": [
            {"name": name(score.number), "right": score.right, "queries": score.queries}
            for score in scores[:MOST_CLASSES]
        ],
        "classes_left_out": max(len(scores) - MOST_CLASSES, 0),
        "pairs": [
            {
                "truth": name(pair.truth),
                "answer": name(pair.answer),
                "answered": pair.answered,
                "queries": pair.queries,
            }
            for pair in pairs[:MOST_PAIRS]
        ],
    }


def write_class_scores(folder: Path, parts: Any, rows: Sequence[Mapping[str, Any]], split: str) -> None:
    """Write classes.json of a test in the learner's own bn_mode; nothing where nothing was tested."""
    if rows:
        content = class_scores(parts.datamodule, rows, split, parts.module.outer.bn_mode)
        write_json(folder / "classes.json", content)
