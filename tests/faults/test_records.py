"""What a run says of itself is true, however it was continued. Truth: the flags given, and the run that was not."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from few_shot_nas.algorithms import MAML
from few_shot_nas.runtime.checkpoint import KEY, load_checkpoint
from few_shot_nas.runtime.seal import seal
from training import compare, evaluate, run_experiment, run_directory
from training.folder_lock import FolderLock

LAST = Path("a/checkpoints/last.ckpt")


def results(folder="a"):
    return json.loads(Path(folder, "results.json").read_text())


def run(*argv):
    assert run_experiment.main(list(argv)) == 0


# ---- flags that change ----------------------------------------------------------------------------------------------


def rates_used(monkeypatch):
    """Return the list that every meta-step adds the optimizer's settings to."""
    used = []
    whole = MAML.descend_outer

    def watched(self):
        whole(self)
        group = self._optimizer().param_groups[0]
        used.append((group["lr"], group["weight_decay"], self.inner.inner_lr))

    monkeypatch.setattr(MAML, "descend_outer", watched)
    return used


def test_a_changed_flag_takes_effect_and_is_recorded_for_its_leg_alone(tiny, monkeypatch):
    run(*tiny, "--max_meta_steps=2", "--run_dir=a")
    used = rates_used(monkeypatch)
    run(*tiny, "--max_meta_steps=4", "--run_dir=a", "--ckpt_path=last", "--outer_lr=0.5", "--weight_decay=0.1")
    assert used == [(0.5, 0.1, 0.4)] * 2
    run(*tiny, "--max_meta_steps=5", "--run_dir=a", "--ckpt_path=last", "--inner_lr=0.3")
    assert used[2:] == [(0.002, 0.0, 0.3)] or used[2][2] == 0.3
    legs = results()["legs"]
    assert [leg["meta_steps"] for leg in legs] == [[0, 2], [2, 4], [4, 5]]
    first, second, third = (leg["flags"] for leg in legs)
    config = yaml.safe_load(Path("a/config.yaml").read_text())
    assert first == {"inner_lr": 0.4, "max_meta_steps": 2} and third == {}
    assert second == {"outer_lr": 0.5, "weight_decay": 0.1, "inner_lr": 0.4, "max_meta_steps": 4}
    assert (config["inner_lr"], config["outer_lr"], config["max_meta_steps"]) == (0.3, first.get("outer_lr", 0.002), 5)
    note = [line for line in Path("a/config.yaml").read_text().splitlines() if line.startswith("#")]
    assert note[0] == "# These flags hold from meta-step 4 on."
    assert "Meta-steps 2 to 4 were trained with" in note[2] and "outer_lr=0.5" in note[2]


@pytest.mark.parametrize(
    ("algorithm", "change", "message"),
    [
        ("MAML", "--zero_head=false", "--zero_head=False: the run has had True so far, and it only says where learned"),
        ("MetaSGD", "--inner_lr=0.05", "--inner_lr=0.05: the run has had 0.1 so far, and it only says where learned"),
        ("MAML", "--init_from=a/model.safetensors", "--init_from=a/model.safetensors: says where a run starts"),
        ("MAML", "--max_meta_steps=1", "--max_meta_steps=1: checkpoint a/checkpoints/last.ckpt is of meta-step 2"),
    ],
)
def test_a_flag_that_cannot_take_effect_any_more_is_refused(tiny, ended, algorithm, change, message):
    flags = [*tiny, f"--algorithm={algorithm}", "--inner_lr=0.1", "--max_meta_steps=2", "--run_dir=a"]
    flags += ["--rate_init=constant"] if algorithm == "MetaSGD" else []
    run(*flags)
    before = {path: path.read_bytes() for path in Path("a").rglob("*") if path.is_file() and path.name != ".lock"}
    code, line = ended(*flags, "--ckpt_path=last", change)
    assert code == 2 and message in line
    assert before == {p: p.read_bytes() for p in Path("a").rglob("*") if p.is_file() and p.name != ".lock"}


def test_a_flag_that_reward_calls_are_counted_by_is_refused(tiny, ended):
    search = (
        "--algorithm=MAMLENAS --space=chain --channels=2 --cells=2 --derive_candidates=1 --derive_episodes=1 "
        "--n_query=4 --max_meta_steps=2 --run_dir=a"
    ).split()
    flags = [word for word in tiny if not word.startswith(("--width", "--algorithm"))] + search
    run(*flags)
    code, line = ended(*flags, "--max_meta_steps=4", "--ckpt_path=last", "--outer_archs=3")
    assert code == 2 and "--outer_archs=3: the run has had" in line and "reward calls" in line


# ---- time and places ------------------------------------------------------------------------------------------------


def test_seconds_of_training_add_up_and_those_of_tests_are_apart(tiny):
    run(*tiny, "--max_meta_steps=2", "--run_dir=a")
    first = results()
    run(*tiny, "--max_meta_steps=4", "--run_dir=a", "--ckpt_path=last")
    second = results()
    run(*tiny, "--max_meta_steps=4", "--run_dir=a", "--ckpt_path=last")  # a finished run, tested again
    third = results()
    assert first["wall_seconds"] < second["wall_seconds"] < third["wall_seconds"]
    assert second["wall_seconds"] == pytest.approx(sum(leg["seconds"] for leg in second["legs"]), rel=0.2)
    for found in (second, third):
        assert [leg["meta_steps"] for leg in found["legs"]] == [[0, 2], [2, 4]]
    assert evaluate.main(["--run_dir=a", "--output=again"]) == 0
    again = results("again")
    assert again["wall_seconds"] == third["wall_seconds"] and again["test_seconds"] > 0


def test_auto_starts_and_continues_by_one_command(tiny, ended, monkeypatch):
    Path("a").mkdir()
    Path("a/slurm-7.out").write_text("log of the shell")
    flags = [*tiny, "--run_dir=a", "--ckpt_path=auto"]
    run(*flags, "--max_meta_steps=2")
    run(*flags)
    assert results()["meta_steps"] == 6 and Path("a/slurm-7.out").read_text() == "log of the shell"
    with Path("a/metrics.csv").open(newline="") as file:
        assert [int(row["meta_step"]) for row in csv.DictReader(file) if row["train/loss"]] == [1, 2, 3, 4, 5, 6]
    LAST.unlink()
    Path("a/results.json").unlink()  # killed before its first checkpoint
    run(*flags)
    assert results()["meta_steps"] == 6
    LAST.write_bytes(b"")
    code, line = ended(*flags)
    assert code == 2 and "a/checkpoints/last.ckpt is damaged: it is empty" in line


def test_a_failed_start_beside_a_log_file_leaves_the_log_file(tiny, ended, monkeypatch):
    Path("a").mkdir()
    Path("a/nohup.out").write_text("log")
    monkeypatch.setattr(MAML, "update", lambda *_: (_ for _ in ()).throw(run_directory.InputError("diverged")))
    assert ended(*tiny, "--run_dir=a")[0] == 2
    assert [path.name for path in Path("a").iterdir()] == ["nohup.out"]


@pytest.mark.parametrize("flag", ["run_dir", "ckpt_path"])
def test_an_unset_variable_is_refused(tiny, ended, flag):
    code, line = ended(*tiny, f"--{flag}=")
    assert code == 2 and f"--{flag}=: is empty, as an unset variable is" in line
    if flag == "run_dir":
        assert "--run_dir=: is empty" in ended("--run_dir=", main=evaluate.main)[1]


def test_a_second_process_on_the_same_folder_is_refused(tiny, ended):
    run(*tiny, "--max_meta_steps=2", "--run_dir=a")
    script = (
        "import sys; from pathlib import Path; from training.folder_lock import FolderLock; "
        "FolderLock(Path('a')).acquire(); print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**__import__("os").environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert other.stdout.readline() == "held\n"
    code, line = ended(*tiny, "--run_dir=a", "--ckpt_path=last")
    assert code == 2 and f"--run_dir=a: another process writes there (process {other.pid} on " in line
    other.communicate()
    run(*tiny, "--run_dir=a", "--ckpt_path=last")
    with Path("a/metrics.csv").open(newline="") as file:
        assert sum(bool(row["train/loss"]) for row in csv.DictReader(file)) == 6


def test_a_child_that_a_killed_run_leaves_behind_does_not_keep_the_lock(tmp_path, in_child):
    lock = FolderLock(tmp_path)
    lock.acquire()
    assert in_child(lambda: 0) == 0  # a worker for data, which has inherited every open file
    lock.release()

    def other():
        FolderLock(tmp_path).acquire()

    assert in_child(other) == 0


def test_runs_that_start_in_the_same_second_take_the_next_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_directory.time, "strftime", lambda _: "20260101-000000")
    chosen = [run_directory.RunDirectory.choose(None, None, ("M", "N", "D")) for _ in range(3)]
    for directory in chosen:
        directory.make()
    assert [directory.path.name for directory in chosen] == [f"M-N-D-20260101-000000{end}" for end in ("", "-2", "-3")]
    for directory in chosen:
        directory.release()


# ---- checkpoints of another make ------------------------------------------------------------------------------------


def _edit(change):
    content = load_checkpoint(LAST)
    content.pop("few_shot_nas_sealed")
    change(content)
    torch.save(content, LAST)
    seal(LAST)


def _drop(*keys):
    def change(content):
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return change


def _set(value, *keys):
    def change(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        _drop("optimizer_states"), _drop("callbacks"), _drop("pytorch-lightning_version"), _drop("state_dict"),
        _drop("EpisodicDataModule"), _drop(KEY, "window"), _drop(KEY, "identity"), _drop("callbacks", "MetaCheckpoint"),
        _drop("state_dict", "net.head.weight"), _set([], "optimizer_states"), _set([{}], "optimizer_states"),
        _set("x", "callbacks"), _set("x", "pytorch-lightning_version"), _set(7, KEY, "window"),
        _set({"done": 9}, "EpisodicDataModule"), _set([3], "callbacks", "Legs", "legs"), _set("y", KEY, "waiting"),
        _set(torch.zeros(3), "state_dict", "net.head.weight"),
        _set(torch.zeros(3), "optimizer_states", 0, "state", 0, "exp_avg"),
    ],
)  # fmt: skip
def test_missing_and_odd_entries_are_one_line(tiny, ended, change):
    run(*tiny, "--max_meta_steps=2", "--run_dir=a")
    _edit(change)
    code, line = ended(*tiny, "--run_dir=a", "--ckpt_path=last")
    assert code == 2 and line.startswith("error: checkpoint a/checkpoints/last.ckpt")


@pytest.mark.parametrize("content", [b"", b"PK", b"x" * 500])
def test_every_reader_answers_a_broken_checkpoint_in_one_line(tiny, ended, content):
    run(*tiny, "--max_meta_steps=2", "--run_dir=a")
    for name in ("last", "best"):
        Path(f"a/checkpoints/{name}.ckpt").write_bytes(content)
    for argv in (
        ["--run_dir=a", "--ckpt_path=last"], ["--run_dir=b", "--ckpt_path=a/checkpoints/best.ckpt"],
        ["--run_dir=b", "--init_from=a/checkpoints/last.ckpt"],
    ):  # fmt: skip
        code, line = ended(*tiny, *argv)
        assert code == 2 and line.startswith("error: checkpoint a/checkpoints/")
    for name in ("last", "best"):
        code, line = ended("--run_dir=a", f"--checkpoint={name}", main=evaluate.main)
        assert code == 2 and line.startswith("error: checkpoint a/checkpoints/")


# ---- replicates -----------------------------------------------------------------------------------------------------


def test_one_network_under_several_seeds_is_no_repetition(tiny, ended):
    run(*tiny, "--max_meta_steps=2", "--run_dir=a")
    for seed in range(3):
        assert evaluate.main(["--run_dir=a", f"--seed={seed}", f"--output=arm/{seed}"]) == 0
        assert (results(f"arm/{seed}")["seed"], results(f"arm/{seed}")["test_seed"]) == (0, seed)
    assert len({results(f"arm/{seed}")["weights"] for seed in range(3)}) == 1
    assert results()["weights"] == results("arm/0")["weights"]
    code, line = ended("a", "arm", main=compare.main)
    assert code == 2 and "both have seed 0" in line
    for seed in range(3):  # and if someone writes another seed into them
        content = {**results(f"arm/{seed}"), "seed": seed}
        Path(f"arm/{seed}/results.json").write_text(json.dumps(content))
    code, line = ended("a", "arm", main=compare.main)
    assert code == 2 and "are tests of one network" in line


def test_a_test_says_what_the_weights_were_trained_with_and_leaves_the_run_alone(tiny, ended):
    run(*tiny, "--max_meta_steps=2", "--run_dir=a")
    before = Path("a/results.json").read_bytes()
    assert evaluate.main(["--run_dir=a", "--outer_lr=3", "--output=b"]) == 0
    assert Path("b/config.yaml").read_text().startswith("# The weights were trained with outer_lr=0.002.\n")
    for place in ("a", "./a/", "a/../a"):
        code, line = ended("--run_dir=a", f"--output={place}", main=evaluate.main)
        assert code == 2 and "holds a run, whose results would be lost" in line
    assert Path("a/results.json").read_bytes() == before
    assert evaluate.main(["--run_dir=a", "--output=b"]) == 0  # an earlier test may be replaced


def test_a_run_that_is_being_written_is_not_called_one_to_delete(tiny, ended, in_child):
    Path("a/checkpoints").mkdir(parents=True)
    lock = FolderLock(Path("a"))
    lock.acquire()

    def other():
        code, line = ended(*tiny, "--run_dir=a")
        return 0 if code == 2 and "another process writes there" in line and "delete" not in line else 1

    assert in_child(other) == 0
    lock.release()
    code, line = ended(*tiny, "--run_dir=a")
    assert code == 2 and "delete it" in line


def test_tests_on_tasks_of_different_seeds_are_not_paired(tiny, ended):
    run(*tiny, "--max_meta_steps=2", "--run_dir=a")
    assert evaluate.main(["--run_dir=a", "--seed=5", "--output=b"]) == 0
    code, line = ended("a", "b", main=compare.main)
    assert code == 2 and "were tested on different tasks: drawn by seed 0 and 5" in line
