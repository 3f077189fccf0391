"""Two processes stop together, and one that is silent is named. Truth: signals sent from outside to one of them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from few_shot_nas.data.sources import SOURCES
from few_shot_nas.runtime.checkpoint import KEY, load_checkpoint

ROOT = Path(__file__).parents[2]
FLAGS = (
    "--algorithm=MAML --width=4 --n_way=2 --n_query=2 --meta_batch_size=2 --val_episodes=2 --test_episodes=2 "
    "--max_meta_steps=100000 --val_every=100000 --log_every=1 --accelerator=cpu --devices=2 --rank_timeout=20"
).split()
pytestmark = [pytest.mark.ddp, pytest.mark.slow]


def children(pid):
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(word) for word in found.stdout.split()]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """The packed images that all runs here share."""
    folder = tmp_path_factory.mktemp("cache")
    SOURCES["Glyphs"](cache_dir=str(folder)).prepare()
    return folder


@pytest.fixture
def training(tmp_path, cache):
    """A run of two ranks that has done a few meta-steps: the process of rank 0, and the pid of rank 1."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for name in ("MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "FSN_RUN_DIR"):
        environment.pop(name, None)
    command = [sys.executable, str(ROOT / "training/run_experiment.py"), *FLAGS, f"--cache_dir={cache}"]
    first = subprocess.Popen(
        [*command, "--run_dir=a"], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )
    metrics, deadline = tmp_path / "a/metrics.csv", time.monotonic() + 120
    while not (metrics.is_file() and metrics.read_text().count("\n") > 3):
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    (second,) = (pid for pid in children(first.pid) if "run_experiment" in Path(f"/proc/{pid}/cmdline").read_text())
    yield first, second
    for pid in (first.pid, second):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    first.wait()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_rank_stops_both_at_one_meta_step(training, tmp_path, rank):
    first, second = training
    os.kill((first.pid, second)[rank], signal.SIGTERM)
    _, err = first.communicate(timeout=60)
    assert first.returncode == 143
    assert "SIGTERM: stopped; last.ckpt is of meta-step" in err and "--run_dir=a --ckpt_path=last" in err
    assert load_checkpoint(tmp_path / "a/checkpoints/last.ckpt")[KEY]["meta_step"] >= 1
    deadline = time.monotonic() + 20
    while Path(f"/proc/{second}").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not Path(f"/proc/{second}").exists()


def test_a_suspended_rank_is_named_and_ended(training):
    first, second = training
    os.kill(second, signal.SIGSTOP)
    _, err = first.communicate(timeout=90)
    assert first.returncode == 2
    assert "error: rank 0 has had no answer from rank 1: it has ended, or was silent for 20 s (--rank_timeout)" in err
