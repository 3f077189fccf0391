"""The policy over time, and the alarm. Truth: rows written by hand."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from few_shot_nas.report import load_run, write_report
from few_shot_nas.report.alarm import collapse_alarm
from few_shot_nas.report.heat_map import COLUMNS, LEVELS, columns, heat_maps, level

MakeRun = Callable[..., Path]
ALARM = "meta_step,controller/weightless_fraction,controller/greedy_entropy_fraction\n"


def test_columns_are_means_over_equal_runs_between_the_right_meta_steps() -> None:
    steps = np.arange(10.0, 10 * 4 * COLUMNS + 1, 10)
    values = np.stack([steps, 1 - steps])
    borders, means = columns(steps, values)
    assert borders.tolist() == [0, *range(40, 10 * 4 * COLUMNS + 1, 40)]
    assert means[0].tolist() == [25 + 40 * c for c in range(COLUMNS)]
    assert means[1].tolist() == [1 - 25 - 40 * c for c in range(COLUMNS)]
    borders, means = columns(np.array([50.0, 60.0]), np.array([[0.25, 0.5]]))
    assert borders.tolist() == [40, 50, 60] and means.tolist() == [[0.25, 0.5]]
    assert columns(np.array([7.0]), np.array([[0.25]]))[0].tolist() == [0, 7]


def test_the_shade_is_the_root_of_the_probability() -> None:
    assert level(np.array([0.0, 1 / 16, 0.25, 1.0, 1.0 + 1e-9])).tolist() == [0, LEVELS // 4, LEVELS // 2, 16, 16]


def test_neighbours_of_one_shade_are_one_box(make_run: MakeRun) -> None:
    path = make_run()
    (path / "choices.csv").write_text("meta_step,op=a<b,op=c,one=x\n10,1,0,1\n20,1,0,1\n30,0,1,1\n")
    ((name, picture),) = heat_maps(load_run(path))
    assert name == "op" and "a&lt;b" in picture
    # 108 units of names, then 180 for meta-steps 0 to 30: the first two thirds belong to a, the last to c.
    assert re.findall(r' d="([^"]*)"', picture) == ["M108.0 0H228.0v12H108.0zM228.0 13H288.0v12H228.0z"]


def test_the_page_shows_every_decision_and_stays_small(make_run: MakeRun) -> None:
    path, rng = make_run(), np.random.default_rng(0)
    names = [f"normal/{node}/op={op}" for node in range(40) for op in "abcdefgh"]
    rows = [",".join(["meta_step", *names])]
    for step in range(1, 131):
        values = rng.dirichlet(np.ones(8), size=40).ravel()
        rows.append(",".join([str(step), *(f"{value:.4f}" for value in values)]))
    (path / "choices.csv").write_text("\n".join(rows) + "\n")
    page = write_report(path)
    text = page.read_text()
    assert "Choices of the policy" in text and all(f"<title>normal/{node}/op</title>" in text for node in range(40))
    assert page.stat().st_size < 1_000_000
    (path / "choices.csv").write_text("meta_step\n")
    assert "Choices of the policy" not in write_report(path).read_text()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("10,0.5,0.9\n20,0.6,0.5\n", None),
        ("10,0.5,0.9\n20,0.8,0.5\n30,0.8,0.5\n", ["meta-step 20: ", "80% of the greedy", "2 of 3", "still so", "30"]),
        ("10,0.5,0.05\n20,0.5,0.5\n", ["meta-step 10: ", "entropy is 5.0%", "1 of 2", "no longer so"]),
        ("500,0.5,0.5\n1000,0.5,0.05\n", None),  # the end of the run: a policy may have settled by then
        ("", None),
    ],
)
def test_the_alarm_says_when_and_whether_it_lasted(make_run: MakeRun, rows: str, words: list[str] | None) -> None:
    path = make_run()
    (path / "metrics.csv").write_text(ALARM + rows)
    alarm = collapse_alarm(load_run(path))
    page = write_report(path).read_text()
    if words is None:
        assert alarm is None and "Collapse alarm" not in page
    else:
        assert alarm is not None and all(word in alarm for word in words)
        assert "Collapse alarm" in page


def test_the_diagnostics_of_an_adapted_policy_are_drawn(make_run: MakeRun) -> None:
    path = make_run()
    (path / "metrics.csv").write_text("meta_step,controller/kl_adapt,controller/grad_snr\n1,0.1,\n2,0.2,-0.5\n")
    page = write_report(path).read_text()
    assert "<title>Divergence by adaptation</title>" in page
    assert "<title>Signal-to-noise ratio of the controller" in page
