"""The plain loop that engines are timed against computes what they compute; and the script runs."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import baseline, data, proto_net, rounding, run, tnas
from benchmarks.contestants import ours
from benchmarks.work import TINY, Work
from few_shot_nas.algorithms.settings import InnerLoop
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


def test_the_published_loop_of_t_nas_gives_the_gradient_of_the_learner():
    batch, inner = tnas.meta_batch(24, 2, 1, torch.float64), InnerLoop(inner_lr=0.01, inner_steps=2, first_order=True)
    nets = [tnas.search_network(24, channels=2, nodes=2).double() for _ in range(2)]
    tnas.published_step(nets[0], batch, inner, 30.0)
    tnas.our_step(nets[1], batch, inner)
    for (name, expected), found in zip(nets[0].named_parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=0, atol=1e-9, msg=name)
    assert float(nets[0].alphas["normal"].grad.abs().max()) > 1e-6


def test_a_row_has_the_times_of_all_and_says_what_failed():
    row = run.measure(TINY["tiny ANIL"], torch.device("cpu"), ["unroll", "folded"], [], repeats=1, clock="cpu")
    assert set(row["contestants"]) == {"plain loop", "unroll", "folded"} and not row["failed"]
    assert row["gflop"] > 0 and all(entry["ms"] > 0 for entry in row["contestants"].values())
    assert row["contestants"]["folded"]["times plain loop"] > 0


def test_a_row_has_the_memory_that_a_step_needs_at_its_peak():
    peak = run.Peak(torch.device("cpu"))
    kept = torch.ones(2**22)  # 16 MiB
    assert peak.mib() is None or peak.mib() > 0.9 * kept.numel() * 4 / 2**20


def test_tasks_of_proto_net_together_give_the_gradient_that_they_give_one_by_one():
    work = replace(TINY["tiny second order"], tasks=3)
    batch = Episode(*(v.double() if v.is_floating_point() else v for v in work.batch(torch.device("cpu"))[:4]))
    nets = [work.net().double() for _ in range(2)]
    losses = [way(net, batch) for way, net in zip((proto_net.one_by_one, proto_net.together), nets, strict=True)]
    assert float(losses[0]) == pytest.approx(float(losses[1]), abs=1e-9)
    assert float(run.gradient_of(nets[0]).abs().max()) > 1e-3
    torch.testing.assert_close(run.gradient_of(nets[1]), run.gradient_of(nets[0]), rtol=0, atol=1e-9)


def test_what_is_swept_is_named(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["run.py", "--device", "cpu", "--sweep", "size,depth"])
    with pytest.raises(SystemExit):
        run.main()
    assert "--sweep=size,depth: depth is not one of inner_steps, tasks, n_way, size" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("program", "words", "complaint"),
    [
        (rounding, ["--tiny", "--task", "2"], "--task=2: the row has the tasks 0 to 1"),
        (proto_net, ["--rounds", "0"], "--rounds=0: at least one round is timed"),
    ],
)
def test_a_number_that_cannot_be_is_one_line(program, words, complaint, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["program", *words])
    with pytest.raises(SystemExit):
        program.main()
    assert complaint in capsys.readouterr().err


def test_both_loaders_of_the_data_row_give_tasks_of_its_shape(tmp_path):
    found = data.episodes_per_second(str(tmp_path), batches=2, rounds=1, clock="cpu", size=8)
    assert found["times"] > 0 and found["data module"] > 0
    images = np.random.default_rng(0).integers(0, 256, (6, 20, 8, 8, 3), dtype=np.uint8)
    support_x, support_y, query_x, query_y = data.TasksOneByOne(images, (0.5,) * 3, (0.5,) * 3, 2)[0]
    assert support_x.shape == (5, 3, 8, 8) and query_x.shape == (75, 3, 8, 8)
    assert support_y.tolist() == list(range(5)) and query_y.bincount().tolist() == [15] * 5


def test_the_shell_s_row_is_a_fit_less_a_loop(tmp_path):
    found = data.shell_ms(str(tmp_path), steps=10, rounds=1, clock="cpu")
    assert set(found) == {"fit", "bare", "loop", "shell", "lightning"}
    assert found["shell"] == pytest.approx(found["fit"] - found["loop"])
    assert found["lightning"] == pytest.approx(found["bare"] - found["loop"])


def test_rounding_is_measured_against_float64_and_under_a_nudge(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["rounding.py", "--tiny", "--nudges", "1"])
    assert rounding.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["task 0", "task 1", "task 0, nudged"]
    errors = [float(word.rstrip(",")) for word in lines[0].split() if "e-" in word]
    assert len(errors) == 2 and max(errors) < 1e-3 and "float64 moved by" in lines[2]
