"""Kill a run at random file operations, twice, and continue it: the bits are those of one that was not killed.

A child process that is forked here ends itself by ``os._exit`` in the middle of an operation that changes a file: no
handler and no ``finally`` runs, as after kill -9 or a power cut.
"""

import csv
import os
import random
from pathlib import Path

import pytest

from training import run_experiment

KILLED = 77
SEARCH = "--space=chain --channels=2 --cells=2 --derive_candidates=2 --derive_episodes=1 --n_query=4".split()
GRADIENT = [*(word for word in SEARCH if not word.startswith("--derive")), "--train_query=4"]
FLAT = ["--flat_batch_size=8"]
FLAGS = {
    "MAML": ["--width=4"], "ANIL": ["--width=4"], "BOIL": ["--width=4"], "MetaSGD": ["--width=4"],
    "MAMLPlusPlus": ["--width=4"], "Reptile": ["--width=4"], "ProtoNet": ["--width=4"], "MatchingNet": ["--width=4"],
    "RFS": ["--width=4", *FLAT], "Baseline": ["--width=4", *FLAT], "BaselinePlusPlus": ["--width=4", *FLAT],
    "SimpleShot": ["--width=4", *FLAT], "ENAS": SEARCH, "MAMLENAS": SEARCH, "RandomSearch": SEARCH, "TNAS": GRADIENT,
}  # fmt: skip
QUICK = {("MAML", 0), ("MAMLENAS", 1)}


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
        return [{k: v for k, v in row.items() if k != "train/seconds"} for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    ("algorithm", "seed"),
    [
        pytest.param(name, seed, marks=() if (name, seed) in QUICK else pytest.mark.slow)
        for name in FLAGS
        for seed in range(2)
    ],
)
def test_two_kills_at_random_file_operations_lose_nothing(tiny, in_child, algorithm, seed):
    flags = [word for word in tiny if not word.startswith(("--algorithm", "--width"))]
    flags += [f"--algorithm={algorithm}", *FLAGS[algorithm]]
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
