"""What benchmarks/collect.py keeps of runs, and the tables that are rendered from it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import run_tables, tables
from benchmarks.collect import demo, main, single_run


def test_a_learning_curve_has_the_training_accuracy_since_the_validation_before(
    make_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_run(config={"image_size": 42}, results={"legs": [1, 2]})
    lines = ["10,0.3,", "20,0.5,", "20,,0.44", "30,0.6,", "40,,0.5", "50,,0.55"]
    (path / "metrics.csv").write_text("\n".join(["meta_step,train/accuracy,val/accuracy", *lines]) + "\n")
    kept = single_run(path)
    assert kept["learning_curve"] == [[20, 0.44, pytest.approx(0.4)], [40, 0.5, 0.6], [50, 0.55, None]]
    assert "legs" not in kept and kept["algorithm"] == "MAMLENAS"
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "x.json").write_text(json.dumps(kept))
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    assert run_tables.curves_table(("x",))[2] == "| `x` | 42x42 | 20: 44.0 (40.0), 40: 50.0 (60.0), 50: 55.0 |"


def test_a_run_with_gap_episodes_shows_both_accuracies_at_the_last_validation(
    make_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_run(config={"image_size": 28}, results={"test_seconds": 9.0})
    lines = ["20,0.5,0.02,0.7", "40,0.4,0.03,0.9"]
    head = "meta_step,val/accuracy,val/ci95,train/eval_accuracy"
    (path / "metrics.csv").write_text("\n".join([head, *lines]) + "\n")
    (tmp_path / "runs").mkdir()
    for name in ("plain", "x"):
        (tmp_path / "runs" / f"overfitting_{name}.json").write_text(json.dumps(single_run(path)))
    own = {"difference": 1.5, "t_half_width": 0.5, "classes_half_width": 2.0, "verdict": "better"}
    arms = [{"name": name, "accuracy_percent": 50.0} for name in ("plain", "x")]
    (tmp_path / "compare_overfitting.json").write_text(json.dumps({"arms": arms, "contrasts": [{"arm": "x", **own}]}))
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    row = run_tables.overfitting_table({"plain": "nothing", "x": "more"})[3]
    assert row.startswith("| more | 40 | 90.0 | 40.0 ± 3.0 | 50.0 | 50.0 at 20 | ")
    assert row.endswith(" | +1.50 ± 0.50 | 2.00 | 92 |")


def test_the_demo_over_seeds_has_the_differences_task_by_task_and_over_the_seeds(
    make_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Searched networks are ahead by 0.1 on every task of seed 0 and by 0.3 on those of seed 1.
    for seed, ahead in enumerate((0.1, 0.3)):
        for name in ("search-maml-enas", "search-random", "train-on-searched", "train-on-random", "train-on-conv4"):
            better = ahead if name in ("search-maml-enas", "train-on-searched") else 0.0
            scores = [score + better for score in (0.2, 0.4, 0.6)]
            test = {"transductive": {"accuracy": sum(scores) / 3, "ci95": 0.1, "episodes": 3}}
            path = make_run(f"demo{seed}/{name}", config={"seed": seed}, results={"seed": seed, "test": test})
            rows = [f"{task},transductive,{score},1.0" for task, score in enumerate(scores)]
            (path / "episodes.csv").write_text("\n".join(["task_id,bn_mode,accuracy,loss", *rows]) + "\n")
        search = tmp_path / f"demo{seed}" / "search-maml-enas"
        lines = ["meta_step,controller/entropy_fraction,controller/kl_adapt", "1,1.0,0.5", "2,0.25,2.0"]
        (search / "metrics.csv").write_text("\n".join(lines) + "\n")
    kept = demo(tmp_path)
    assert [each["seed"] for each in kept["seeds"]] == [0, 1]
    assert kept["seeds"][0]["entropy"] == [[1, 1.0], [2, 0.25]] and kept["seeds"][0]["kl"] == [[1, 0.5], [2, 2.0]]
    first = kept["seeds"][0]
    assert set(first["reward_calls"]) == set(first["ops"]) == {"search-maml-enas", "search-random"}
    assert all(first["ops"].values())
    assert [each["contrasts"]["search"]["difference"] for each in kept["seeds"]] == pytest.approx([10, 30])
    assert kept["contrasts"]["train-on"]["difference"] == pytest.approx(20)
    (tmp_path / "demo.json").write_text(json.dumps(kept))
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    body = run_tables.demo_table()[2:]
    assert body[0].startswith("| 0 | 100 to 25.0 | 2.00 | 50.0 | 40.0 | +10.00 ± 0.00 | ")
    assert body[2].startswith("| mean, ± over the 2 seeds |  |  | 60.0 | 40.0 | +20.00 ± 127.06, *")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--run", "x"], "'x' given: it needs NAME=PATH"),
        (["--copy", "x=/nowhere.json"], "'x=/nowhere.json' given"),
        (["--demo", "/nowhere"], "/nowhere/demo[0-9]*/search-random holds no run"),
        (["--run", "x=."], "collect.py: error: report: results.json is missing"),
    ],
)
def test_what_cannot_be_collected_is_told_in_one_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(words)
    assert message in capsys.readouterr().err.splitlines()[-1]
