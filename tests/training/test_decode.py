"""Decoding every task of a search, stopped and continued, and training each distinct genotype once.

Truth: the module's own ``decode``, called task by task; and episodes.csv files written by hand.
"""

import json
from collections import Counter
from pathlib import Path

import pytest

from few_shot_nas.spaces.genotype import Genotype
from few_shot_nas.errors import InputError
from few_shot_nas.report import compare_arms
from training import decode, decoded_arms, run_experiment

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


class Trainings:
    """Stands in for run_experiment.py: every network is right on the tasks whose genotype it has, and else never.

    A network that was drawn at random gets the share ``drawn`` of the queries right on every task.
    """

    def __init__(self, output: Path, drawn: float = 0.5) -> None:
        self.output, self.drawn, self.begun, self.flags = output, drawn, [], {}

    def __call__(self, words):
        self.flags = dict(word[2:].split("=", 1) for word in words)
        folder = Path(self.flags["run_dir"])
        folder.mkdir(parents=True)
        self.begun.append(folder.name)
        names = decode.read_decoded(self.output / "decoded.csv")
        other = 0.0 if folder.name in names.values() else self.drawn
        right = {task: 1.0 if name == folder.name else other for task, name in names.items()}
        rows = [f"{task},{mode},{right[task]},1.5,0 1" for task in names for mode in ("transductive", "support")]
        (folder / "episodes.csv").write_text("\n".join(["task_id,bn_mode,accuracy,loss,classes", *rows]) + "\n")
        (folder / "config.yaml").write_text(f"data_class: Glyphs\nrun_dir: {folder}\ngenotype: x.json\n")
        facts = {
            "algorithm": "ProtoNet", "model_class": "GenotypeNetwork", "data_class": "Glyphs", "n_way": 2, "k_shot": 1,
            "n_query": 2, "seed": int(self.flags["seed"]), "test_seed": 0, "regime": "scratch", "split": "test",
            "parameters": 100, "macs": 1000, "weights": folder.name, "wall_seconds": 1.0,
        }  # fmt: skip
        (folder / "results.json").write_text(json.dumps(facts))
        return 0


@pytest.fixture
def trainings(tmp_path, monkeypatch):
    stand_in = Trainings(tmp_path)
    monkeypatch.setattr(decode, "run_to_its_end", stand_in)
    return stand_in


def test_a_search_on_flat_batches_decodes_all_tasks_to_its_one_genotype(tmp_path, capsys):
    flat = [word for word in SEARCH if not word.startswith(("--algorithm", "--meta", "--train", "--inner", "--eval"))]
    run_experiment.main([*flat, "--algorithm=DARTS", "--flat_batch_size=8", f"--run_dir={tmp_path / 'd'}"])
    assert decode.main([f"--run_dir={tmp_path / 'd'}", "--tasks=2"]) == 0
    assert "2 tasks of test decode to 1 distinct genotypes" in capsys.readouterr().out


def test_the_page_of_the_run_tells_of_its_decoding(run, capsys):
    assert "Genotypes of single tasks" not in (run / "report.html").read_text()
    assert decode.main([f"--run_dir={run}", "--tasks=2"]) == 0
    assert f"report: {run / 'report.html'}" in capsys.readouterr().out
    assert "2 tasks of the test split decode to" in (run / "report.html").read_text()


def test_each_distinct_genotype_is_trained_once_and_scored_on_the_tasks(run, tmp_path, trainings, capsys):
    words = [f"--run_dir={run}", "--tasks=5", f"--output={tmp_path}", "--retrain=--algorithm=ProtoNet --width=7"]
    for _ in range(2):  # what is trained is not trained again
        assert decode.main(words) == 0
    summary = json.loads((tmp_path / "decoded.json").read_text())
    assert sorted(trainings.begun) == sorted(summary["counts"])
    assert summary["trainings_saved"] == 5 - summary["distinct"] and summary["failed"] == []
    expected = {"algorithm": "ProtoNet", "width": "7", "test_episodes": "5", "n_way": "2", "pad": "right", "seed": "0"}
    assert expected.items() <= trainings.flags.items()
    found = summary["accuracy"]["support"]
    often = max(summary["counts"].values()) / 5
    assert found["own"]["mean"] == 1.0 and found["most_often"]["mean"] == pytest.approx(often)
    assert found["difference"]["mean"] == pytest.approx(1 - often) and "random" not in found
    assert "(paired)" in capsys.readouterr().out


def test_own_most_frequent_and_random_genotypes_are_arms_that_can_be_compared(run, tmp_path, trainings, capsys):
    """The truth is that of the stand-in: 1 on own tasks, 0 on others; a random one that no task has gets a half."""
    words = [f"--run_dir={run}", "--tasks=5", f"--output={tmp_path}", "--retrain=--algorithm=ProtoNet", "--random=20"]
    assert decode.main([*words, f"--arms={tmp_path / 'arms'}"]) == 0
    summary = json.loads((tmp_path / "decoded.json").read_text())
    drawn, counts = summary["random"], summary["counts"]
    assert len(set(drawn)) == 20 and len(trainings.begun) == len({*drawn, *counts})
    assert {Genotype.load(tmp_path / "genotypes" / f"{name}.json").space for name in drawn} == {"chain"}

    names = decode.read_decoded(tmp_path / "decoded.csv")
    often = max(counts, key=counts.get)
    truth = {task: float(name == often) for task, name in names.items()}
    at_random = {task: sum(float(n == own) if n in counts else 0.5 for n in drawn) / 20 for task, own in names.items()}
    for arm, expected in (("own", dict.fromkeys(names, 1.0)), ("most_often", truth), ("random", at_random)):
        rows = decoded_arms.read_rows(tmp_path / "arms" / arm / "seed0")
        assert {task: rows[task, "support"].accuracy for task in names} == pytest.approx(expected), arm
        assert rows[0, "support"].classes == "0 1"
        kept = json.loads((tmp_path / "arms" / arm / "seed0" / "results.json").read_text())
        assert kept["parameters"] == 100 and "weights" not in kept and "wall_seconds" not in kept
        assert "genotype" not in (tmp_path / "arms" / arm / "seed0" / "config.yaml").read_text()
    gap = summary["accuracy"]["transductive"]["difference_random"]["mean"]
    assert gap == pytest.approx(1 - sum(at_random.values()) / 5)

    compared = compare_arms([str(tmp_path / "arms" / arm) for arm in ("own", "most_often", "random")], resamples=20)
    assert compared.arms == ("own", "most_often", "random") and compared.tasks == 5
    assert compared.contrasts[0].difference.mean == pytest.approx(100 * (sum(truth.values()) / 5 - 1))
    assert "random ones" in capsys.readouterr().out


def test_a_training_that_fails_is_said_and_tried_again(run, tmp_path, trainings, capsys, monkeypatch):
    words = [f"--run_dir={run}", "--tasks=5", f"--output={tmp_path}", "--retrain=--algorithm=ProtoNet"]
    failing = []

    def fails_at_second(given):
        failing.append(given)
        return 2 if len(failing) == 2 else trainings(given)

    monkeypatch.setattr(decode, "run_to_its_end", fails_at_second)
    assert decode.main(words) == 0
    summary = json.loads((tmp_path / "decoded.json").read_text())
    (failed,) = summary["failed"]
    assert failed not in trainings.begun and summary["trained"] == summary["distinct"] - 1
    assert f"not trained: {failed}; the same command tries again" in capsys.readouterr().out
    assert summary["accuracy"]["support"]["tasks"] == 5 - summary["counts"][failed]
    assert decode.main(words) == 0
    assert json.loads((tmp_path / "decoded.json").read_text())["failed"] == []


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--random=2"], "--random, --most and --arms say what is trained; give --retrain='FLAGS' too"),
        (["--retrain=--seed=5"], "--retrain has --seed, but the genotypes are scored on the tasks that were decoded, "
         "with seed=0; leave it out"),
        (["--retrain=--test_episodes=5"], "--retrain has --test_episodes"),
        (["--retrain=--algorithm=MAML", "--random=26", "--tasks=1"], "--random=26 given, but only 25 architectures of "
         "space chain"),
    ],
)  # fmt: skip
def test_a_mistake_in_what_is_trained_is_one_line(run, tmp_path, trainings, words, complaint, capsys):
    with pytest.raises(SystemExit) as stop:
        decode.main([f"--run_dir={run}", f"--output={tmp_path}", *words])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and complaint in error and error.count("\n") <= 2
    assert trainings.begun == []


def test_rows_that_no_run_wrote_are_one_line(tmp_path):
    (tmp_path / "episodes.csv").write_text("task_id,bn_mode\n1,support\n")
    with pytest.raises(InputError, match="is not what a run wrote .*; remove .* to train it again"):
        decoded_arms.read_rows(tmp_path)


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
