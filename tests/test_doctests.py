"""The examples in docstrings print what they say, and every public function of the pure folders has one.

Modules are found by their text, so that those without examples are not imported.
"""

import ast
import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path for folder in ("few_shot_nas", "training") for path in (ROOT / folder).rglob("*.py"))
WITH_EXAMPLES = [path for path in FILES if ">>>" in path.read_text(encoding="utf-8")]
#: Folders whose public functions all have an example.
PURE = ("meta", "kernels", "nn")


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=module_of)
def test_examples_print_what_they_say(path: Path) -> None:
    module = importlib.import_module(module_of(path))
    found = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert found.attempted > 0 and found.failed == 0


def public_functions(path: Path) -> list[ast.FunctionDef]:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return [node for node in body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]


@pytest.mark.parametrize("folder", PURE)
def test_every_public_function_of_a_pure_folder_has_an_example(folder: str) -> None:
    found = [(path.name, f) for path in FILES if folder in path.parts for f in public_functions(path)]
    assert len(found) > 8
    assert [(file, f.name) for file, f in found if ">>>" not in (ast.get_docstring(f) or "")] == []
