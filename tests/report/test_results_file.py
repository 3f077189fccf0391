"""Damaged results and odd names: one line, or the same page as for any other run. Truth: the fields of the contract."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from few_shot_nas.errors import InputError
from few_shot_nas.report.alphas import read_decoded
from few_shot_nas.report.class_scores import read_class_scores
from few_shot_nas.report.example import read_example
from few_shot_nas.report import compare_runs, load_run, write_report
from few_shot_nas.report.results_file import read_results
from few_shot_nas.report.run import Run
from training import report as command

NAMES = ["$x^$", "$\\frac{1}{0}$", "[red]", "[bold", "_hidden", "<b>&", "a b", "{x}", "%s", "é中", "...x", "x" * 200]


def test_runs_of_any_name_are_shown_and_compared(
    make_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = tmp_path / os.fsdecode(b"\xe9\xff")
    runs = [make_run(name, search=False) for name in NAMES] + [make_run("odd").rename(odd)]
    assert write_report(runs[0]).is_file() and write_report(odd).is_file()
    assert command.main([*map(str, runs), f"--output={tmp_path / 'page.html'}"]) == 0
    assert "[red]" in capsys.readouterr().out
    drawn = (tmp_path / "page.html").read_text()
    assert all(text in drawn for text in (">$x^$</text>", "&lt;b&gt;&amp;", "\\xe9\\xff"))


def test_a_name_that_begins_with_an_underscore_is_in_the_legend(make_run: Callable[..., Path], tmp_path: Path) -> None:
    runs = [make_run(name) for name in ("_first", "second")]
    drawn = compare_runs(runs, tmp_path / "page.html").read_text()
    assert "> _first<" in drawn  # as matplotlib leaves names with an underscore in front out of legends


def changed(path: Path, **fields: Any) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **fields}))


@pytest.mark.parametrize("cut", [0, 1, 20, 400, -2])
def test_truncated_results_are_one_line(make_run: Callable[..., Path], cut: int) -> None:
    path = make_run() / "results.json"
    path.write_text(path.read_text()[:cut])
    with pytest.raises(InputError, match=r"results\.json is damaged: line \d+ is not JSON"):
        read_results(path)


@pytest.mark.parametrize("text", ["[" * 100_000, "[1]", "null", '{"seed": ' + "9" * 5000 + "}", "\0"])
def test_what_is_no_object_is_one_line(make_run: Callable[..., Path], text: str) -> None:
    path = make_run() / "results.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"results\.json is damaged: (it must hold one|it is not|line 1 is not) JSON"):
        read_results(path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"algorithm": None}, "the field algorithm must be text"),
        ({"n_way": 0}, "the field n_way must be a whole number from 1"),
        ({"n_way": "5"}, "the field n_way must be"),
        ({"k_shot": 1.5}, "the field k_shot must be"),
        ({"seed": [1]}, "the field seed must be"),
        ({"meta_steps": "1000"}, "the field meta_steps must be"),
        ({"wall_seconds": float("inf")}, "the field wall_seconds must be a number from 0"),
        ({"wall_seconds": "fast"}, "the field wall_seconds must be"),
        ({"parameters": -1}, "the field parameters must be"),
        ({"macs": 10**30}, "the field macs must be"),
        ({"search": {"reward_calls": "many"}}, r"the field search\.reward_calls must be"),
        ({"search": 3}, "the field search must be an object"),
        ({"test": {"support": 3}}, r"test\.support must hold the numbers"),
        ({"test": {"support": {"accuracy": float("nan")}}}, r"test\.support must hold the numbers"),
        ({"test": {"support": {"accuracy": 40.0}}}, r"test\.support has accuracy 40\.0, a fraction"),
        ({"test": {"support": {"accuracy": 0.4, "episodes": 1.5}}}, r"test\.support must hold the numbers"),
    ],
)
def test_a_field_that_is_not_what_it_must_be_is_named(
    make_run: Callable[..., Path], fields: dict[str, Any], message: str
) -> None:
    path = make_run() / "results.json"
    changed(path, **fields)
    with pytest.raises(InputError, match=message):
        load_run(path.parent)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.yaml", "seed: 2024-13-45\n", r"config\.yaml is damaged: not YAML"),
        ("config.yaml", "a: &a {x: 1}\nb: {<<: [*a, *a]}\n", r"config\.yaml is damaged: "),
        ("config.yaml", "a: [[1]]\n", r"config\.yaml is damaged: 'a' holds nested keys"),
        ("config.yaml", "[" * 2_000, r"config\.yaml is damaged: not YAML"),
        ("metrics.csv", "meta_step\n" + "9" * 200_000 + "\n", r"metrics\.csv is damaged: it is no table"),
        ("episodes.csv", "task_id,bn_mode,accuracy\n1e300,support,0.5\n", r"task_id '1e300', a whole number"),
    ],
)
def test_other_damaged_files_of_a_run_are_one_line(
    make_run: Callable[..., Path], file: str, text: str, message: str
) -> None:
    run = make_run()
    (run / file).write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_run(run)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ['{"a":' * 100_000, "[1]", "{", "{}"])
@pytest.mark.parametrize(
    ("name", "read"),
    [("example.json", read_example), ("classes.json", read_class_scores), ("decode/decoded.json", read_decoded)],
)
def test_files_that_a_run_need_not_have_are_read_as_strictly(
    make_run: Callable[..., Path], name: str, read: Callable[[Run], Any], text: str
) -> None:
    run = load_run(make_run())
    assert read(run) is None
    (run.path / name).parent.mkdir(exist_ok=True)
    (run.path / name).write_text(text)
    with pytest.raises(InputError, match=rf"{name} is damaged"):
        read(run)
