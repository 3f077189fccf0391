"""One task of a run's test as it was answered, from ``example.json``."""

import re
from typing import Any

from few_shot_nas.report.results_file import read_if_there
from few_shot_nas.report.run import Run


def _image(item: dict[str, Any]) -> str:
    if not re.fullmatch(r"[A-Za-z0-9+/=]+", item["png"]):
        raise ValueError("an image is not in base64")
    return f"data:image/png;base64,{item['png']}"


def read_example(run: Run) -> dict[str, Any] | None:
    """Return what the page shows of ``example.json``; None without the file.

    Returns:
        ``sentence``; ``support``: (class, images) in the order of the labels; ``queries``: image, class, answer,
        probability in per cent, and whether it is right; ``split_classes``: text.

    Raises:
        InputError: if the file is damaged.
    """
    return read_if_there(run.path / "example.json", "a run", _shown)


def _shown(content: dict[str, Any]) -> dict[str, Any]:
    names = [str(name) for name in content["classes"]]
    support = [(name, [_image(s) for s in content["support"] if s["label"] == y]) for y, name in enumerate(names)]
    queries = [
        {
            "image": _image(item),
            "truth": names[item["label"]],
            "answer": names[item["predicted"]],
            "percent": f"{100 * float(item['probability']):.0f}",
            "right": item["label"] == item["predicted"],
        }
        for item in content["query"]
    ]
    right, count = int(content["right"]), int(content["queries"])
    splits = ", ".join(f"{name} {int(number)}" for name, number in content["split_classes"].items())
    sentence = f"Test task {content['task_id']}, statistics {content['bn_mode']}: {right} of {count} queries are right"
    return {"sentence": sentence, "support": support, "queries": queries, "split_classes": splits}
