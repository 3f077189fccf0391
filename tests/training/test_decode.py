"""Decoding every task of a search, stopped and continued, and training each distinct genotype once.

Truth: the module's own ``decode``, called task by task; and episodes.csv files written by hand.
"""

import json
from collections import Counter
from pathlib import Path

import pytest

from few_shot_nas.spaces.genotype import Genotype
from few_shot_nas.errors import InputError
from training import decode, run_experiment

SEARCH = [
    "--algorithm=TNAS", "--data_class=Glyphs", "--space=chain", "--cells=2", "--channels=2", "--n_way=2", "--n_query=2",
    "--meta_batch_size=1", "--train_query=2", "--inner_steps=1", "--eval_inner_steps=2", "--alpha_inner_lr=3000",
    "--max_meta_steps=1", "--val_episodes=1", "--test_episodes=2", "--decode_episodes=1", "--enable_progress_bar=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished search of one meta-step, whose alphas move far within a task."""
    folder = tmp_path_factory.mktemp("search") / "s"
    run_experiment.main([*SEARCH, f"--run_dir={folder}"])
    return folder


def test_every_task_is_decoded_once_and_a_stopped_command_goes_on(run, tmp_path, monkeypatch, capsys):
    assert decode.main([f"--run_dir={run}", "--tasks=5", f"--output={tmp_path / 'whole'}"]) == 0
    whole = decode.read_decoded(tmp_path / "whole" / "decoded.csv")
    assert len(whole) == 5

    out = tmp_path / "parts"
    assert decode.main([f"--run_dir={run}", "--tasks=2", f"--output={out}"]) == 0
    kept = out / "decoded.csv"
    kept.write_text(kept.read_text() + "4,abc")  # a row that a kill has cut short
    assert decode.main([f"--run_dir={run}", "--tasks=5", f"--output={out}"]) == 0
    assert decode.read_decoded(kept) == whole

    summary = json.loads((out / "decoded.json").read_text())
    counts = Counter(whole.values())
    assert summary["counts"] == dict(counts.most_common()) and summary["distinct"] == len(counts) > 1
    for name in counts:
        genotype = Genotype.load(out / "genotypes" / f"{name}.json")
        assert decode.digest(genotype.to_json()) == name and genotype.space == "chain"
    assert f"5 tasks of test decode to {len(counts)} distinct genotypes" in capsys.readouterr().out


def test_each_distinct_genotype_is_trained_once_and_scored_on_the_tasks(run, tmp_path, monkeypatch, capsys):
    trained = []

    def stand_in(command, check):
        flags = dict(word[2:].split("=", 1) for word in command[2:])
        folder = Path(flags["run_dir"])
        folder.mkdir(parents=True)
        trained.append(folder.name)
        names = decode.read_decoded(tmp_path / "decoded.csv")
        modes = ("transductive", "support")
        rows = [f"{task},{mode},{float(names[task] == folder.name)},1" for task in names for mode in modes]
        (folder / "episodes.csv").write_text("\n".join(["task_id,bn_mode,accuracy,loss", *rows]) + "\n")
        (folder / "results.json").write_text("{}")
        assert flags["algorithm"] == "ProtoNet" and flags["test_episodes"] == "5" and flags["n_way"] == "2"
        assert flags["pad"] == "right"
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr(decode.subprocess, "run", stand_in)
    words = [f"--run_dir={run}", "--tasks=5", f"--output={tmp_path}", "--retrain=--algorithm=ProtoNet"]
    for _ in range(2):  # what is trained is not trained again
        assert decode.main(words) == 0
    summary = json.loads((tmp_path / "decoded.json").read_text())
    assert sorted(trained) == sorted(summary["counts"])
    assert summary["trainings_saved"] == 5 - summary["distinct"]
    found = summary["accuracy"]["support"]
    often = max(summary["counts"].values()) / 5
    assert found["own"]["mean"] == 1.0 and found["most_often"]["mean"] == pytest.approx(often)
    assert found["difference"]["mean"] == pytest.approx(1 - often)
    assert "(paired)" in capsys.readouterr().out


def test_a_run_without_alphas_is_refused(tmp_path, capsys):
    small = ["--width=4", "--n_way=2", "--n_query=2", "--meta_batch_size=1", "--val_episodes=1", "--test_episodes=2"]
    run_experiment.main([*small, "--max_meta_steps=1", f"--run_dir={tmp_path / 'm'}", "--enable_progress_bar=false"])
    with pytest.raises(SystemExit) as stop:
        decode.main([f"--run_dir={tmp_path / 'm'}"])
    assert stop.value.code == 2 and "is a run of MAML, which learns no alphas" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"\xff\n", b"task_id,genotype\nx,abc\n", b"genotype\nabc\n"])
def test_rows_that_no_decoding_wrote_are_one_line(tmp_path, content):
    (tmp_path / "decoded.csv").write_bytes(content)
    with pytest.raises(InputError, match="is not what a decoding wrote .*; remove it to decode again"):
        decode.read_decoded(tmp_path / "decoded.csv")
