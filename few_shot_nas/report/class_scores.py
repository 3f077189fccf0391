"""How a test answered single classes, and which it confused, from ``classes.json``."""

from typing import Any

from few_shot_nas.report.results_file import read_if_there
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
    return read_if_there(run.path / "classes.json", "a run", _shown)


def _shown(content: dict[str, Any]) -> dict[str, Any]:
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
    left_out = int(content["classes_left_out"])
    sentence = f"{len(rows) + left_out} classes of the {content['split']} split, statistics {content['bn_mode']}"
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
