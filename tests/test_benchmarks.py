"""The plain loop that engines are timed against computes what they compute; and the script runs."""

from dataclasses import replace

import pytest
import torch

from benchmarks import baseline, run
from benchmarks.contestants import ours
from benchmarks.work import TINY, Work
from few_shot_nas.episode import Episode

WORKS = {
    **TINY,
    "tiny first order": replace(TINY["tiny second order"], first_order=True),
    "unpadded": Work(1, 28, 3, "unpadded", n_query=1, tasks=2, inner_steps=2),
}


@pytest.mark.parametrize("name", WORKS)
def test_the_plain_loop_gives_the_gradient_of_an_engine(name):
    work = WORKS[name]
    batch = Episode(*(value.double() if value.is_floating_point() else value for value in work.batch("cpu")[:4]))
    nets = [work.net().double() for _ in range(2)]
    baseline.meta_gradient(work, nets[0], batch)
    ours(work, nets[1], batch, "folded")()
    for expected, found in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=0, atol=1e-9)
    assert max(float(parameter.grad.abs().max()) for parameter in nets[0].parameters()) > 1e-3


def test_a_row_has_the_times_of_all_and_says_what_failed():
    row = run.measure(TINY["tiny ANIL"], torch.device("cpu"), ["unroll", "folded"], [], repeats=1, clock="cpu")
    assert set(row["contestants"]) == {"plain loop", "unroll", "folded"} and not row["failed"]
    assert row["gflop"] > 0 and all(entry["ms"] > 0 for entry in row["contestants"].values())
    assert row["contestants"]["folded"]["times plain loop"] > 0
