"""Flags of Lightning's Trainer mean here what their help says, or are no flags. Truth: what the run has done."""

import csv
import json
from pathlib import Path

import pytest

from training import evaluate, run_experiment


@pytest.mark.parametrize(
    "flag",
    [
        "limit_train_batches=0", "limit_train_batches=0.1", "limit_val_batches=0", "limit_val_batches=0.1",
        "limit_test_batches=0", "limit_test_batches=0.1", "limit_predict_batches=1", "overfit_batches=1",
    ],
)  # fmt: skip
def test_what_skips_or_repeats_tasks_is_no_flag(tiny, ended, flag):
    code, line = ended(*tiny, "--run_dir=a", f"--{flag}")
    assert code == 2 and line.startswith(f"error: --{flag}: not a flag here: ")
    assert not Path("a").exists()


def test_the_neutral_values_of_an_earlier_versions_config_are_passed_over(tiny):
    assert run_experiment.main([*tiny, "--run_dir=a", "--max_meta_steps=2"]) == 0
    with Path("a/config.yaml").open("a") as file:
        file.write("limit_train_batches: null\nlimit_test_batches: null\noverfit_batches: 0.0\n")
    assert evaluate.main(["--run_dir=a", "--output=b"]) == 0


def test_fast_dev_run_counts_meta_steps(tiny):
    assert run_experiment.main([*tiny, "--run_dir=a", "--fast_dev_run=2"]) == 0
    assert json.loads(Path("a/results.json").read_text())["meta_steps"] == 2
    assert not list(Path("a/checkpoints").iterdir())


def test_the_check_before_training_selects_nothing_and_writes_no_row(tiny):
    assert run_experiment.main([*tiny, "--run_dir=a", "--num_sanity_val_steps=1"]) == 0
    assert run_experiment.main([*tiny, "--run_dir=b"]) == 0
    with Path("a/metrics.csv").open(newline="") as file:
        assert [row["meta_step"] for row in csv.DictReader(file) if row["val/accuracy"]] == ["3", "6"]
    assert Path("a/model.safetensors").read_bytes() == Path("b/model.safetensors").read_bytes()
    assert Path("a/episodes.csv").read_bytes() == Path("b/episodes.csv").read_bytes()


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_a_run_in_another_precision_ends_with_its_report(tiny, precision):
    assert run_experiment.main([*tiny, "--run_dir=a", f"--precision={precision}", "--max_meta_steps=2"]) == 0
    assert Path("a/report.html").is_file() and Path("a/example.json").is_file()


def test_a_search_in_double_precision_derives(tiny):
    search = "--algorithm=ENAS --space=chain --channels=2 --cells=2 --derive_candidates=2 --derive_episodes=1".split()
    flags = [*search, *tiny[2:], "--max_meta_steps=2"]
    assert run_experiment.main([*flags, "--run_dir=a", "--precision=64-true"]) == 0
    assert Path("a/genotype.json").is_file()


def test_max_time_ends_training_and_tests(tiny):
    assert run_experiment.main([*tiny, "--run_dir=a", "--max_time=00:00:00:01", "--max_meta_steps=100000"]) == 0
    found = json.loads(Path("a/results.json").read_text())
    assert 0 < found["meta_steps"] < 100000 and found["test"]["support"]["episodes"] == 3
