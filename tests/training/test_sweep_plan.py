"""What a sweep file asks for. Truth: the keys of W&B's sweep configuration, spelled out in each case."""

import math
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from few_shot_nas.errors import InputError
from training.cli import parse
from training.sweep_plan import Plan, read_plan, smallest, suggest, with_flags

SWEEPS = sorted((Path(__file__).parents[2] / "training" / "sweeps").glob("*.yaml"))
GOOD: dict[str, Any] = {
    "method": "random",
    "metric": {"name": "val/accuracy", "goal": "maximize"},
    "parameters": {"inner_lr": {"min": 0.1, "max": 1.0}, "algorithm": {"value": "MAML"}},
}


def plan_of(tmp_path: Path, **changes: Any) -> Plan:
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump({**GOOD, **changes}), encoding="utf-8")
    return read_plan(file)


@pytest.mark.parametrize("file", SWEEPS, ids=lambda path: path.stem)
def test_a_sweep_of_this_project_gives_flags_that_the_command_line_takes(file: Path) -> None:
    plan = read_plan(file)
    parse(plan.words(smallest(plan.searched)))
    assert plan.maximise and plan.searched


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"values": [1, "a", None]}, CategoricalDistribution([1, "a", None])),
        ({"min": 1, "max": 4}, IntDistribution(1, 4)),
        ({"min": 0.5, "max": 4}, FloatDistribution(0.5, 4)),
        ({"distribution": "log_uniform_values", "min": 0.01, "max": 1}, FloatDistribution(0.01, 1, log=True)),
        ({"distribution": "log_uniform", "min": -1, "max": 1}, FloatDistribution(math.exp(-1), math.e, log=True)),
        ({"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.25}, FloatDistribution(0, 1, step=0.25)),
    ],
)
def test_an_entry_becomes_its_distribution(tmp_path: Path, entry: dict, expected: object) -> None:
    assert plan_of(tmp_path, parameters={"inner_lr": entry}).searched == {"inner_lr": expected}


def test_the_words_of_a_trial_are_the_fixed_flags_and_its_own(tmp_path: Path) -> None:
    command = ["${env}", "${interpreter}", "${program}", "--wandb", "--first_order", "${args}"]
    plan = plan_of(tmp_path, command=command)
    assert plan.words({"inner_lr": 0.5}) == ["--first_order", "--algorithm=MAML", "--inner_lr=0.5"]
    changed = with_flags(plan, ["--algorithm=ANIL", "--zero_head"])
    assert changed.words({"inner_lr": 0.5})[1:] == ["--algorithm=ANIL", "--zero_head=true", "--inner_lr=0.5"]


def test_a_grid_is_the_product_of_its_values(tmp_path: Path) -> None:
    entries = {"a": {"values": [1, 2]}, "b": {"min": 3, "max": 5}, "c": {"value": 0}}
    grid = plan_of(tmp_path, method="grid", parameters=entries).grid()
    assert grid == [{"a": a, "b": b} for a in (1, 2) for b in (3, 4, 5)]


def test_hyperband_halves_after_min_iter_validations(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, early_terminate={"type": "hyperband", "min_iter": 4})
    assert (plan.min_iter, plan.eta) == (4, 3)
    assert isinstance(plan.pruner(), optuna.pruners.SuccessiveHalvingPruner)
    other = plan_of(tmp_path, early_terminate={"type": "hyperband", "max_iter": 27, "s": 2, "eta": 3})
    assert other.min_iter == 3


def test_draws_lie_in_their_interval_and_repeat_with_the_seed(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)

    def draw(seed: int) -> float:
        study = optuna.create_study()
        trial = study.ask()
        study.sampler = plan.sampler(seed)
        return suggest(trial, plan.searched)["inner_lr"]

    assert draw(1) == draw(1) != draw(2)
    assert 0.1 <= draw(1) <= 1.0


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"method": "annealing"}, "method=annealing"),
        ({"metric": {"goal": "maximize"}}, "metric needs a name"),
        ({"metric": {"name": "a", "goal": "up"}}, "goal=up"),
        ({"budget": 3}, "budget is not understood"),
        ({"parameters": {"a": {"value": 1}}}, "nothing to sweep"),
        ({"parameters": {"a": 3}}, "must map each flag"),
        ({"parameters": {"a": {"parameters": {}}}}, "parameter a: parameters is not understood"),
        ({"parameters": {"a": {"distribution": "beta", "min": 0, "max": 1}}}, "distribution=beta"),
        ({"parameters": {"a": {"min": 2, "max": 1}}}, "min=2 must be less than max=1"),
        ({"parameters": {"a": {"min": 0, "max": math.inf}}}, "max=inf"),
        ({"parameters": {"a": {"distribution": "log_uniform_values", "min": 0, "max": 1}}}, "min above 0"),
        ({"parameters": {"a": {"distribution": "q_uniform", "min": 0, "max": 1}}}, "q=None"),
        ({"parameters": {"a": {"values": []}}}, r"values=\[\]"),
        ({"method": "grid"}, "parameter inner_lr: a grid needs values"),
        ({"early_terminate": {"type": "median"}}, "hyperband with min_iter"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 0}}, "min_iter=0"),
        ({"run_cap": 0}, "run_cap=0"),
        ({"command": "python"}, "command must be a list"),
    ],
)
def test_what_is_not_understood_is_named(tmp_path: Path, changes: dict, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        plan_of(tmp_path, **changes)


@pytest.mark.parametrize(("content", "complaint"), [(b"- a", "holds a list"), (b"a: [", "not YAML"), (b"\xff", "read")])
def test_a_file_that_is_no_sweep_is_named(tmp_path: Path, content: bytes, complaint: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(content)
    with pytest.raises(InputError, match=rf"x\.yaml.*{complaint}"):
        read_plan(file)


@pytest.mark.parametrize(("word", "complaint"), [("n_way=5", "n_way=5 given"), ("--inner_lr=1", "nothing is left")])
def test_flags_that_leave_no_sweep_are_refused(tmp_path: Path, word: str, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        with_flags(plan_of(tmp_path), [word])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run_cap: 2024-13-45", "holds a value that means nothing"),
        (f"run_cap: {'9' * 5000}", "holds a value that means nothing"),
        (f"a: {'[' * 5000}{']' * 5000}", "holds a value that means nothing|is not YAML"),
        ("a: &a [*a]", "holds a value that means nothing"),
        ("\n".join(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}' if i else '1'] * 9)}]" for i in range(9)), "100,000 values"),
        ("a\x00b: 1", "is not YAML"),
    ],
    ids=["date", "digits", "depth", "circle", "bomb", "zero"],
)
def test_a_sweep_file_made_to_harm_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "s.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        read_plan(tmp_path / "s.yaml")
    assert len(str(caught.value)) < 1000
