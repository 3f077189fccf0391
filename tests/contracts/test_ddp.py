"""Two processes give the gradient, the weights and the test scores of one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from few_shot_nas.meta.statistics import mean_ci

SCRIPT = Path(__file__).with_name("run_ranks.py")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


CASES = ["MAML:second", "MAML:first", "MAMLENAS:second", "RandomSearch:first"]


@pytest.fixture(scope="module")
def results(blobs, tmp_path_factory):
    """Run every case on one process and on two, each in one go: most of the time is imports."""
    out = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    for prefix in ([sys.executable], TORCHRUN):
        command = [*prefix, str(SCRIPT), str(blobs.cache_dir), str(out), *CASES]
        done = subprocess.run(command, env=environment, timeout=250, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.ddp
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_equal_one_process(case, results):
    stem = case.replace(":", "-")
    one, first, second = (torch.load(results / f"{stem}-{file}.pt") for file in ("0of1", "0of2", "1of2"))

    used = [key for key, gradient in one["gradients"].items() if gradient is not None]
    assert used and max(float(one["gradients"][key].abs().max()) for key in used) > 1e-4
    for rank in (first, second):
        assert [key for key, gradient in rank["gradients"].items() if gradient is not None] == used
        for key in used:
            torch.testing.assert_close(rank["gradients"][key], one["gradients"][key], rtol=0, atol=1e-6, msg=key)
    for key, value in first["state"].items():
        assert torch.equal(value, second["state"][key]), key

    assert first["rows"] == second["rows"] and len(one["rows"]) == 2 * 7
    for mine, theirs in zip(one["rows"], first["rows"], strict=True):
        assert (mine["task_id"], mine["bn_mode"], mine["accuracy"]) == (
            theirs["task_id"], theirs["bn_mode"], theirs["accuracy"]
        )  # fmt: skip
    scores = [
        mean_ci([row["accuracy"] for row in part["rows"] if row["bn_mode"] == "support"]) for part in (one, first)
    ]
    assert scores[0] == scores[1] and scores[0].n == 7
