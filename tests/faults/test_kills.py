"""Kill a run at random file operations, twice, and continue it: the bits are those of one that was not killed.

A child process that is forked here ends itself by ``os._exit`` in the middle of an operation that changes a file: no
handler and no ``finally`` runs, as after kill -9 or a power cut.
"""

import csv
import os
import random
from pathlib import Path

import pytest

from few_shot_nas.algorithms import ALGORITHMS
from training import run_experiment
from training.class_tables import load_tables
from training.cli import build_flags

KILLED = 77
TABLES = load_tables()
#: What makes a run small; a run gets those of the flags that its algorithm and its network have.
SMALL = {
    "width": 4, "space": "chain", "channels": 2, "cells": 2, "nodes": 1, "derive_candidates": 2, "derive_episodes": 1,
    "inner_steps": 1, "eval_inner_steps": 1, "inner_batch": 2, "train_query": 4, "flat_batch_size": 8, "repeats": 1,
    "regions_crops": 50, "meta_batch_size": 2, "n_query": 2, "log_every": 1, "prune_number": 2,
}  # fmt: skip
#: For searches that cannot take the smallest space; those by pruning end with their last candidate.
SPACES = {"MetaNAS": ["--space=darts_fewshot", "--cells=1"]}
SPACES |= {name: ["--space=nb201", "--max_meta_steps=8"] for name in ("MetaNTKNAS", "TENAS")}
QUICK = {("MAML", 0), ("MAMLENAS", 1), ("AutoMAML", 0), ("DARTS", 0)}


def flags_of(algorithm):
    """Return flags of the smallest run of any algorithm of the table."""
    taken = build_flags(TABLES, algorithm, TABLES.algorithms[algorithm].default_model, "Glyphs")
    small = [f"--{name}={value}" for name, value in SMALL.items() if name in taken]
    return [*small, f"--algorithm={algorithm}", *SPACES.get(algorithm, [])]


def kill_at(operation, torn):
    """Let this process end at the n-th operation that changes a file; a torn write leaves its first half."""
    left = [operation]

    def watched(name):
        whole = getattr(os, name)

        def call(*args, **settings):
            left[0] -= 1
            if left[0] < 0:
                os._exit(KILLED)
            return whole(*args, **settings)

        setattr(os, name, call)

    for name in ("replace", "fsync", "unlink", "mkdir"):
        watched(name)
    open_text = Path.open

    def opened(self, mode="r", *args, **settings):
        if "a" in mode and self.suffix == ".csv":
            left[0] -= 1
            if left[0] < 0:
                if torn:
                    with open_text(self, "a") as file:
                        file.write("3,0.12")
                os._exit(KILLED)
        return open_text(self, mode, *args, **settings)

    Path.open = opened


def rows(folder, name):
    path = Path(folder, name)
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [{k: v for k, v in row.items() if "seconds" not in k} for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    ("algorithm", "seed"),
    [
        pytest.param(name, seed, marks=() if (name, seed) in QUICK else pytest.mark.slow)
        for name in ALGORITHMS
        for seed in range(2)
    ],
)
def test_two_kills_at_random_file_operations_lose_nothing(tiny, in_child, algorithm, seed):
    flags = [word for word in tiny if not word.startswith(("--algorithm", "--width"))] + flags_of(algorithm)
    stream = random.Random(f"{algorithm}-{seed}")
    run_experiment.main([*flags, "--run_dir=whole"])
    kills = 0
    for _ in range(2):
        operation, torn = stream.randrange(40), stream.random() < 0.5

        def killed(operation=operation, torn=torn):
            kill_at(operation, torn)
            return run_experiment.main([*flags, "--run_dir=a", "--ckpt_path=auto"])

        code = in_child(killed)
        assert code in (KILLED, 0)
        kills += code == KILLED
    assert in_child(lambda: run_experiment.main([*flags, "--run_dir=a", "--ckpt_path=auto"])) == 0
    assert kills or seed
    for name in ("model.safetensors", "episodes.csv", "genotype.json"):
        if Path("whole", name).exists():
            assert Path("a", name).read_bytes() == Path("whole", name).read_bytes(), name
    for name in ("metrics.csv", "choices.csv"):
        assert rows("a", name) == rows("whole", name)
    assert not list(Path("a").rglob("*.part"))
