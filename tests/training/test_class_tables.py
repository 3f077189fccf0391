"""Reading the tables from source text gives what importing them gives."""

import inspect
import subprocess
import sys

import pytest

from few_shot_nas.controllers import CONTROLLERS
from few_shot_nas.spaces import SPACES
from training import class_tables

TABLES = class_tables.load_tables()


@pytest.mark.parametrize(
    ("kind", "table"),
    [
        ("algorithm", TABLES.algorithms),
        ("model_class", TABLES.models),
        ("data_class", TABLES.sources),
        ("space", SPACES),
        ("controller", CONTROLLERS),
    ],
)
def test_listing_agrees_with_the_imported_table(kind: str, table: dict[str, type]) -> None:
    listed = class_tables.listing(kind)
    assert list(listed) == list(table)
    assert listed == {name: (inspect.getdoc(cls) or "").split("\n")[0] for name, cls in table.items()}
    assert all(listed.values())


@pytest.mark.parametrize("word", ["--help", "--list", "--data_class=Glyph"])
def test_answers_come_without_lightning_and_torch(word: str) -> None:
    program = (
        "import sys\n"
        "from training.run_experiment import main\n"
        "try:\n"
        f"    main([{word!r}])\n"
        "except SystemExit as ended:\n"
        "    print(ended.code)\n"
        "assert not {'torch', 'pytorch_lightning'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
