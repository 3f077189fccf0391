"""Runs that no other beats at their size: the front by definition, and its section of the comparison page."""

import json
from pathlib import Path

import pytest

from few_shot_nas.report.html import compare_runs
from few_shot_nas.report.pareto import front, pareto
from few_shot_nas.report.run import load_run

RUNS = {"small": (0.5, 100, 9000), "dear": (0.45, 300, 8000), "large": (0.7, 300, 20000)}


def write(folder: Path, accuracy: float, parameters: int | None, macs: int) -> Path:
    folder.mkdir()
    content = {
        "algorithm": "MAML", "model_class": "Conv4", "data_class": "Glyphs", "n_way": 5, "k_shot": 1, "seed": 0,
        "test": {"support": {"accuracy": accuracy, "ci95": 0.01, "episodes": 9}},
        "parameters": parameters, "macs": macs,
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / "config.yaml").write_text("seed: 0\n", encoding="utf-8")
    return folder


def test_a_point_is_kept_unless_another_is_as_good_in_both_and_better_in_one() -> None:
    assert front([1, 1, 2], [0.5, 0.5, 0.5]) == [True, True, False]
    assert front([2, 1], [0.6, 0.5]) == [True, True]


def test_the_comparison_page_says_and_draws_who_is_not_beaten(tmp_path: Path) -> None:
    folders = [write(tmp_path / name, *values) for name, values in RUNS.items()]
    found = pareto([load_run(folder) for folder in folders])
    assert found is not None
    assert [(row[0], row[4]) for row in found.rows] == [
        ("small", "parameters and MACs"), ("dear", "MACs"), ("large", "parameters and MACs"),
    ]  # fmt: skip
    page = compare_runs(folders, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Accuracy and size" in page and "Test accuracy by parameters" in page


@pytest.mark.parametrize("parameters", [None, 100])
def test_runs_without_a_size_or_alone_have_no_front(parameters: int | None, tmp_path: Path) -> None:
    assert pareto([load_run(write(tmp_path / "one", 0.5, parameters, 9000))]) is None
