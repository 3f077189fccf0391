"""Numbers in tables. Truth: scipy.stats on the files as they were written, and differences counted by hand."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from few_shot_nas.report import load_run, results_table
from few_shot_nas.report.pairing import paired_differences
from few_shot_nas.report.tables import duration, modes, names, percent, quantity, score, tabulate

MakeRun = Callable[..., Path]


def accuracies(path: Path, mode: str) -> list[float]:
    with open(path / "episodes.csv") as file:
        return [float(row["accuracy"]) for row in csv.DictReader(file) if row["bn_mode"] == mode]


@pytest.mark.parametrize("mode", ["transductive", "support"])
def test_accuracy_and_interval_equal_scipys(make_run: MakeRun, mode: str) -> None:
    path = make_run()
    values = accuracies(path, mode)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    found = score(load_run(path), mode)
    assert found is not None and found.n == len(values)
    np.testing.assert_allclose([found.mean - found.ci95, found.mean + found.ci95], [low, high], rtol=0, atol=1e-12)
    assert percent(found) in tabulate([load_run(path)]).rows[0]


def test_without_episodes_the_reported_score_is_shown(make_run: MakeRun) -> None:
    tested = {"transductive": {"accuracy": 0.7134, "ci95": 0.0123, "episodes": 600}}
    row = tabulate([load_run(make_run(omit=("episodes.csv",), results={"test": tested}))]).rows[0]
    assert "71.3 ± 1.2" in row


def test_a_single_episode_has_no_interval(make_run: MakeRun) -> None:
    tested = {"transductive": {"accuracy": 0.7134, "ci95": None, "episodes": 1}}
    found = load_run(make_run(omit=("episodes.csv",), results={"test": tested}))
    assert percent(score(found, "transductive")) == "71.3"


@pytest.mark.parametrize("mode", ["transductive", "support"])
def test_paired_difference_equals_the_interval_of_scipys_paired_test(make_run: MakeRun, mode: str) -> None:
    paths = [make_run("a", accuracy=0.70), make_run("b", accuracy=0.60), make_run("c", accuracy=0.70)]
    found = paired_differences([load_run(path) for path in paths], mode)
    assert [(pair.first, pair.second) for pair in found] == [(0, 1), (0, 2), (1, 2)]
    for pair in found:
        one, other = accuracies(paths[pair.first], mode), accuracies(paths[pair.second], mode)
        interval = stats.ttest_rel(one, other).confidence_interval(0.95)
        middle, half = pair.difference.mean, pair.difference.ci95
        np.testing.assert_allclose([middle - half, middle + half], [interval.low, interval.high], rtol=0, atol=1e-12)
        assert pair.clear == (interval.low > 0 or interval.high < 0)
    assert found[0].clear


@pytest.mark.parametrize(
    "other",
    [
        {"results": {"seed": 1}},
        {"results": {"n_way": 10}},
        {"results": {"k_shot": 5}},
        {"results": {"n_query": 5}},
        {"results": {"split": "val"}},
        {"results": {"data_class": "Omniglot"}},
        {"episodes": 119},
    ],
)
def test_runs_on_other_tasks_are_not_paired(make_run: MakeRun, other: dict) -> None:
    runs = [load_run(make_run("a")), load_run(make_run("b", **other))]
    assert paired_differences(runs, "transductive") == []


@pytest.mark.parametrize(("flag", "values", "paired"), [
    ("rotations", ("none", "classes"), False),
    ("image_size", (28, 84), True),
    ("inner_lr", (0.1, 0.4), True),
    ("data_dir", ("here", "there"), True),
])  # fmt: skip
def test_flags_of_the_data_part_runs_only_where_they_change_the_tasks(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, flag: str, values: tuple, paired: bool
) -> None:
    class Letters:
        def __init__(self, data_dir: str = "data", image_size: int = 28, rotations: str = "none") -> None: ...

    monkeypatch.setattr("few_shot_nas.report.pairing.SOURCES", {"Letters": Letters})
    letters = {"data_class": "Letters"}
    runs = [load_run(make_run(str(value), config={flag: value}, results=letters)) for value in values]
    assert bool(paired_differences(runs, "transductive")) == paired


def test_what_all_runs_share_is_said_once(make_run: MakeRun) -> None:
    runs = [load_run(make_run("a")), load_run(make_run("b", search=False))]
    table = tabulate(runs)
    assert table.common == "Glyphs, 5-way 1-shot, test split, 120 episodes"
    assert not {"data", "task", "split", "episodes"} & set(table.head)
    assert [row[:4] for row in table.rows] == [
        ["a", "MAMLENAS", "Supernet", "inherited"],
        ["b", "MAML", "Conv4", "scratch"],
    ]
    assert [row[-1] for row in table.rows] == ["4000", "–"] and table.head[-1] == "reward calls"


def test_what_differs_is_a_column(make_run: MakeRun) -> None:
    runs = [load_run(make_run("a")), load_run(make_run("b", episodes=50, results={"k_shot": 5, "split": "val"}))]
    table = tabulate(runs)
    assert table.common == "Glyphs"
    cells = [dict(zip(table.head, row, strict=True)) for row in table.rows]
    assert [(cell["task"], cell["split"], cell["episodes"]) for cell in cells] == [
        ("5-way 1-shot", "test", "120"),
        ("5-way 5-shot", "val", "50"),
    ]


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_shows_every_number_whole(make_run: MakeRun, width: int) -> None:
    runs = [load_run(make_run("search-maml-enas")), load_run(make_run("maml-on-conv4", search=False))]
    console = Console(width=width, record=True, file=open("/dev/null", "w"))
    console.print(results_table(runs))
    text = console.export_text()
    for mode in modes(runs):
        assert all(percent(score(run, mode)) in text for run in runs)
    assert all(word in text for word in ("maml-on-conv4", "31.3 k", "5.12 M", "83", "4000"))


def test_runs_in_folders_of_the_same_name_are_told_apart(make_run: MakeRun) -> None:
    assert names([load_run(make_run("one/run")), load_run(make_run("two/run"))]) == ["one/run", "two/run"]
    assert names([load_run(make_run("x/a")), load_run(make_run("x/b"))]) == ["a", "b"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (7, "7"), (999, "999"), (1000, "1.00 k"), (31_285, "31.3 k"), (111_936, "112 k"),
     (999_400, "999 k"), (999_600, "1.00 M"), (2_500_000_000, "2.50 G")],
)  # fmt: skip
def test_quantities_have_three_digits(value: float | None, text: str) -> None:
    assert quantity(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (3.21, "3.2 s"), (9.97, "10 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"),
     (3599.7, "1 h 00 min"), (7620, "2 h 07 min")],
)  # fmt: skip
def test_durations_carry_over_to_the_next_unit(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
