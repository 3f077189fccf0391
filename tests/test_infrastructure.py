"""Set-up, locks, continuous integration, sweeps and the ground rules of the code. Truth: the repository's files."""

import ast
import configparser
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "requirements"
PYTHON_FILES = sorted(file for name in ("few_shot_nas", "training", "tests") for file in (ROOT / name).rglob("*.py"))
SWEEPS = sorted((ROOT / "training" / "sweeps").glob("*.yaml"))
SCRIPTS = sorted([*(ROOT / "tasks").glob("*.sh"), *(ROOT / "training" / "clusters").iterdir()])


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def normalised(name: str) -> str:
    """Return the name of a requirement as the package index spells it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[<>=!~;]", name, maxsplit=1)[0]).lower()


def entries(file: Path) -> list[str]:
    """Return the requirements of a file, without comments, options and continuation lines."""
    lines = (line.split(" #")[0].strip(" \\") for line in file.read_text().splitlines())
    return [line for line in lines if line and line[0] not in "#-"]


# ---- continuous integration --------------------------------------------------------------------------------


def circleci() -> dict[str, Any]:
    return yaml.safe_load((ROOT / ".circleci" / "config.yml").read_text())


def commands(steps: list[Any]) -> Iterator[str]:
    for step in steps:
        if isinstance(step, dict) and "run" in step:
            yield step["run"]["command"]


def test_circleci_has_its_jobs_and_runs_them() -> None:
    config = circleci()
    assert config["version"] == 2.1
    assert set(config["jobs"]) == {"lint", "test", "ddp-cpu", "docs", "package"}
    run = config["workflows"]["checks"]["jobs"]
    assert {job if isinstance(job, str) else next(iter(job)) for job in run} == set(config["jobs"])
    assert config["executors"]["python"]["docker"][0]["image"].startswith("cimg/python:3.11")


def test_a_wheel_is_tried_on_every_python_that_it_admits() -> None:
    (job,) = [job["package"] for job in circleci()["workflows"]["checks"]["jobs"] if isinstance(job, dict)]
    tried = job["matrix"]["parameters"]["version"]
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    named = re.findall(r"Python :: (3\.\d+)", settings["metadata"]["classifiers"])
    first, end = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", settings["options"]["python_requires"]).groups()
    assert tried == named == [f"3.{minor}" for minor in range(int(first), int(end))]


def test_the_wheel_declares_a_range_for_what_is_imported() -> None:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    wanted = [line for line in settings["options"]["install_requires"].splitlines() if line]
    assert all(re.fullmatch(r"[\w-]+(\[\w+\])?>=[\d.]+(,[<>=!]+[\d.]+)*", line) for line in wanted), wanted
    declared = {re.split(r"[\[>]", line)[0].replace("-", "_").lower() for line in wanted}
    imports = {"PIL": "pillow", "sklearn": "scikit_learn", "yaml": "pyyaml"}
    # Imported where it is asked for, or behind an extra.
    optional = {"wandb", "tensorboard", "onnx", "onnxruntime", "onnxscript"}
    for file in (*ROOT.glob("few_shot_nas/**/*.py"), *ROOT.glob("training/**/*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for package in {name.split(".")[0] for name in names} - set(sys.stdlib_module_names):
                if package not in {"few_shot_nas", "training", *optional}:
                    assert imports.get(package, package).lower() in declared, f"{file}: {package}"


def test_circleci_calls_only_executable_scripts_of_tasks() -> None:
    config = circleci()
    parts = [*config["jobs"].values(), *config["commands"].values()]
    called = [command for part in parts for command in commands(part["steps"])]
    assert len(called) >= 5
    for command in called:
        script = ROOT / shlex.split(command)[0]
        assert script.parent == ROOT / "tasks" and script.is_file() and os.access(script, os.X_OK), command


def test_circleci_keys_its_cache_by_the_locks() -> None:
    steps = circleci()["commands"]["set-up"]["steps"]
    saved = next(step["save_cache"] for step in steps if "save_cache" in step)
    restored = next(step["restore_cache"] for step in steps if "restore_cache" in step)
    assert saved["key"] in restored["keys"]
    assert all(f'checksum "requirements/{name}.txt"' in saved["key"] for name in ("prod", "dev"))


def test_every_run_of_pytest_on_circleci_leaves_a_report_that_is_stored() -> None:
    for job in circleci()["jobs"].values():
        reports = [command for command in commands(job["steps"]) if "tasks/test.sh" in command]
        stored = [step["store_test_results"]["path"] for step in job["steps"] if "store_test_results" in step]
        assert all(f"--junitxml={stored[0]}/" in command for command in reports)


@pytest.mark.parametrize("script", [*SCRIPTS, ROOT / ".ci" / "run"], ids=relative)
def test_scripts_are_executable_and_stop_at_errors(script: Path) -> None:
    text = script.read_text()
    assert os.access(script, os.X_OK)
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in text or script.name == "lint.sh"


def test_the_makefile_names_only_scripts_that_exist() -> None:
    named = re.findall(r"tasks/\w+\.sh", (ROOT / "Makefile").read_text())
    assert {"tasks/setup.sh", "tasks/demo.sh", "tasks/test.sh", "tasks/lint.sh", "tasks/smoke.sh"} <= set(named)
    assert all((ROOT / name).is_file() for name in named)


def test_every_target_of_the_makefile_has_a_rule_and_its_help() -> None:
    text = (ROOT / "Makefile").read_text()
    declared = text.split(".PHONY:", 1)[1].split("\n", 1)[0].split()
    assert sorted(declared) == sorted(re.findall(r"^([a-z-]+):.*## \S", text, re.MULTILINE))


# ---- requirements ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", sorted(REQUIREMENTS.glob("*.txt")), ids=relative)
def test_a_lock_names_no_index_and_no_folder_of_the_machine_it_was_made_on(file: Path) -> None:
    for line in file.read_text().splitlines():
        assert not line.startswith(("-", "file:")), line
        assert "://" not in line and " @ " not in line, line


@pytest.mark.parametrize("file", sorted(REQUIREMENTS.glob("*.txt")), ids=relative)
def test_a_lock_pins_every_package_to_one_version(file: Path) -> None:
    pins = entries(file)
    assert len(pins) > 10
    assert all(re.fullmatch(r"[\w.-]+==[\w.+!-]+", pin) for pin in pins)


@pytest.mark.parametrize("file", sorted(REQUIREMENTS.glob("*.txt")), ids=relative)
def test_a_lock_has_hashes_for_every_package(file: Path) -> None:
    text = re.sub(r"^ *#.*$", "", file.read_text(), flags=re.MULTILINE).replace("\\\n", "")
    rows = [line.split() for line in text.splitlines() if line.strip()]
    assert len(rows) == len(entries(file))
    for pin, *hashes in rows:
        assert hashes and all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", word) for word in hashes), pin


def test_set_up_refuses_files_without_a_hash_and_takes_setuptools_from_the_lock() -> None:
    installs = [line for line in (ROOT / "tasks" / "setup.sh").read_text().splitlines() if "pip install" in line]
    assert len(installs) == 2
    assert "--require-hashes" in installs[0] and "--no-deps --no-build-isolation" in installs[1]
    assert any(pin.startswith("setuptools==") for pin in entries(REQUIREMENTS / "prod.txt"))


def test_the_security_page_names_every_pre_release_of_the_locks() -> None:
    pins = [pin for file in sorted(REQUIREMENTS.glob("*.txt")) for pin in entries(file)]
    found = {pin for pin in pins if re.search(r"==[0-9.]+(a|b|rc|\.dev)[0-9]", pin)}
    text = (ROOT / "docs" / "security.md").read_text()
    assert set(re.findall(r"`([\w.-]+==[^`]+)`", text)) == found
    assert "wandb " + dict(pin.split("==") for pin in pins)["wandb"] in text


@pytest.mark.parametrize("name", ["prod", "dev", "docs"])
def test_every_direct_requirement_is_in_its_lock(name: str) -> None:
    locked = {normalised(pin) for pin in entries(REQUIREMENTS / f"{name}.txt")}
    assert {normalised(entry) for entry in entries(REQUIREMENTS / f"{name}.in")} <= locked


@pytest.mark.parametrize("name", ["dev", "docs"])
def test_the_locks_agree_on_common_packages(name: str) -> None:
    prod, other = (dict(pin.split("==") for pin in entries(REQUIREMENTS / f"{file}.txt")) for file in ("prod", name))
    common = prod.keys() & other.keys()
    assert common and {key: other[key] for key in common} == {key: prod[key] for key in common}


@pytest.mark.parametrize(
    "pin", ["torch==2.11.0", "torchvision==0.26.0", "pytorch-lightning==2.6.6", "torchmetrics==1.9.0"]
)
def test_the_versions_that_must_fit_together_are_pinned(pin: str) -> None:
    assert pin in entries(REQUIREMENTS / "prod.txt")
    assert any(entry.startswith(pin) for entry in entries(REQUIREMENTS / "prod.in"))


def test_the_compromised_releases_are_excluded() -> None:
    (entry,) = (entry for entry in entries(REQUIREMENTS / "prod.in") if entry.startswith("pytorch-lightning"))
    assert "!=2.6.2" in entry and "!=2.6.3" in entry


# ---- code --------------------------------------------------------------------------------------------------

FORBIDDEN_CALLS = {"eval", "exec", "breakpoint", "pickle.load", "pickle.loads", "set_trace"}
FORBIDDEN_IMPORTS = {"pdb", "ipdb", "lightning"}
MACHINE_PATH = re.compile(r"/(home|root|Users|mnt|data\d*)/")


def forbidden(source: str) -> list[str]:
    """Return what a source text does that no file may do."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append("bare except")
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in FORBIDDEN_CALLS:
                found.append(f"{name}()")
            elif isinstance(node.func, ast.Attribute) and node.func.attr == "cuda":
                found.append(".cuda()")
            if any(word.arg == "weights_only" and ast.unparse(word.value) == "False" for word in node.keywords):
                found.append("weights_only=False")
        elif isinstance(node, ast.Import):
            found += [f"import {name.name}" for name in node.names if name.name.split(".")[0] in FORBIDDEN_IMPORTS]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN_IMPORTS:
            found.append(f"import {node.module}")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and MACHINE_PATH.match(node.value):
            found.append(f"machine path {node.value!r}")
    return found


@pytest.mark.parametrize("file", PYTHON_FILES, ids=relative)
def test_no_file_does_what_none_may_do(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    # Tests may unpickle what they have pickled, to show that it can be sent to a worker or that a trap is one.
    allowed = {"pickle.loads()"} if file.is_relative_to(ROOT / "tests") else set()
    assert set(forbidden(text)) <= allowed
    assert len(text.splitlines()) <= 400, "split it: a file has at most 400 lines"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("try:\n    f()\nexcept:\n    g()", ["bare except"]),
        ("x = " + "ev" + "al('1')", ["eval()"]),
        ("import pickle\npickle.load(f)", ["pickle.load()"]),
        ("net.cuda()", [".cuda()"]),
        ("torch.load(f, weights_only=False)", ["weights_only=False"]),
        ("import pdb", ["import pdb"]),
        ("from lightning.pytorch import Trainer", ["import lightning.pytorch"]),
        ("net.eval()\ntorch.load(f, weights_only=True)\nimport pytorch_lightning as pl", []),
    ],
)
def test_the_check_of_the_rules_sees_a_breach(source: str, found: list[str]) -> None:
    assert forbidden(source) == found
    folder = "/" + "home/me/data"
    assert forbidden(f"path = {folder!r}") == [f"machine path {folder!r}"]


# ---- sweeps ------------------------------------------------------------------------------------------------


def trials(parameters: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield one trial with every parameter's first value and one with its last, as the sweep service would choose."""
    ends = {}
    for name, choice in parameters.items():
        values = [choice["value"]] if "value" in choice else choice.get("values") or [choice["min"], choice["max"]]
        ends[name] = (values[0], values[-1])
    yield {name: first for name, (first, _) in ends.items()}
    yield {name: last for name, (_, last) in ends.items()}


def test_there_are_sweeps() -> None:
    assert SWEEPS


@pytest.mark.parametrize("file", SWEEPS, ids=relative)
def test_a_sweep_runs_the_program_with_flags_it_has(file: Path) -> None:
    from training.cli import parse

    sweep = yaml.safe_load(file.read_text())
    assert (ROOT / sweep["program"]).is_file()
    assert sweep["command"] == ["${env}", "${interpreter}", "${program}", "--wandb", "${args}"]
    for trial in trials(sweep["parameters"]):
        command = parse(["--wandb", *(f"--{name}={value}" for name, value in trial.items())])
        assert command.action == "run" and command.notes == []
        assert {name: command.values[name] for name in trial} == trial
