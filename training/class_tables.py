"""Names and one-line descriptions of the pluggable classes, read from source text.

``--help``, ``--list`` and a mistyped class name answer from here in milliseconds: importing the tables would import
Lightning. The tables are plain dict literals beside their classes; a test compares this reading with the real ones.
"""

import ast
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import few_shot_nas
from few_shot_nas.constructor import parameters
from few_shot_nas.errors import InputError

PACKAGE = Path(few_shot_nas.__file__).parent

TABLES = {
    "algorithm": ("algorithms", "ALGORITHMS"),
    "model_class": ("models", "MODELS"),
    "data_class": ("data.sources", "SOURCES"),
    "space": ("spaces", "SPACES"),
    "controller": ("controllers", "CONTROLLERS"),
}


class Tables(NamedTuple):
    """The imported classes."""

    algorithms: Mapping[str, Any]
    models: Mapping[str, Any]
    sources: Mapping[str, Any]
    datamodules: Mapping[str, Any]


def user_class(path: str) -> type:
    """Import a network's class by its dotted path, such as ``my_package.MyNet``, also from the working directory.

    Raises:
        InputError: if the module or the class is not there, or the constructor does not take what a network takes.
    """
    module, _, name = path.rpartition(".")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"{path}: cannot be imported from {here} or the installed packages ({error})") from error
    if not isinstance(found, type):
        raise InputError(f"{path}: is a {type(found).__name__}, needed is a class")
    wanted = ("n_way", "in_channels", "image_size")
    if not set(wanted) <= set(parameters(found)):
        taken = ", ".join(parameters(found))
        raise InputError(f"{path}: its constructor takes {taken}; needed are {', '.join(wanted)}")
    return found


def load_tables() -> Tables:
    """Import the tables, and with them Lightning."""
    from few_shot_nas.algorithms import ALGORITHMS
    from few_shot_nas.data.episodic import EpisodicDataModule
    from few_shot_nas.data.flat import FlatDataModule
    from few_shot_nas.data.sources import SOURCES
    from few_shot_nas.models import MODELS

    return Tables(ALGORITHMS, MODELS, SOURCES, {"episodes": EpisodicDataModule, "flat": FlatDataModule})


def _file(module: str) -> Path:
    """Return the source file of ``few_shot_nas.<module>``."""
    path = PACKAGE.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _summary(module: str, name: str) -> str:
    """Return the first docstring line of a class or function, or nothing."""
    file = _file(module)
    if not file.is_file():
        return ""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
            return (ast.get_docstring(node) or "").split("\n")[0]
    return ""


def listing(kind: str) -> dict[str, str]:
    """Return ``name -> first docstring line`` of one table without importing it.

    Args:
        kind: a key of ``TABLES``.
    """
    module, variable = TABLES[kind]
    tree = ast.parse(_file(module).read_text(encoding="utf-8"))
    origin = {
        alias.asname or alias.name: (str(node.module).removeprefix("few_shot_nas."), alias.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if not any(isinstance(target, ast.Name) and target.id == variable for target in targets):
            continue
        value = getattr(node, "value", None)
        if isinstance(value, ast.Dict):
            return {
                str(ast.literal_eval(key)): _summary(*origin.get(ast.unparse(item), (module, ast.unparse(item))))
                for key, item in zip(value.keys, value.values, strict=True)
                if key is not None
            }
    raise LookupError(f"{_file(module)} has no dict literal {variable}")
