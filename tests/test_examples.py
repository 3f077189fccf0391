"""The notebooks of examples/ run from top to bottom. Truth: what their last cells leave behind."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

BOOKS = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.ipynb"))
pytestmark = pytest.mark.slow


def run(book: Path, folder: Path) -> ModuleType:
    """Run the code cells of a notebook in order, as one program."""
    cells = json.loads(book.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    file = folder / f"{book.stem}.py"
    file.write_text("\n\n".join(code), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(book.stem, file)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    return program


def test_there_are_the_two_of_the_readme() -> None:
    assert [book.stem for book in BOOKS] == ["a_search_and_what_it_found", "few_shot_in_a_notebook"]


def test_few_shot_learning_in_a_notebook(tmp_path: Path) -> None:
    program = run(BOOKS[1], tmp_path)
    assert program.after > 0.4 and program.after > program.before - 0.05
    assert program.losses[-1] < program.losses[0]
    assert all(parameter.grad is not None for parameter in program.net.head.parameters())
    assert float((program.probabilities.sum(dim=1) - 1).abs().max()) < 1e-5


def test_a_search_and_what_it_found(tmp_path: Path) -> None:
    program = run(BOOKS[0], tmp_path)
    assert program.search.genotype.space == "darts_fewshot"
    assert program.search.search_summary["reward_calls"] > 0
    assert set(program.results) == {"found", "Conv4"}
    assert all(0.2 < result["test/accuracy_support"] < 1 for result in program.results.values())
