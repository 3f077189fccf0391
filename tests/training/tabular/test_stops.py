"""SIGINT amid a command that fills or reads tables leaves nothing half-written. Truth: the command, not stopped."""

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from few_shot_nas import whole_file

from training.tabular import arms, choose, rank_correlation, stage0

pytestmark = pytest.mark.slow
TASKS = "--tasks=3 --replicates=2".split()
QUICK = "--controller=Factorised --budget=60 --ks=2 --estimators=fomaml --seeds=0".split()
Main = Callable[[Sequence[str]], int]


@pytest.fixture(autouse=True)
def tables(monkeypatch: pytest.MonkeyPatch, tiny_search: list[str]) -> None:
    """Two tables of the tiny search, and few tasks for the rate."""
    monkeypatch.setattr(choose, "RATE_TASKS", 2)
    for split in ("val", "test"):
        assert stage0.main(["--run_dir=s", f"--split={split}", *TASKS, "--output=tables"]) == 0


COMMANDS: list[tuple[Main, list[str]]] = [
    (stage0.main, ["--run_dir=s", *TASKS]),
    (choose.main, ["--run_dir=s", *TASKS, "--method=naswot", "--proxy_tasks=1"]),
    (arms.main, ["--train_table=tables/table_val.npz", "--test_table=tables/table_test.npz", *QUICK, "--arms=A,B"]),
    (rank_correlation.main, ["--run_dir=s", "--table=tables/table_val.npz", "--proxy_tasks=1", "--bootstrap=5",
                             "--proxies=naswot"]),
]  # fmt: skip


@pytest.mark.parametrize(("main", "words"), COMMANDS, ids=lambda case: getattr(case, "__module__", ""))
def test_a_stop_in_the_middle_of_a_write_leaves_whole_files(
    monkeypatch: pytest.MonkeyPatch, main: Main, words: list[str]
) -> None:
    output = "out/file.json" if main is rank_correlation.main else "out"
    Path("out").mkdir()
    flush, calls = whole_file._flush, [0]

    def interrupted(path: Path) -> None:
        calls[0] += path.suffix == ".part"
        if path.suffix == ".part" and calls[0] == 1:
            os.kill(os.getpid(), signal.SIGINT)
        flush(path)

    with monkeypatch.context() as patch:
        patch.setattr(whole_file, "_flush", interrupted)
        try:
            code: Any = main([*words, f"--output={output}"])
        except SystemExit as ended:
            code = ended.code
    assert code == 130
    assert not list(Path().rglob("*.part"))
    for path in Path("out").rglob("*.npz"):
        with np.load(path) as content:
            assert "facts" in content
    for folder in {path.parent for path in Path("out").rglob("config.yaml")}:  # the folder of an arm is whole
        assert {"results.json", "episodes.csv"} <= {path.name for path in folder.iterdir()}
    assert main([*words, f"--output={output}"]) == 0
    assert list(Path("out").rglob("*.*"))
