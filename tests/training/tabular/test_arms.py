"""The commands on tables: analysis and arms, from files to files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from few_shot_nas.report import compare_arms, load_run
from few_shot_nas.spaces.chain import Chain
from few_shot_nas.tabular.selection import Selection
from few_shot_nas.tabular.reward_table import SCORES, RewardTable, empty_table
from training import compare
from training.tabular import analyse_table, arms

SPACE = Chain(channels=2, cells=2)
FACTS: dict[str, Any] = {
    "run": "s", "split": "val", "data_class": "Glyphs", "space": "chain", "channels": 2, "cells": 2, "nodes": 1,
    "architectures": 25, "seed": 0, "tasks": 30, "replicates": 2, "n_way": 5, "k_shot": 2, "n_query": 5,
    "head": "prototype", "bn_mode": "transductive", "precision": "32", "weights": "abc", "checkpoint": "last",
}  # fmt: skip
QUICK = "--controller=Factorised --budget=160 --ks=2 --estimators=fomaml --seeds=0,3 --output=out".split()
LADDER = ["--ladder", *(word for word in QUICK if not word.startswith(("--ks", "--estimators")))]


def make_table(seed: int, /, **facts: object) -> RewardTable:
    rng = np.random.default_rng(seed)
    table = empty_table(np.array(list(SPACE.enumerate())), 30, 2, 3, {**FACTS, **facts})
    effect = np.linspace(0, 0.3, 25)[:, None, None]
    for name, sign in (("accuracy", 1), ("loss", -1), ("loo_accuracy", 1), ("loo_loss", -1)):
        getattr(table, name)[:] = 0.5 + sign * effect + 0.01 * rng.random(table.shape)
    table.embedding[:] = rng.normal(size=(30, 3))
    return RewardTable(**{**vars(table), "done": 30})


@pytest.fixture(autouse=True)
def tables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two tables in the working directory."""
    monkeypatch.chdir(tmp_path)
    make_table(0).save(Path("val.npz"))
    make_table(1, split="test").save(Path("test.npz"))


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs a command, expects exit code 2 and one line, and returns the line."""

    def check(main: Callable[..., int], *argv: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(argv)
        assert ended.value.code == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
        assert len(lines) == 1
        return lines[0]

    return check


def run(*argv: str) -> None:
    assert arms.main(["--train_table=val.npz", "--test_table=test.npz", *QUICK, *argv]) == 0


def test_each_arm_and_seed_leaves_a_run_that_reports_can_read(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "150")  # processes of pytest-xdist have 80, which cuts names short
    run("--arms=A,B,F,C_random_ORACLE_K2")
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "A_uniform", "B_best_fixed", "C_random_ORACLE_K2", "F_fomaml_K2", "F_fomaml_K2_start",
    ]  # fmt: skip
    best = load_run("out/B_best_fixed/seed3")
    expected = make_table(1).accuracy[24].mean(1)
    np.testing.assert_allclose(best.episodes["transductive"].accuracy, expected, rtol=1e-6)
    assert best.results["search"] == {
        "reward_calls": 150, "reward_calls_search": 150, "reward_calls_per_task": 0,
    }  # fmt: skip
    adapted = load_run("out/F_fomaml_K2/seed0").results
    assert adapted["search"]["reward_calls"] == adapted["search"]["reward_calls_search"] + 30 * 2
    assert {"kl_adapt", "entropy_fraction", "grad_snr", "label_free"} <= set(adapted["arm"])
    identity = {"seed": 0, "weights": "abc", "tasks": 30, "replicates": 2}
    assert adapted["table"] == {**identity, "plant": 0.0, "plant_per": "none"}
    assert (adapted["split"], adapted["seed"], adapted["k_shot"]) == ("test", 0, 2)
    printed = capsys.readouterr().out
    assert "F_fomaml_K2" in printed and "ORACLE" in printed


def test_the_same_command_gives_the_same_episodes() -> None:
    run("--arms=F,E")
    before = {path: path.read_bytes() for path in Path("out").rglob("episodes.csv")}
    run("--arms=F,E")
    assert len(before) == 6 and all(path.read_bytes() == content for path, content in before.items())


def test_the_ladder_starts_at_one_sample_without_baseline() -> None:
    arms.main(["--train_table=val.npz", "--test_table=test.npz", *LADDER, "--seeds=0"])
    names = sorted(path.name for path in Path("out").iterdir())
    assert names[0] == "L0_original" and len([name for name in names if name[0] == "L"]) == 9
    assert {"R_without_per_task", "R_without_K4_loo"} < set(names)


def test_arms_of_one_table_are_compared_and_of_two_refused(fails: Callable[..., str]) -> None:
    run("--arms=A,B")
    pair = [f"out/{name}" for name in ("A_uniform", "B_best_fixed")]
    warnings = compare_arms(pair, resamples=50).warnings
    assert sum(text.startswith("seeds 0, 3 share one reward table") for text in warnings) == 1
    make_table(1, split="test", seed=4).save(Path("test.npz"))
    run("--arms=B", "--output=other")
    message = fails(compare.main, pair[0], "other/B_best_fixed")
    assert "seed 0 of out/A_uniform and of other/B_best_fixed" in message and "seed is 0 and 4" in message
    for number, split in enumerate(("val", "test")):
        table = make_table(number, split=split)
        table.source[::2] = 1  # a preference is planted in tasks of two sources
        table.save(Path(f"{split}.npz"))
    run("--arms=B", "--output=planted", "--plant=5")
    assert "plant is 0.0 and 5.0" in fails(compare.main, pair[0], "planted/B_best_fixed")
    run("--arms=B", "--output=of_tasks", "--plant=5", "--plant_per=task")
    message = fails(compare.main, "planted/B_best_fixed", "of_tasks/B_best_fixed")
    assert "plant_per is source and task" in message


def test_arms_that_cannot_run_are_one_line(fails: Callable[..., str]) -> None:
    both = ["--train_table=val.npz", "--test_table=test.npz", *QUICK]
    assert "H is no arm. Choices: A_uniform" in fails(arms.main, *both, "--arms=A,H")
    assert "--seeds=a: needed are whole numbers" in fails(arms.main, *both, "--seeds=a")
    make_table(2, weights="def").save(Path("other.npz"))
    message = fails(arms.main, *both, "--test_table=other.npz")
    assert "weights=abc and def; make both from one supernet" in message
    make_table(2, precision="bf16").save(Path("other.npz"))
    message = fails(arms.main, *both, "--test_table=other.npz")
    assert "--train_table=val.npz and other.npz differ: precision=32 and bf16" in message
    assert "gone.npz does not exist" in fails(arms.main, *both, "--train_table=gone.npz")
    assert "estimator=best" in fails(arms.main, *both, "--estimators=best")
    assert "--budget=0: must be at least 1" in fails(arms.main, *both, "--budget=0")
    assert "--kl_target=-1.0: must not be negative" in fails(arms.main, *both, "--kl_target=-1")
    assert "--train_table=val.npz is also the table to score on" in fails(arms.main, *both, "--test_table=val.npz")
    assert "--ladder with --ks=2: its rungs are fixed" in fails(arms.main, *both, "--ladder")


def save_nb201(split: str) -> None:
    """A table of the five architectures of one edge; its 3x3 convolution is nor_conv_3x3."""
    shape = {"space": "nb201", "nodes": 2, "cells": 1, "architectures": 5}
    table = empty_table(np.arange(5)[:, None], 30, 2, 3, {**FACTS, **shape, "split": split})
    for values in (*(getattr(table, name) for name in SCORES), table.embedding):
        values[:] = np.random.default_rng(0).random(values.shape)
    RewardTable(**{**vars(table), "done": 30}).save(Path(f"{split}.npz"))


def test_a_space_without_the_hand_made_network_has_every_other_arm(
    fails: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("val", "test"):
        save_nb201(split)
    run("--seeds=0", "--budget=40")
    printed = capsys.readouterr().out
    assert printed.count("arm J: space nb201 has a decision without conv_k3; it is left out") == 1
    assert {path.name[0] for path in Path("out").iterdir()} == set("ABCDEFG")
    run("--arms=A", "--seeds=0")
    arms.main(["--train_table=val.npz", "--test_table=test.npz", *LADDER, "--seeds=0", "--budget=40"])
    assert "arm J" not in capsys.readouterr().out
    both = ["--train_table=val.npz", "--test_table=test.npz", *QUICK]
    assert "arm J: space nb201 has a decision without conv_k3; leave J out" in fails(arms.main, *both, "--arms=A,J")


def test_by_default_every_arm_runs() -> None:
    run("--seeds=0")
    assert {path.name[0] for path in Path("out").iterdir()} == set("ABCDEFGJ")


def save_selection(path: str, method: str, **facts: object) -> np.ndarray:
    places = np.random.default_rng(7).integers(25, size=(30, 2))
    own = {"method": method, "label_free": True, "passes_before": 9, "passes_per_task": 75, "steps": 5}
    Selection(places, {**FACTS, "split": "test", **own, **facts}).save(Path(path))
    return places


def test_selections_become_arms_beside_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    places = save_selection("h.npz", "alphas")
    save_selection("i.npz", "naswot")
    run("--arms=A", "--selections=h.npz, i.npz")
    assert sorted(path.name for path in Path("out").iterdir()) == ["A_uniform", "H_alphas", "I_naswot"]
    found = load_run("out/H_alphas/seed3")
    accuracy = make_table(1).accuracy
    expected = (accuracy[places[:, 0], np.arange(30), 1] + accuracy[places[:, 1], np.arange(30), 0]) / 2
    np.testing.assert_allclose(found.episodes["transductive"].accuracy, expected, rtol=1e-6)
    assert found.results["search"] == {
        "reward_calls": 9 + 30 * 75, "reward_calls_search": 9, "reward_calls_per_task": 75,
    }  # fmt: skip
    assert found.results["arm"] == {"label_free": True, "steps": 5}
    assert found.config["selections"] == "h.npz, i.npz"
    assert "yes" in capsys.readouterr().out


def test_the_earlier_name_of_selections_still_works_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    save_selection("h.npz", "alphas")
    run("--arms=A", "--choices=h.npz", "--output=earlier")
    assert sorted(path.name for path in Path("earlier").iterdir()) == ["A_uniform", "H_alphas"]
    assert "deprecated: --choices=h.npz is now --selections=h.npz" in capsys.readouterr().err


def test_selections_that_do_not_fit_are_one_line(fails: Callable[..., str]) -> None:
    both = ["--train_table=val.npz", "--test_table=test.npz", *QUICK]
    save_selection("h.npz", "alphas")
    save_selection("other.npz", "alphas", weights="def", n_query=9)
    message = fails(arms.main, *both, "--selections=other.npz")
    assert "other.npz does not fit" in message and "n_query=5 there, 9 here; weights=abc there, def" in message
    save_selection("other.npz", "alphas", precision="bf16")
    assert "that scores it (precision=32 there, bf16" in fails(arms.main, *both, "--selections=other.npz")
    assert "--selections=h.npz,h.npz: two files of arm H_alphas" in fails(arms.main, *both, "--selections=h.npz,h.npz")
    assert "--selections with --plant" in fails(arms.main, *both, "--selections=h.npz", "--plant=5")
    assert "selection gone.npz does not exist" in fails(arms.main, *both, "--selections=gone.npz")


def test_a_table_is_analysed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    assert analyse_table.main(["--table=val.npz"]) == 0
    content = json.loads(Path("analysis_val.json").read_text(encoding="utf-8"))
    table = make_table(0)
    assert content["best"]["decisions"] == [4, 4]
    assert content["mean_accuracy"] == pytest.approx(float(table.accuracy.mean()), rel=1e-6)
    assert content["headroom"]["mean"] == pytest.approx(0.15, abs=0.02)
    spread = np.linspace(0, 0.3, 25).var(ddof=1)
    assert content["components"]["accuracy"]["architecture"]["value"] == pytest.approx(spread, rel=0.1)
    rules = {f"{kind}{how}" for kind in SCORES for how in ("", "_shrunk", "_rank1", "_rank3")}
    assert set(content["gains"]) == rules | {"embedding"}  # one source: nothing to choose per source
    assert content["gains"]["loo_loss_shrunk"]["sees"] == "label-free"
    shown = capsys.readouterr().out
    assert "best fixed, over the mean" in shown
    assert "undecided" in shown


def test_a_table_of_several_sources_has_a_rule_per_source() -> None:
    table = make_table(2)
    table.source[::2] = 1
    table.accuracy[3, ::2] += 0.5  # source 1 has a favourite; the best fixed one is right for half of the tasks
    table.save(Path("two.npz"))
    assert analyse_table.main(["--table=two.npz", "--output=two.json"]) == 0
    found = json.loads(Path("two.json").read_text(encoding="utf-8"))["gains"]["per_source"]
    assert found["sees"] == "source"
    assert found["mean"] == pytest.approx(0.5 * found["by_source"]["0"]["mean"] + 0.5 * found["by_source"]["1"]["mean"])
    assert max(part["mean"] for part in found["by_source"].values()) > 0.1
    assert analyse_table.verdict(found) == "gains"


def test_rules_can_learn_on_the_training_classes_as_a_search_must(
    capsys: pytest.CaptureFixture[str], fails: Callable[..., str]
) -> None:
    assert analyse_table.main(["--table=test.npz", "--train_table=val.npz", "--output=two.json"]) == 0
    content = json.loads(Path("two.json").read_text(encoding="utf-8"))
    found = content["gains_learned_on_training_classes"]
    assert set(found) == set(content["gains"])
    assert found["embedding"]["n"] == 30 and found["embedding"]["low"] == found["embedding"]["high"]
    assert "learned on training classes" in " ".join(capsys.readouterr().out.split())
    message = fails(analyse_table.main, "--table=test.npz", "--train_table=test.npz")
    assert "--train_table=test.npz is also the table to score on" in message


def standalone(folder: str, decisions: tuple[int, int], accuracy: float, cells: int = 2) -> str:
    Path(folder).mkdir()
    genotype = Chain(channels=8, cells=cells).decode(decisions[:cells])
    Path(folder, "genotype.json").write_text(genotype.to_json(), encoding="utf-8")
    content = {"test": {"transductive": {"accuracy": accuracy}}}
    Path(folder, "results.json").write_text(json.dumps(content), encoding="utf-8")
    return f"{folder}/results.json"


def test_ranks_are_compared_with_stand_alone_runs(fails: Callable[..., str]) -> None:
    files = [standalone(f"r{a}", (a, a), 0.5 + (a if a < 4 else 2.5) / 10) for a in range(5)]
    assert analyse_table.main(["--table=val.npz", "--standalone", *files]) == 0
    found = json.loads(Path("analysis_val.json").read_text(encoding="utf-8"))["rank_correlation"]
    assert found["value"] == pytest.approx(0.8) and found["architectures"] == 5  # 1 of 10 pairs is swapped
    other = standalone("other", (0, 0), 0.5, cells=1)
    message = fails(analyse_table.main, "--table=val.npz", "--standalone", *files, other)
    assert "is of space chain with cells=1" in message
    assert "needs results.json and genotype.json" in fails(analyse_table.main, "--table=val.npz", "--standalone", "x/r")
