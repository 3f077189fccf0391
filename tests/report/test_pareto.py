"""Runs that no other beats at their size: the front by definition, and its section of the comparison page."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from few_shot_nas.report import compare_arms
from few_shot_nas.report.html import compare_runs
from few_shot_nas.report.pareto import front, pareto
from few_shot_nas.report.run import load_run
from training.compare import main

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
    assert [(row[0], row[4]) for row in found.rows()] == [
        ("small", "parameters and MACs"), ("dear", "MACs"), ("large", "parameters and MACs"),
    ]  # fmt: skip
    page = compare_runs(folders, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Accuracy and size" in page and "Test accuracy by parameters" in page


@pytest.mark.parametrize("parameters", [None, 100])
def test_runs_without_a_size_or_alone_have_no_front(parameters: int | None, tmp_path: Path) -> None:
    assert pareto([load_run(write(tmp_path / "one", 0.5, parameters, 9000))]) is None


def test_arms_are_compared_by_the_means_of_their_runs(
    make_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"small": ((100, 9000), (300, 9000)), "large": ((400, 20_000), (400, 22_000)), "dear": ((500, 21_000),) * 2}
    for arm, accuracy in (("small", 0.5), ("large", 0.7), ("dear", 0.6)):
        for seed, (parameters, macs) in enumerate(sizes[arm]):
            results = {"seed": seed, "parameters": parameters, "macs": macs}
            make_run(f"{arm}/{seed}", accuracy=accuracy, results=results)
    folders, out = [str(tmp_path / arm) for arm in sizes], tmp_path / "out"
    assert compare_arms(folders, resamples=50).sizes == ((200, 9000), (400, 21_000), (500, 21_000))
    assert main([*folders, "--resamples=50", f"--output={out}"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "not beaten in" in printed and "200 9.00 k parameters and MACs" in printed
    page, lines = ((out / name).read_text(encoding="utf-8") for name in ("compare.html", "compare.md"))
    assert "no arm is at least as accurate (transductive)" in page and "Test accuracy by parameters" in page
    assert ">320</text>" in page and ">12.0 k</text>" in page and "mathdefault" not in page
    (dear,) = [line for line in lines.splitlines() if line.startswith("| dear") and "21.0 k" in line]
    assert dear.endswith("| 500 | 21.0 k | beaten |")
    arms = json.loads((out / "compare.json").read_text(encoding="utf-8"))["arms"]
    assert [(arm["parameters"], arm["macs"]) for arm in arms] == [(200, 9000), (400, 21_000), (500, 21_000)]


def test_arms_that_do_not_know_their_size_are_left_out(make_run: Callable[..., Path], tmp_path: Path) -> None:
    known, unknown = (str(make_run(name, results=own)) for name, own in (("a", {}), ("b", {"macs": None})))
    assert main([known, unknown, "--resamples=50", f"--output={tmp_path / 'out'}"]) == 0
    assert "Accuracy and size" not in (tmp_path / "out" / "compare.html").read_text(encoding="utf-8")
