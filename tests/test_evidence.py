"""Every table of measured numbers is what its committed files say.

Truth: the files under docs/results, rendered again.
"""

import json
import re
import subprocess
from pathlib import Path

import pytest

from benchmarks import collect, evidence, tables
from benchmarks.model_card import card

ROOT = evidence.ROOT
PAGES = evidence.documents()
#: A number with an interval, or a signed number with two decimals.
MEASURED = re.compile(r"\d ± \d|[+−-]\d+\.\d\d")


def own_tables(text: str) -> list[str]:
    """Return the tables of a document that are not rendered from files."""
    return re.findall(r"(?:^\|.*\n)+", evidence.BLOCK.sub("", text), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_rendered_table_is_what_its_files_say(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert evidence.rendered(text) == text, "run: python benchmarks/evidence.py --write"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_table_of_measured_numbers_has_a_file(page: Path) -> None:
    assert [table for table in own_tables(page.read_text(encoding="utf-8")) if MEASURED.search(table)] == []


def test_a_table_without_a_file_is_noticed() -> None:
    text = "a\n| x |\n|---|\n| 1.0 ± 0.5 |\n<!-- evidence: x -->\n| 2.0 ± 0.5 |\n<!-- end -->\nb\n\n| y |\n"
    assert own_tables(text) == ["| x |\n|---|\n| 1.0 ± 0.5 |\n", "| y |\n"]


def test_every_interval_in_the_words_of_the_answer_stands_in_one_of_its_tables() -> None:
    text = (ROOT / "docs" / "does_maml_enas_work.md").read_text(encoding="utf-8")
    shown = " ".join(found[2] for found in evidence.BLOCK.findall(text))
    words = re.findall(r"[+-]?\d+\.\d+ ± \d+\.\d+", evidence.BLOCK.sub("", text))
    assert len(words) > 10 and [each for each in words if each not in shown] == []


def test_every_table_is_shown_somewhere_and_has_its_files() -> None:
    shown = {found[1] for page in PAGES for found in evidence.BLOCK.findall(page.read_text(encoding="utf-8"))}
    assert shown == set(evidence.TABLES)
    kept = {str(path.relative_to(tables.RESULTS)) for path in tables.RESULTS.rglob("*.json")}
    named = {name for table in evidence.TABLES.values() for name in table.files}
    assert kept == named
    assert sum(path.stat().st_size for path in tables.RESULTS.rglob("*.json")) < 600_000


def test_a_changed_number_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(evidence.TABLES, "x", evidence.Table(lambda: ["| a |", "|---|", "| 1 |"], (), "c", "none"))
    text = "before\n<!-- evidence: x -->\n| a |\n|---|\n| 2 |\n<!-- end -->\nafter\n"
    assert evidence.rendered(text) == text.replace("| 2 |", "| 1 |")


def test_verdicts_on_rules_are_corrected_for_all_that_were_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gains = {"loss_rank3": (1.0, 0.4), "loo_loss": (0.5, 0.45), "accuracy": (-1.0, 0.4), "embedding": (0.5, 1.0)}
    found = {name: {"mean": mean / 100, "ci95": half / 100, "sees": "x"} for name, (mean, half) in gains.items()}
    table = {"gains": found, "gains_learned_on_training_classes": found, "facts": {"tasks": 100}}
    (tmp_path / "stage0.json").write_text(json.dumps({"mini": {"0": table}}))
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    rows = {row.split(" | ")[0].lstrip("| "): row.split(" | ")[3] for row in tables.rules_table(("mini",))[2:]}
    # The t-interval of the second leaves out 0 as well, but two of four p-values are smaller.
    assert rows == {
        "cross-entropy, rank 3": "gains", "leave-one-out loss": "undecided", "accuracy of one replicate": "loses",
        "regression on the task embedding": "undecided",
    }  # fmt: skip


def test_numbers_are_kept_short_and_folders_of_a_machine_are_not() -> None:
    content = {"command": "python x.py --run_dir=/tmp/evidence/runs/a --n=1", "value": [0.123456789, 3], "none": None}
    assert collect.short(content) == {"command": "python x.py --run_dir=runs/a --n=1", "value": [0.123457, 3],
                                      "none": None}  # fmt: skip
    assert collect.without_folders("x --genotype=/a/b/g.json --k=2") == "x --genotype=g.json --k=2"
    assert collect.without_folders("/a/b/random_0") == "random_0"
    assert collect.without_folders("x --init_from=/a/b/c/m.safetensors") == "x --init_from=runs/c/m.safetensors"


def test_a_card_tells_selection_classes_from_test_classes() -> None:
    results = {
        "algorithm": "MAML", "model_class": "Conv4", "data_class": "MiniImagenet", "n_way": 5, "k_shot": 1,
        "n_query": 15, "seed": 0, "meta_steps": 9, "checkpoint": "best", "regime": "scratch", "hardware": "cpu",
        "wall_seconds": 3.2,
        "versions": {"torch": "2"}, "command": "python training/run_experiment.py", "split": "val",
        "test": {"transductive": {"accuracy": 0.4871, "ci95": 0.0184, "episodes": 600}},
    }  # fmt: skip
    page = card(results)
    assert "| transductive | 48.71 ± 1.84 | 600 |" in page and "non-commercial" in page
    assert "no test accuracies" in page and "no test accuracies" not in card({**results, "split": "test"})
    one = {**results, "test": {"support": {"accuracy": 0.5, "ci95": None, "episodes": 1}}}
    assert "| support | 50.00 ± - | 1 |" in card(one)


def published(out: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run benchmarks/published.sh with ``out`` for its folder."""
    environment = {"PATH": "/usr/bin:/bin", "OUT": str(out), **variables}
    return subprocess.run(["bash", str(ROOT / "benchmarks/published.sh"), *words], env=environment, text=True,
                          capture_output=True, check=False)  # fmt: skip


def stand_in(folder: Path, text: str) -> str:
    """Write a shell script that is called instead of Python; returns its path."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_the_published_steps_are_listed_and_a_wrong_one_is_refused(tmp_path: Path) -> None:
    def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return published(tmp_path, *words, **variables)

    assert "DATA is not set" in run("list").stderr and run("list").returncode == 2
    (tmp_path / "gpu_tests.done").touch()
    listed = run("list", TINY="1").stdout.splitlines()
    assert listed[:2] == ["done  gpu_tests", "open  engine_table"] and "open  maml_5w1s" in listed
    wrong = run("maml_9w9s", TINY="1")
    assert "no step maml_9w9s" in wrong.stdout and wrong.returncode == 2


def test_a_published_step_that_cannot_go_on_and_fails_is_left_out_until_it_is_named(tmp_path: Path) -> None:
    broken = {"TINY": "1", "PYTHON": "/bin/false"}
    assert published(tmp_path, **broken).returncode == 1 and (tmp_path / "gpu_tests.failed").exists()
    slow = {"TINY": "1", "PYTHON": stand_in(tmp_path, "exec sleep 60"), "STEP_SECONDS": "0.2"}
    assert "== engine_table: exit 1" in published(tmp_path, **slow).stdout
    listed = published(tmp_path, "list", **broken).stdout.splitlines()
    assert listed[:3] == ["failed  gpu_tests", "failed  engine_table", "open  maml_5w1s"]
    assert "== maml_5w1s" in published(tmp_path, **slow).stdout and not (tmp_path / "maml_5w1s.failed").exists()
    assert "== maml_5w1s" in published(tmp_path, **broken).stdout and (tmp_path / "maml_5w1s.failed").exists()
    assert "== rfs_resnet12_5w5s" in published(tmp_path, **slow).stdout
    assert published(tmp_path, "gpu_tests", TINY="1", PYTHON="/bin/true").returncode == 0
    assert published(tmp_path, "list", **broken).stdout.startswith("done  gpu_tests\nfailed  engine_table\n")
    for name in published(tmp_path, "list", **broken).stdout.split()[7::2]:
        (tmp_path / f"{name}.done").touch()
    left = published(tmp_path, **broken)
    assert "those that failed: engine_table maml_5w1s" in left.stdout and left.returncode == 1


def test_a_published_test_that_fails_is_marked_and_one_that_waits_for_its_run_is_not(tmp_path: Path) -> None:
    words = {"TINY": "1", "PYTHON": "/bin/false"}
    assert "needs rfs_resnet12_5w5s" in published(tmp_path, "rfs_resnet12_5w1s", **words).stdout
    assert not list(tmp_path.glob("*.failed"))
    for run in ("rfs_resnet12_5w5s", "tnas_search"):
        (tmp_path / run).mkdir()
        (tmp_path / run / "results.json").touch()
    published(tmp_path, "rfs_resnet12_5w1s", **words)
    slow = {"TINY": "1", "PYTHON": stand_in(tmp_path, "exec sleep 60"), "STEP_SECONDS": "0.2"}
    published(tmp_path, "tnas_decode", **slow)  # goes on at the next call
    assert [path.name for path in tmp_path.glob("*.failed")] == ["rfs_resnet12_5w1s.failed"]
    published(tmp_path, "tnas_decode", **words)
    assert (tmp_path / "tnas_decode.failed").exists()


def test_a_published_training_starts_and_goes_on_by_one_command_with_the_published_settings(tmp_path: Path) -> None:
    for search in ("tnas_search", "meta_ntk_search"):
        (tmp_path / search).mkdir()
        (tmp_path / search / "genotype.json").touch()
        (tmp_path / search / "results.json").touch()
    words = {"DATA": "data", "PYTHON": stand_in(tmp_path, 'echo "flags: $*"; exec sleep 60'), "STEP_SECONDS": "0.2"}
    first = published(tmp_path, "maml_5w1s", **words).stdout
    assert " --ckpt_path=auto" in first and "the next call starts it afresh" in first
    (tmp_path / "maml_5w1s" / "checkpoints").mkdir(parents=True)
    (tmp_path / "maml_5w1s" / "checkpoints" / "last.ckpt").touch()
    assert "goes on from its last checkpoint" in published(tmp_path, "maml_5w1s", **words).stdout
    assert " --zero_head=false " in published(tmp_path, "tnas_retrain", **words).stdout
    flags = published(tmp_path, "meta_ntk_retrain", **words).stdout
    assert "--config=training/recipes/rfs_genotype_mini_imagenet_5w1s.yaml" in flags and "--protocol" not in flags
    assert f"--genotype={tmp_path}/meta_ntk_search/genotype.json" in flags
