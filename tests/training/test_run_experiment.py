"""Whole runs through ``main``, on images small enough for seconds, and every way to end before one."""

import csv
import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from training import assemble, compare, evaluate, report, run_experiment, wandb_logging

TINY = (
    "--width=4 --n_way=3 --n_query=4 --meta_batch_size=2 --max_meta_steps=4 --val_every=2 --val_episodes=3 "
    "--test_episodes=5 --log_every=1"
).split()
SEARCH = (
    "--algorithm=RandomSearch --space=chain --channels=2 --n_way=3 --n_query=4 --meta_batch_size=2 --max_meta_steps=2 "
    "--val_every=2 --val_episodes=3 --test_episodes=5 --random_archs=3 --derive_candidates=2 --derive_episodes=2 "
    "--rewards_per_task=1"
).split()
Main = Callable[..., int]
pytestmark = pytest.mark.usefixtures("workplace")


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs ``main``, expects exit code 2 and one line, and returns the line."""

    def check(*argv: str, main: Main = run_experiment.main) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(argv)
        assert ended.value.code == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
        assert len(lines) == 1
        return lines[0]

    return check


def run(*argv: str) -> None:
    assert run_experiment.main(argv) == 0


def metrics(run_dir: str) -> list[dict[str, str]]:
    with Path(run_dir, "metrics.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def without_times(run_dir: str) -> list[dict[str, str]]:
    return [{name: cell for name, cell in row.items() if name != "train/seconds"} for row in metrics(run_dir)]


def read(*parts: str) -> bytes:
    return Path(*parts).read_bytes()


# ---- a run ----------------------------------------------------------------------------------------------------------


def test_a_run_leaves_every_file_of_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    run(*TINY, "--run_dir=a")
    files = {path.name for path in Path("a").iterdir()}
    assert {"config.yaml", "metrics.csv", "episodes.csv", "results.json", "model.safetensors", "report.html"} <= files
    assert {path.name for path in Path("a/checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}
    assert not [path for path in Path("a").rglob("*.part")]
    results = json.loads(read("a", "results.json"))
    expected = {"algorithm": "MAML", "model_class": "Conv4", "n_way": 3, "meta_steps": 4, "split": "test", "seed": 0}
    assert {name: results[name] for name in expected} == expected
    assert (results["regime"], results["checkpoint"]) == ("scratch", "best")
    assert results["command"].endswith("--run_dir=a")
    with Path("a/episodes.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for mode in ("transductive", "support"):
        accuracies = [float(row["accuracy"]) for row in rows if row["bn_mode"] == mode]
        assert results["test"][mode]["episodes"] == len(accuracies) == 5
        assert results["test"][mode]["accuracy"] == pytest.approx(sum(accuracies) / 5)
    shown = json.loads(read("a", "example.json"))
    (row,) = [row for row in rows if (row["task_id"], row["bn_mode"]) == (str(shown["task_id"]), shown["bn_mode"])]
    assert shown["right"] / shown["queries"] == pytest.approx(float(row["accuracy"]))
    assert len(shown["classes"]) == len(set(shown["classes"])) == 3
    by_class = json.loads(read("a", "classes.json"))
    right, asked = (sum(found[key] for found in by_class["classes"]) for key in ("right", "queries"))
    assert right / asked == pytest.approx(results["test"][by_class["bn_mode"]]["accuracy"])
    assert sum(pair["answered"] for pair in by_class["pairs"]) == asked - right
    assert b"An example" in read("a", "report.html") and b"Hardest classes" in read("a", "report.html")
    assert [row["meta_step"] for row in metrics("a")] == ["1", "2", "2", "3", "4", "4"]
    assert "transductive" in capsys.readouterr().out


def test_the_saved_configuration_repeats_the_run_bit_for_bit() -> None:
    run(*TINY, "--run_dir=a", "--batch_size=2", "--first_order")
    assert yaml.safe_load(read("a", "config.yaml"))["first_order"] is True
    run("--config=a/config.yaml", "--run_dir=b")
    assert read("a", "model.safetensors") == read("b", "model.safetensors")
    assert read("a", "episodes.csv") == read("b", "episodes.csv")
    assert without_times("a") == without_times("b")
    assert read("a", "config.yaml") == read("b", "config.yaml")


def test_the_default_run_directory_is_under_runs() -> None:
    run(*TINY, "--max_meta_steps=2")
    (made,) = Path("runs").iterdir()
    assert made.name.startswith("MAML-Conv4-Glyphs-")


def test_last_continues_in_place_to_the_same_end_and_cuts_what_came_after_it() -> None:
    run(*TINY, "--run_dir=whole")
    run(*TINY, "--run_dir=a", "--max_meta_steps=2")
    with Path("a/metrics.csv").open("a", encoding="utf-8") as file:
        file.write("3" + "," * (len(metrics("a")[0]) - 1) + "\n")  # logged after the checkpoint, before a kill
    run(*TINY, "--run_dir=a", "--ckpt_path=last")
    assert read("a", "model.safetensors") == read("whole", "model.safetensors")
    assert read("a", "episodes.csv") == read("whole", "episodes.csv")
    assert without_times("a") == without_times("whole")
    assert yaml.safe_load(read("a", "config.yaml")).keys().isdisjoint({"run_dir", "ckpt_path"})


def test_a_run_continued_elsewhere_ends_the_same_and_leaves_the_first_alone() -> None:
    run(*TINY, "--run_dir=whole")
    run(*TINY, "--run_dir=a", "--max_meta_steps=2")
    before = read("a", "results.json")
    run(*TINY, "--run_dir=b", "--ckpt_path=a/checkpoints/last.ckpt")
    assert read("b", "model.safetensors") == read("whole", "model.safetensors")
    assert read("a", "results.json") == before
    assert yaml.safe_load(read("b", "config.yaml"))["ckpt_path"] == "a/checkpoints/last.ckpt"


def test_the_test_takes_the_weights_that_were_asked_for() -> None:
    run(*TINY, "--run_dir=a", "--test_checkpoint=last")
    assert json.loads(read("a", "results.json"))["checkpoint"] == "last"
    last = torch.load("a/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    from safetensors.torch import load_file

    saved = load_file("a/model.safetensors")
    assert all(torch.equal(last[f"net.{name}"], tensor) for name, tensor in saved.items())


def test_no_test_episodes_is_no_test() -> None:
    run(*TINY, "--max_meta_steps=2", "--run_dir=a", "--test_episodes=0")
    assert json.loads(read("a", "results.json"))["test"] == {}
    assert Path("a/report.html").is_file()


def test_weights_can_be_inherited_at_meta_step_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    run(*TINY, "--max_meta_steps=2", "--run_dir=a", "--test_checkpoint=last")
    started: list[torch.Tensor] = []
    build = assemble.build_parts

    def watch(*args: Any) -> Any:
        parts = build(*args)
        started.append(parts.net.head.weight.detach().clone())
        return parts

    monkeypatch.setattr(assemble, "build_parts", watch)
    run(*TINY, "--max_meta_steps=2", "--run_dir=b", "--init_from=a/model.safetensors")
    run(*TINY, "--max_meta_steps=2", "--run_dir=c", "--load_checkpoint=a/checkpoints/last.ckpt")
    last = torch.load("a/checkpoints/last.ckpt", weights_only=True)["state_dict"]["net.head.weight"]
    assert torch.equal(started[0], last)
    assert torch.equal(started[1], last)
    assert json.loads(read("b", "results.json"))["regime"] == "inherited"


def test_fast_dev_run_goes_through_all_stages() -> None:
    run(*TINY, "--run_dir=a", "--fast_dev_run")
    assert json.loads(read("a", "results.json"))["meta_steps"] == 1


def test_tensorboard_gets_the_run_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assemble, "tensorboard_is_installed", lambda: True)
    run(*TINY, "--max_meta_steps=2", "--run_dir=a")
    assert list(Path("a/tensorboard").glob("events.out.*"))


def test_without_wandb_installed_there_is_one_hint_and_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(wandb_logging, "wandb_is_installed", lambda: False)
    run(*TINY, "--max_meta_steps=2", "--run_dir=a", "--wandb")
    hints = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hint:")]
    assert len(hints) == 1
    assert "wandb is not installed" in hints[0]


def test_wandb_logs_beside_the_files() -> None:
    run(*TINY, "--max_meta_steps=2", "--run_dir=a", "--wandb")  # WANDB_MODE=disabled in tests
    assert len(metrics("a")) == 3


# ---- a search -------------------------------------------------------------------------------------------------------


def test_a_search_leaves_a_genotype_that_trains_like_any_network() -> None:
    run(*SEARCH, "--run_dir=s")
    results = json.loads(read("s", "results.json"))
    assert results["search"]["reward_calls"] > 0
    assert (results["regime"], results["checkpoint"]) == ("inherited", "last")
    tiny = [word for word in TINY if not word.startswith("--width")]
    run(*tiny, "--max_meta_steps=2", "--model_class=GenotypeNetwork", "--genotype=s/genotype.json", "--run_dir=g")
    assert read("g", "genotype.json") == read("s", "genotype.json")
    assert evaluate.main(["--run_dir=g"]) == 0
    Path("s").rename("moved")
    moved = ["--model_class=GenotypeNetwork", "--genotype=moved/genotype.json", "--run_dir=g", "--ckpt_path=last"]
    run(*tiny, "--max_meta_steps=3", *moved)
    trained = json.loads(read("g", "results.json"))
    assert (trained["parameters"], trained["macs"]) == (results["parameters"], results["macs"])


def test_a_search_is_not_tested_on_its_best_weights(fails: Callable[..., str]) -> None:
    assert "--test_checkpoint=best: RandomSearch searches" in fails(*SEARCH, "--test_checkpoint=best", "--run_dir=s")
    assert not Path("s").exists()


# ---- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--algorithm=MALM"], "--algorithm=MALM: unknown. Did you mean MAML?"),
        (["--inner_stepz=2"], "Did you mean --inner_steps?"),
        (["--n_way=5.0"], "--n_way=5.0: expected an int"),
        (["--gpus=2"], "--gpus=2: this machine has"),
        (["--accelerator=gpu", "--devices=99"], "--accelerator=gpu --devices=99: this machine has"),
        (["--strategy=fsdp"], "--strategy=fsdp: would not average"),
        (["--devices=none"], "--devices=none: expected auto"),
        (["--accelerator=quantum"], "--accelerator=quantum: expected one of"),
        (["--k_shot=7"], "class train-0 has 8 images"),
        (["--n_way=7"], "n_way=7"),
        (["--inner_steps=0"], "inner_steps=0"),
        (["--test_episodes=-1"], "test_episodes=-1"),
        (["--ckpt_path=last"], "a/checkpoints/last.ckpt does not exist"),
        (["--ckpt_path=gone.ckpt"], "gone.ckpt does not exist"),
        (["--init_from=gone.ckpt"], "gone.ckpt does not exist"),
        (["--init_from=gone.safetensors"], "--init_from=gone.safetensors: cannot be read"),
        (["--model_class=GenotypeNetwork", "--genotype=gone.json"], "gone.json"),
        (["--algorithm=MAMLENAS", "--model_class=Conv4"], "MAMLENAS searches a Supernet"),
        (["stray"], "unexpected argument 'stray'"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_folder(fails: Callable[..., str], argv: list[str], message: str) -> None:
    base = [] if any(word.startswith(("--model_class", "--algorithm=MAMLENAS")) for word in argv) else TINY
    line = fails(*base, "--run_dir=a", *argv)
    assert message in line
    assert list(Path.cwd().iterdir()) == []


def test_a_folder_with_a_run_is_refused_and_not_touched(fails: Callable[..., str]) -> None:
    run(*TINY, "--max_meta_steps=2", "--run_dir=a")
    before = {path: path.read_bytes() for path in Path("a").rglob("*") if path.is_file()}
    assert "--run_dir=a: holds another run; continue it with --ckpt_path=last" in fails(*TINY, "--run_dir=a")
    line = fails(*TINY, "--run_dir=a", "--ckpt_path=last", "--n_way=2")
    assert "n_way=3 there, 2 here" in line
    assert {path: path.read_bytes() for path in Path("a").rglob("*") if path.is_file()} == before
    line = fails(*TINY, "--run_dir=b", "--init_from=a/model.safetensors", "--width=5")
    assert "tensors of Conv4 do not fit" in line
    assert not Path("b").exists()


def test_what_goes_wrong_before_the_first_step_leaves_no_folder(
    fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from few_shot_nas.algorithms import MAML
    from few_shot_nas.errors import InputError

    def refuse(*_: Any) -> None:
        raise InputError("the inner loop diverged")

    monkeypatch.setattr(MAML, "training_step", refuse)
    assert "the inner loop diverged" in fails(*TINY, "--run_dir=a")
    assert list(Path.cwd().iterdir()) == []


def test_what_goes_wrong_later_keeps_what_was_written(
    fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from few_shot_nas.algorithms import MAML
    from few_shot_nas.errors import InputError

    step = MAML.training_step

    def refuse(self: Any, batch: Any, index: int) -> None:
        if self.meta_step == 3:
            raise InputError("the inner loop diverged")
        step(self, batch, index)

    monkeypatch.setattr(MAML, "training_step", refuse)
    assert "the inner loop diverged" in fails(*TINY, "--run_dir=a", "--save_every=1")
    assert Path("a/checkpoints/last.ckpt").is_file()


@pytest.mark.parametrize(
    "problem",
    [
        OSError(errno.ENOSPC, "No space left on device", "cache/Glyphs.npy"),
        RuntimeError("[enforce fail at inline_container.cc:664] . PytorchStreamWriter failed writing file"),
    ],
)
def test_a_full_disk_is_one_line(
    fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    def refuse(*_: Any) -> None:
        raise problem

    monkeypatch.setattr(assemble, "build_parts", refuse)
    assert "disk" in fails(*TINY, "--run_dir=a")
    assert list(Path.cwd().iterdir()) == []


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise KeyError("defect")

    monkeypatch.setattr(assemble, "build_parts", broken)
    with pytest.raises(KeyError, match="defect"):
        run_experiment.main([*TINY, "--run_dir=a"])


def test_answers_exit_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    run("--list")
    assert "RandomSearch" in capsys.readouterr().out
    run(*TINY, "--print_config")
    assert yaml.safe_load(capsys.readouterr().out)["n_way"] == 3
    assert list(Path.cwd().iterdir()) == []


# ---- evaluate and report --------------------------------------------------------------------------------------------


def test_evaluating_again_gives_the_same_numbers_and_changes_nothing(fails: Callable[..., str]) -> None:
    run(*TINY, "--run_dir=a")
    before = {path: path.read_bytes() for path in Path("a").rglob("*") if path.is_file()}
    assert evaluate.main(["--run_dir=a", "--output=again"]) == 0
    assert read("again", "episodes.csv") == read("a", "episodes.csv")
    assert evaluate.main(["--run_dir=a", "--episodes=7", "--test_split=val", "--checkpoint=last", "--output=more"]) == 0
    assert compare.main(["a", "again", "--resamples=20"]) == 0
    more = json.loads(read("more", "results.json"))
    assert (more["split"], more["test"]["support"]["episodes"], more["meta_steps"]) == ("val", 7, 4)
    assert "--checkpoint=gone: gone does not exist" in fails("--run_dir=a", "--checkpoint=gone", main=evaluate.main)
    assert "the head of MAML was trained for 3 ways" in fails("--run_dir=a", "--n_way=4", main=evaluate.main)
    assert {path: path.read_bytes() for path in Path("a").rglob("*") if path.is_file()} == before


def test_a_search_is_evaluated_on_its_genotype() -> None:
    run(*SEARCH, "--run_dir=s")
    assert evaluate.main(["--run_dir=s", "--output=again"]) == 0
    assert read("again", "episodes.csv") == read("s", "episodes.csv")
    again, first = (json.loads(read(folder, "results.json")) for folder in ("again", "s"))
    assert [again[key] for key in ("search", "regime", "macs")] == [first[key] for key in ("search", "regime", "macs")]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--run_dir=gone"], "--run_dir=gone: has no config.yaml"),
        ([], "the following arguments are required: --run_dir"),
    ],
)
def test_evaluating_what_is_not_there_is_one_line(fails: Callable[..., str], argv: list[str], message: str) -> None:
    assert message in fails(*argv, main=evaluate.main)


def test_reports_compare_runs(fails: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    run(*TINY, "--run_dir=a", "--max_meta_steps=2")
    run(*TINY, "--run_dir=b", "--max_meta_steps=2", "--seed=1")
    capsys.readouterr()
    assert report.main(["a", "b", "--output=compared"]) == 0
    assert Path("compared/report.html").is_file()
    out = capsys.readouterr().out
    assert " a " in out
    assert " b " in out
    assert "gone is not a run directory" in fails("a", "gone", main=report.main)
