"""Sweeps end to end with a stand-in for training that writes metrics.csv: its metric is a known function of its flags.

Truth: the enumeration of that function; what a stopped sweep would have done if it had not been stopped.
"""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from training import sweep

ROOT = Path(__file__).parents[2]
#: Three validations; the last one is the metric x / (1 + x^2), largest at 1.
PROGRAM = """
import pathlib, sys, time
flags = dict(word[2:].split("=", 1) for word in sys.argv[1:])
folder = pathlib.Path(flags["run_dir"]); folder.mkdir(parents=True, exist_ok=True)
x = float(flags["x"])
if x < 0:
    print("error: x is negative", file=sys.stderr); sys.exit(2)
rows = ["meta_step,train/loss,val/accuracy"]
for step in (1, 2, 3):
    rows += [f"{step},1.0,", f"{step},,{step / 3 * x / (1 + x * x)}"]
    (folder / "metrics.csv").write_text("\\n".join(rows) + "\\n")
    time.sleep(float(flags.get("pause", 0)))
"""


@pytest.fixture
def make(tmp_path: Path) -> Any:
    """A sweep file on the stand-in; returns its path."""
    (tmp_path / "train.py").write_text(PROGRAM, encoding="utf-8")

    def file(method: str, x: dict, **more: Any) -> Path:
        content = {
            "program": str(tmp_path / "train.py"),
            "method": method,
            "metric": {"name": "val/accuracy", "goal": "maximize"},
            "parameters": {"x": x},
            **more,
        }
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    return file


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "POLL", 0.02)


def rows_of(output: Path) -> list[dict[str, str]]:
    with (output / "sweep.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_grid_visits_every_value_once_and_ranks_them(make: Any, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert sweep.main([str(make("grid", {"values": [0.5, 1.0, 3.0]})), f"--output={output}"]) == 0
    rows = rows_of(output)
    assert [row["x"] for row in rows] == ["1", "0.5", "3"]
    assert [float(row["best val/accuracy"]) for row in rows] == pytest.approx([0.5, 0.4, 0.3], abs=1e-4)
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "trial-0001" in page and page.count("<svg") == 2


def test_a_longer_sweep_continues_the_shorter_one(make: Any, tmp_path: Path) -> None:
    file = make("random", {"min": 0.1, "max": 2.0})
    for count in (2, 4):
        assert sweep.main([str(file), f"--output={tmp_path / 'a'}", f"--count={count}"]) == 0
    assert sweep.main([str(file), f"--output={tmp_path / 'b'}", "--count=4"]) == 0

    def draws(name: str) -> list[tuple[str, str]]:
        return sorted((row["trial"], row["x"]) for row in rows_of(tmp_path / name))

    assert draws("a") == draws("b") and len({x for _, x in draws("a")}) == 4


def test_the_parzen_estimator_and_early_stopping_run(make: Any, tmp_path: Path) -> None:
    file = make("bayes", {"min": 0.1, "max": 2.0}, early_terminate={"type": "hyperband", "min_iter": 1, "eta": 2})
    assert sweep.main([str(file), f"--output={tmp_path / 'o'}", "--count=6", "--pause=0.1"]) == 0
    states = {row["state"] for row in rows_of(tmp_path / "o")}
    assert states == {"finished", "stopped early"}


def test_trials_that_keep_failing_end_the_sweep(make: Any, tmp_path: Path, capsys: Any) -> None:
    file = make("random", {"min": -2.0, "max": -1.0})
    with pytest.raises(SystemExit) as stop:
        sweep.main([str(file), f"--output={tmp_path / 'o'}", "--count=9"])
    assert stop.value.code == 2
    assert "3 trials failed one after the other, the last one with: error: x is negative" in capsys.readouterr().err


def test_another_sweep_in_the_same_folder_is_refused(make: Any, tmp_path: Path, capsys: Any) -> None:
    assert sweep.main([str(make("grid", {"values": [1.0]})), f"--output={tmp_path / 'o'}"]) == 0
    file = make("grid", {"values": [1.0]}, metric={"name": "val/loss", "goal": "minimize"})
    with pytest.raises(SystemExit):
        sweep.main([str(file), f"--output={tmp_path / 'o'}"])
    assert "metric=val/accuracy, the file says val/loss" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "needs --count=N"),
        (["--count=0"], "--count=0: must be at least 1"),
        (["--count=1", "--storage=nosuch://x"], "nosuch://x"),
    ],
)
def test_a_sweep_that_cannot_start_says_why(
    make: Any, tmp_path: Path, capsys: Any, words: list[str], complaint: str
) -> None:
    with pytest.raises(SystemExit):
        sweep.main([str(make("random", {"min": 0.1, "max": 1.0})), f"--output={tmp_path / 'o'}", *words])
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_sweep_is_continued_by_the_same_command(make: Any, tmp_path: Path, number: int, code: int) -> None:
    output = tmp_path / "o"
    words = [sys.executable, "training/sweep.py", str(make("grid", {"values": [0.5, 1.0]})), f"--output={output}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*words, "--pause=30"], cwd=ROOT, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    while not (output / "trial-0000" / "metrics.csv").is_file():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code and "this continues it: python training/sweep.py" in errors
    (tmp_path / "train.py").write_text(PROGRAM.replace("time.sleep", "id"), encoding="utf-8")
    assert sweep.main([*words[2:], "--pause=30"]) == 0
    assert sorted((row["trial"], row["state"]) for row in rows_of(output)) == [("0", "finished"), ("1", "finished")]


def test_a_killed_sweep_is_continued_when_its_trial_has_ended(
    make: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "o"
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    locked = PROGRAM.replace("x = float", "kept = FolderLock(folder); kept.acquire()\nx = float")
    holding = f"from training.folder_lock import FolderLock\n{locked}"
    words = [sys.executable, "training/sweep.py", str(make("grid", {"values": [0.5, 1.0]})), f"--output={output}"]
    (tmp_path / "train.py").write_text(holding, encoding="utf-8")
    process = subprocess.Popen([*words, "--pause=2"], cwd=ROOT)
    while not (output / "trial-0000" / "metrics.csv").is_file():
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait(timeout=60)
    (tmp_path / "train.py").write_text(holding.replace("time.sleep", "id"), encoding="utf-8")
    assert sweep.main([*words[2:], "--pause=2"]) == 0
    assert "trial-0000: its process of before still runs" in capsys.readouterr().out
    assert [(row["trial"], row["state"]) for row in rows_of(output)] == [("1", "finished"), ("0", "finished")]
