"""The section of a search by pruning: its rounds, its cost, and that other runs have none."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from few_shot_nas.report.html import write_report
from few_shot_nas.report.pruning import cost_in_words, kappa_picture, rounds
from few_shot_nas.report.run import Run, load_run

COST = {"kernel_evaluations": 1530, "seconds_kernel": 125.0, "seconds_regions": 65.0, "weights": "untrained"}


@pytest.fixture
def pruned(make_run: Callable[..., Path]) -> Run:
    run = load_run(make_run("pruned", results={"search": COST}))
    nothing = np.nan
    metrics = {
        "meta_step": np.arange(1.0, 8.0),
        "search/log_kappa": np.array([3.0, 2.0, 1.0, 2.5, 0.5, 4.0, nothing]),
        "search/margin": np.array([nothing, nothing, 5.25, nothing, 0.0, nothing, nothing]),
    }
    return replace(run, metrics=metrics)


def test_a_round_ends_with_its_margin_and_an_unfinished_one_is_left_out(pruned: Run) -> None:
    assert rounds(pruned) == [("3", "1.00", "5.2"), ("5", "0.50", "0.0")]


def test_the_cost_is_said_in_kernels_and_time(pruned: Run) -> None:
    assert cost_in_words(pruned) == "1,530 kernels in 2 min 05 s and linear regions in 1 min 05 s."


def test_the_picture_has_a_point_for_each_candidate_and_a_line_between_rounds(pruned: Run) -> None:
    picture = str(kappa_picture(pruned))
    assert picture.count("log κ without it") == 2  # for a wide page and a narrow one
    without_rounds = {**pruned.metrics, "search/margin": np.full(7, np.nan)}
    assert len(picture) > len(str(kappa_picture(replace(pruned, metrics=without_rounds))))


def test_the_page_says_that_weights_are_untrained_and_other_runs_have_no_such_section(
    make_run: Callable[..., Path],
) -> None:
    path = make_run("pruned", results={"search": COST})
    lines = (path / "metrics.csv").read_text().splitlines()
    scored = [f"{lines[0]},search/log_kappa,search/margin", *(f"{line},1.5," for line in lines[1:])]
    (path / "metrics.csv").write_text("\n".join(scored) + "\n")
    page = write_report(path).read_text(encoding="utf-8")
    assert "Search by pruning" in page and "untrained weights" in page and "1,530 kernels" in page
    assert "Learning curves" not in page  # nothing was learned
    other = load_run(make_run("other"))
    assert kappa_picture(other) is None and cost_in_words(other) == "" and rounds(other) == []
    assert "Search by pruning" not in write_report(other.path).read_text(encoding="utf-8")
