"""A run that is killed with SIGKILL and continued from the command line ends with the bits of one that was not."""

import csv
import os
import signal
import subprocess
import sys
import time
from functools import cache

import pytest
import torch
from safetensors.torch import load_file

from few_shot_nas.runtime.checkpoint import load_checkpoint
from training.run_experiment import main

SCRIPT = "training/run_experiment.py"


def kill_after_checkpoint(arguments, run_dir, meta_step):
    """Start a run and kill it as soon as a checkpoint of ``meta_step`` or later is there."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, SCRIPT, *arguments], env=environment, stderr=subprocess.DEVNULL)
    last = run_dir / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not (last.is_file() and load_checkpoint(last)["few_shot_nas"]["meta_step"] >= meta_step):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()


def losses(run_dir):
    with open(run_dir / "metrics.csv", newline="") as file:
        return {int(row["meta_step"]): row["train/loss"] for row in csv.DictReader(file) if row["train/loss"]}


STEPS = {"MAML": 40, "MAMLENAS": 16}


@pytest.fixture(scope="module")
def uninterrupted(flags, tmp_path_factory):
    """Return the folder of a whole run without workers of an algorithm; it is made once."""

    @cache
    def run(algorithm):
        folder = tmp_path_factory.mktemp(algorithm) / "whole"
        main(flags(algorithm, folder, STEPS[algorithm], val_every=10))
        return folder

    return run


@pytest.mark.parametrize(("algorithm", "num_workers"), [("MAML", 0), ("MAML", 2), ("MAMLENAS", 0), ("MAMLENAS", 2)])
def test_kill_and_continue_equals_an_uninterrupted_run(algorithm, num_workers, uninterrupted, flags, tmp_path):
    steps, whole, killed = STEPS[algorithm], uninterrupted(algorithm), tmp_path / "killed"
    words = flags(algorithm, killed, steps, num_workers=num_workers, val_every=10)
    kill_after_checkpoint(words, killed, 4)
    main([*words, "--ckpt_path=last"])
    expected, found = load_file(whole / "model.safetensors"), load_file(killed / "model.safetensors")
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[key]) for key, value in expected.items())
    assert losses(whole) == losses(killed) and len(losses(whole)) == steps
    assert (whole / "episodes.csv").read_text() == (killed / "episodes.csv").read_text()
    if algorithm == "MAMLENAS":
        assert (whole / "genotype.json").read_text() == (killed / "genotype.json").read_text()
        assert (whole / "choices.csv").read_text() == (killed / "choices.csv").read_text()
        assert (whole / "choices.csv").read_text().count("\n") == 1 + steps


@pytest.mark.parametrize(("algorithm", "more"), [("MAML", {}), ("MAML", {"engine": "folded"}), ("MAMLENAS", {})])
def test_a_finished_run_of_6_continued_in_a_new_folder_to_12_equals_a_run_of_12(algorithm, more, flags, tmp_path):
    main(flags(algorithm, tmp_path / "six", 6, **more))
    main([*flags(algorithm, tmp_path / "on", 12, **more), f"--ckpt_path={tmp_path}/six/checkpoints/last.ckpt"])
    main(flags(algorithm, tmp_path / "twelve", 12, **more))
    one, other = (load_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("on", "twelve"))
    assert one["few_shot_nas"]["meta_step"] == 12
    assert all(torch.equal(value, other["state_dict"][key]) for key, value in one["state_dict"].items())
