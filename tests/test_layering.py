"""A file imports only strictly lower layers or its own folder. Truth: the import statements, read by ``ast``.

The same check runs on a small made-up tree with one violation of each kind, so that it is known to see them.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = (
    ("errors",),  # so that every other file may raise InputError
    ("episode", "registry", "forward_context", "ranges", "seeding", "whole_file", "constructor"),
    ("settings",),
    ("nn", "stats"),
    ("meta", "kernels", "spaces"),
    ("models", "controllers", "proxies", "data"),
    ("runtime", "search"),
    ("algorithms", "report"),
    ("model_card",),
    ("tabular", "loading"),
    ("training",),
)
LAYER = {name: layer for layer, names in enumerate(LAYERS) for name in names}
LIGHTNING_HOMES = {"data", "runtime", "algorithms", "training"}
SURROUNDINGS = {"sys.argv", "os.environ", "os.environb", "os.getenv", "os.getcwd", "Path.cwd"}
BAGS = {"utils", "util", "helpers", "misc", "common"}


def run_time(tree: ast.Module) -> ast.Module:
    """Return a module without what only type checkers read, ``if TYPE_CHECKING:``."""
    body = [node for node in tree.body if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")]
    return ast.Module(body, tree.type_ignores)


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the dotted name of everything that is imported, at any depth; ``.`` stands for a relative import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def reads(tree: ast.AST) -> Iterator[str]:
    """Yield ``os.environ`` and the like wherever they are used."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if (name := f"{node.value.id}.{node.attr}") in SURROUNDINGS:
                yield name
    yield from SURROUNDINGS & set(imported(tree))


def home_of(path: Path) -> str:
    """Return the folder, or the module at the top, that a file belongs to; empty for the package's ``__init__``."""
    if path.parts[0] == "training":
        return "training"
    name = path.parts[1].removesuffix(".py")
    return "" if name == "__init__" else name


def file_violations(path: Path, tree: ast.Module) -> Iterator[str]:
    """Yield what one file, given relative to the root, does that its place forbids.

    The package's ``__init__`` is a front door that imports names of any layer on demand: every file of the package runs
    it first, so at run time it may import nothing. For type checkers it may say where the names live. The laboratory
    is imported by itself alone, in the package and in training/.
    """
    home = home_of(path)
    if not home:
        tree = run_time(tree)
    layer = LAYER.get(home, -1)
    if home and home not in LAYER:
        yield f"{path}: {home} has no layer"
    if BAGS & {part.removesuffix(".py") for part in path.parts}:
        yield f"{path}: a helper lives where its noun lives"
    for name in imported(tree):
        first, *rest = name.split(".")
        if not first:
            yield f"{path}: relative import"
        if first in ("pytorch_lightning", "lightning") and home not in LIGHTNING_HOMES:
            yield f"{path}: {home} must not import Lightning"
        if first == "lightning":
            yield f"{path}: the spelling is pytorch_lightning"
        target = rest[0] if first == "few_shot_nas" and rest else first
        if target in LAYER and first in ("few_shot_nas", "training") and target != home and LAYER[target] >= layer:
            yield f"{path}: {home or 'the package'} must not import {target}"
        if "tabular" in (first, *rest[:1]) and "tabular" not in path.parts:
            yield f"{path}: {home or 'the package'} must not import tabular"
    if home != "training":
        yield from (f"{path}: must not read {name}" for name in reads(tree))


def violations(root: Path) -> list[str]:
    """Return the violations of all files in ``few_shot_nas`` and ``training`` under ``root``, sorted."""
    found: list[str] = []
    for folder in ("few_shot_nas", "training"):
        for file in (root / folder).rglob("*.py"):
            found += file_violations(file.relative_to(root), ast.parse(file.read_text(encoding="utf-8")))
    return sorted(set(found))


def test_every_file_imports_only_lower_layers() -> None:
    assert violations(ROOT) == []


def test_the_check_sees_the_tree() -> None:
    assert len(list((ROOT / "few_shot_nas").rglob("*.py"))) > 20


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        ("few_shot_nas/meta/loop.py", "from few_shot_nas.kernels.ntk import ntk", "meta must not import kernels"),
        ("few_shot_nas/meta/loop.py", "import few_shot_nas.models.conv4", "meta must not import models"),
        ("few_shot_nas/episode.py", "from few_shot_nas import registry", "episode must not import registry"),
        ("few_shot_nas/data/a.py", "if 1:\n  from few_shot_nas.algorithms import MAML", "must not import algorithms"),
        ("few_shot_nas/report/a.py", "from training.cli import parse", "report must not import training"),
        ("few_shot_nas/algorithms/a.py", "from few_shot_nas.tabular import arms", "must not import tabular"),
        ("training/predict.py", "from few_shot_nas.tabular import methods", "training must not import tabular"),
        ("training/evaluate.py", "import training.tabular.arms", "training must not import tabular"),
        ("few_shot_nas/nn/a.py", "from few_shot_nas.spaces import SPACES", "nn must not import spaces"),
        ("few_shot_nas/report/a.py", "from few_shot_nas.algorithms import MAML", "report must not import algorithms"),
        ("few_shot_nas/__init__.py", "from few_shot_nas.meta import adapt", "the package must not import meta"),
        (
            "few_shot_nas/meta/a.py",
            "if TYPE_CHECKING:\n  from few_shot_nas.models import Conv4",
            "meta must not import models",
        ),
        ("few_shot_nas/spaces/a.py", "import pytorch_lightning as pl", "spaces must not import Lightning"),
        ("few_shot_nas/data/a.py", "from lightning.pytorch import Trainer", "the spelling is pytorch_lightning"),
        ("few_shot_nas/data/a.py", "from .sampler import draw", "relative import"),
        ("few_shot_nas/data/a.py", "from . import sampler", "relative import"),
        ("few_shot_nas/search/a.py", "import os\nfolder = os.environ['HOME']", "must not read os.environ"),
        ("few_shot_nas/search/a.py", "from sys import argv", "must not read sys.argv"),
        ("few_shot_nas/search/a.py", "from pathlib import Path\nhere = Path.cwd()", "must not read Path.cwd"),
        ("few_shot_nas/meta/utils.py", "", "a helper lives where its noun lives"),
        ("few_shot_nas/tools/a.py", "", "tools has no layer"),
    ],
)
def test_the_check_finds_a_violation(tmp_path: Path, path: str, source: str, complaint: str) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(source, encoding="utf-8")
    found = violations(tmp_path)
    assert len(found) == 1 and complaint in found[0], found


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("few_shot_nas/meta/loop.py", "from few_shot_nas.meta.functional import call\nimport torch"),
        ("few_shot_nas/algorithms/a.py", "from few_shot_nas.data.sampler import draw\nimport pytorch_lightning as pl"),
        ("few_shot_nas/report/a.py", "from few_shot_nas.data.sources import SOURCES"),
        ("training/cli.py", "import sys\nfrom few_shot_nas.report import compare_runs\nprint(sys.argv)"),
        ("training/tabular/arms.py", "from few_shot_nas.tabular.methods import all_methods\nimport training.tabular"),
        ("few_shot_nas/meta/loop.py", "from torch.utils import data"),
        ("few_shot_nas/__init__.py", "if TYPE_CHECKING:\n  from few_shot_nas.meta import adapt"),
    ],
)
def test_the_check_accepts_what_is_allowed(tmp_path: Path, path: str, source: str) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(source, encoding="utf-8")
    assert violations(tmp_path) == []
