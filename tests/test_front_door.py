"""What ``import few_shot_nas`` gives. Truth: the modules where the names live, and the README's programs as printed."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import few_shot_nas as fsn

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def test_every_name_is_there_and_is_the_one_of_its_module() -> None:
    assert set("MAML ProtoNet Conv4 EpisodicDataModule Episode SOURCES adapt load".split()) <= set(fsn.__all__)
    for name in fsn.__all__:
        found = getattr(fsn, name)
        assert getattr(found, "__name__", name) == name
    assert set(fsn.__all__) <= set(dir(fsn))


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse((ROOT / "few_shot_nas" / "__init__.py").read_text(encoding="utf-8"))
    (guard,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.name: node.module for node in guard.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert seen == {name: f"few_shot_nas.{home}" for name, home in fsn._HOME_OF.items()}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'MAMLL'"):
        fsn.MAMLL  # noqa: B018


def test_the_import_is_light() -> None:
    code = "import sys, few_shot_nas; print(sorted({'torch', 'numpy', 'pytorch_lightning'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_the_quick_start_is_short() -> None:
    assert len(PROGRAMS[0].strip().splitlines()) <= 15


@pytest.mark.slow
def test_the_programs_of_the_readme_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick_start, _, inner_loop = PROGRAMS
    file = tmp_path / "program.py"
    kept = "before = {n: v.clone() for n, v in net.state_dict().items()}\nnet.zero_grad()"
    file.write_text(f"import torch\n{quick_start}\n{kept}\n{inner_loop}", encoding="utf-8")
    spec = importlib.util.spec_from_file_location("readme_program", file)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    printed = capsys.readouterr().out
    accuracy = float(re.search(r"'test/accuracy_support': ([\d.]+)", printed).group(1))
    assert 0.3 < accuracy < 1.0 and printed.count("tensor(") == 3
    net: torch.nn.Module = program.net
    assert all(torch.equal(value, program.before[name]) for name, value in net.state_dict().items())
    # Truth: the gradient of the learner itself for the same task and settings.
    plain = {name: parameter.grad.clone() for name, parameter in net.named_parameters()}
    net.zero_grad()
    program.learner.task_loss(program.task)[0].backward()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(plain[name], parameter.grad, rtol=1e-4, atol=1e-6)
