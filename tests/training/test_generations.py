"""RFS from the command line: generations are taught, continued with the same bits and tested by themselves; support
augmentation is scored beside its absence. Truth: runs that were not stopped, and tests of one kind alone."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from tests.training.photos import write_classes
from training import evaluate, run_experiment

pytestmark = pytest.mark.usefixtures("tiny_search")
RFS = (
    "--algorithm=RFS --model_class=Conv4 --width=4 --n_way=3 --n_query=2 --k_shot=2 --flat_batch_size=6 "
    "--max_meta_steps=4 --val_every=2 --val_episodes=2 --test_episodes=3 --save_every=2 --probe_cs=0.1,10"
).split()


def results(folder: str) -> dict:
    return json.loads(Path(folder, "results.json").read_text(encoding="utf-8"))


def accuracies(folder: str, mode: str) -> list[float]:
    rows = csv.DictReader(Path(folder, "episodes.csv").read_text(encoding="utf-8").splitlines())
    return [float(row["accuracy"]) for row in rows if row["bn_mode"] == mode]


def saved(run: str) -> dict[str, torch.Tensor]:
    return torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True)["state_dict"]


def error_of(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        run_experiment.main(argv)
    assert ended.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_two_generations_are_trained_continued_and_tested(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_experiment.main([*RFS, "--run_dir=first"]) == 0
    assert results("first")["chosen_on_val"]["probe_c"] in (0.1, 10.0)
    assert {"running", "tuned_running"} <= set(results("first")["test"])
    assert "val/accuracy_c0.1" in Path("first/metrics.csv").read_text(encoding="utf-8").splitlines()[0]

    taught = [*RFS, "--teacher=first", "--test_checkpoint=last"]
    assert run_experiment.main([*taught, "--run_dir=second"]) == 0
    header = Path("second/metrics.csv").read_text(encoding="utf-8").splitlines()[0]
    assert "train/distill_loss" in header
    assert run_experiment.main([*taught, "--run_dir=halved", "--max_meta_steps=2"]) == 0
    assert run_experiment.main([*taught, "--run_dir=halved", "--ckpt_path=last"]) == 0
    states = [saved(run) for run in ("second", "halved")]
    assert states[0].keys() == states[1].keys() and not any("teacher" in name for name in states[0])
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())

    other = [word for word in taught if not word.startswith("--teacher")]
    assert run_experiment.main([*other, "--seed=1", "--run_dir=stranger"]) == 0
    again = [*other, "--run_dir=halved", "--max_meta_steps=6", "--ckpt_path=last"]
    line = error_of([*again, "--teacher=stranger"], capsys)
    assert "belongs to another run: teacher=" in line

    shutil.rmtree("first")  # what was learned is in the student
    assert evaluate.main(["--run_dir=second", "--episodes=2"]) == 0
    assert "first: has no model.json" in error_of([*taught, "--run_dir=third"], capsys)
    line = error_of([*RFS, "--teacher=second", "--image_size=20", "--run_dir=third"], capsys)
    assert "--teacher=second: reads images as" in line


def test_one_test_scores_the_same_tasks_with_and_without_support_copies() -> None:
    for split in ("train", "val", "test"):
        write_classes(Path("photos") / split, {f"{split}{c}": c / 6 for c in range(6)}, 8, (32, 32))
    flags = (
        "--data_class=ImageFolder --data_dir=photos --cache_dir=cache --image_size=32 --support_copies=3 --k_shot=2 "
        "--n_query=5 --test_episodes=12 --run_dir=copied"
    ).split()
    assert run_experiment.main([*RFS, *flags]) == 0
    found = results("copied")["test"]
    assert set(found) >= {f"{without}{tuned}running" for without in ("", "no_copies_") for tuned in ("", "tuned_")}
    again = ["--run_dir=copied", "--support_copies=0", "--output=plain"]
    assert evaluate.main(again) == 0
    for name in ("running", "tuned_running"):
        assert found[f"no_copies_{name}"]["accuracy"] == results("plain")["test"][name]["accuracy"]
        differences = np.subtract(accuracies("copied", f"no_copies_{name}"), accuracies("copied", name))
        half = stats.t.ppf(0.975, 11) * stats.sem(differences)
        expected = {"accuracy": pytest.approx(differences.mean()), "ci95": pytest.approx(half)}
        assert found[f"no_copies_{name}"]["minus"] == {name: expected} and "minus" not in found["running"]
    page = Path("copied/report.html").read_text(encoding="utf-8")
    assert "points, same tasks" in page and "to tuned_running" in page
    assert "points, same tasks" not in Path("s/report.html").read_text(encoding="utf-8")
