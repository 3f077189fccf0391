"""How a test answered single classes, and which it confused, from ``classes.json``."""

import json
from typing import Any

from few_shot_nas.report.results_file import damaged, read_text
from few_shot_nas.report.run import Run

#: Classes that a page shows before the others are folded away.
SHOWN = 8
#: Pairs that a page shows.
PAIRS = 12


def read_class_scores(run: Run) -> dict[str, Any] | None:
    """Return what the page shows of ``classes.json``; None without the file.

    Returns:
        ``sentence``; ``worst`` and ``others``: (class, right in per cent, queries), the hardest first; ``left_out``:
        classes that the file leaves out; ``pairs``: (class, taken for, share in per cent, wrong answers, queries).

    Raises:
        InputError: if the file is damaged.
    """
    path = run.path / "classes.json"
    if not path.is_file():
        return None
    try:
        content = json.loads(read_text(path))
        rows = [
            (str(item["name"]), _percent(item["right"], item["queries"]), int(item["queries"]))
            for item in content["classes"]
        ]
        pairs = [
            (
                str(item["truth"]),
                str(item["answer"]),
                _percent(item["answered"], item["queries"]),
                int(item["answered"]),
                int(item["queries"]),
            )
            for item in content["pairs"][:PAIRS]
        ]
        left_out, split, mode = int(content["classes_left_out"]), str(content["split"]), str(content["bn_mode"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise damaged(path, f"it is not what a run writes ({error})") from None
    sentence = f"{len(rows) + left_out} classes of the {split} split, statistics {mode}"
    return {
        "sentence": sentence,
        "worst": rows[:SHOWN],
        "others": rows[SHOWN:],
        "left_out": left_out,
        "pairs": pairs,
    }


def _percent(part: int, whole: int) -> str:
    if not 0 <= int(part) <= int(whole) or not int(whole):
        raise ValueError(f"{part} of {whole} queries")
    return f"{100 * int(part) / int(whole):.1f}"
