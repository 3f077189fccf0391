"""Whole runs with a flat start, early stopping and gap episodes, through ``main``."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from training import assemble, run_experiment

TINY = (
    "--width=4 --n_way=3 --n_query=4 --meta_batch_size=2 --max_meta_steps=4 --val_every=2 --val_episodes=3 "
    "--test_episodes=5 --log_every=1"
).split()
pytestmark = pytest.mark.usefixtures("workplace")


def run(*argv: str) -> None:
    assert run_experiment.main(argv) == 0


def read(run_dir: str) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Return results.json and the rows of metrics.csv."""
    with open(Path(run_dir, "metrics.csv"), newline="") as file:
        return json.loads(Path(run_dir, "results.json").read_text()), list(csv.DictReader(file))


@pytest.mark.parametrize("flat", ["RFS", "BaselinePlusPlus"])
def test_a_learner_of_episodes_starts_from_the_body_of_a_flat_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flat: str
) -> None:
    flags = [f"--algorithm={flat}", "--augment=none", "--flat_batch_size=8", "--test_episodes=0"]
    run(*TINY, *flags, "--max_meta_steps=2", "--run_dir=a", "--bn_mode=support")
    started: dict[str, torch.Tensor] = {}
    load = assemble.load_weights

    def watch(net: Any, path: str) -> None:
        own = {name: value.clone() for name, value in net.head.state_dict(prefix="head.").items()}
        load(net, path)
        started.update({name: value.clone() for name, value in net.state_dict().items()})
        assert all(torch.equal(value, started[name]) for name, value in own.items())

    monkeypatch.setattr(assemble, "load_weights", watch)
    capsys.readouterr()
    run(*TINY, "--max_meta_steps=1", "--run_dir=b", "--algorithm=ANIL", "--init_from=a/checkpoints/last.ckpt")
    saved = torch.load("a/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    body = [name for name in started if not name.startswith("head.")]
    assert body and all(torch.equal(started[name], saved[f"net.{name}"]) for name in body)
    lines = [line for line in capsys.readouterr().err.splitlines() if "--init_from" in line]
    there = "[6, 4]" if flat == "RFS" else "nothing"
    expected = "head.weight, head.bias left at their own start: head.weight needs [3, 4] and the file has"
    assert f"{expected} {there}" in lines[0]
    assert lines[1:] == ["--init_from=a/checkpoints/last.ckpt: left out, for ANIL has no such: running statistics"]


def test_early_stopping_and_the_gap_are_flags_and_in_the_files_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    run(*TINY, "--max_meta_steps=40", "--run_dir=a", "--patience=1", "--gap_episodes=2", "--outer_lr=1e-12")
    results, rows = read("a")
    assert results["meta_steps"] == 4 and rows[-1]["meta_step"] == "4"
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("meta_step 4/40 |")]
    assert lines[-1].endswith("| stopped early at meta_step 4")
    for row in (row for row in rows if row["val/accuracy"]):
        assert float(row["val/gap"]) == float(row["train/eval_accuracy"]) - float(row["val/accuracy"])
        assert row["val/accuracy_step0"] and row["val/accuracy_step3"] == row["val/accuracy"]
    page = Path("a", "report.html").read_bytes()
    assert b"Accuracy by inner step" in page and b"Gap to the training classes" in page
