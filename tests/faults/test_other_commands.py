"""Wrong command lines of the commands beside run_experiment.py. Truth: the range that each number is said to have."""

import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from few_shot_nas.errors import InputError
from training import compare, evaluate, report, sweep
from training.exits import OneLineParser, one_line, output_folder
from training.tabular import analyse_table, arms, choose, stage0

Main = Callable[[Sequence[str]], int]
TRAINING = Path(sweep.__file__).parent
#: Every command with a parser of its own; run_experiment.py has that of cli.py.
COMMANDS: list[Main] = [
    importlib.import_module(".".join(("training", *path.relative_to(TRAINING).with_suffix("").parts))).main
    for path in sorted(TRAINING.rglob("*.py"))
    if "OneLineParser(prog=" in path.read_text(encoding="utf-8")
]
TABLES = ["--train_table=a.npz", "--test_table=b.npz", "--output=out"]


def error_of(main: Main, words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == 1
    return shown[0]


@pytest.mark.parametrize(
    ("main", "words", "message"),
    [
        (evaluate.main, ["--run_dir=r", "--episodes=0"], "--episodes=0: must be at least 1"),
        (evaluate.main, ["--run_dir=r", "--episodes=-3"], "--episodes=-3: must be at least 1"),
        (evaluate.main, ["--run_dir=r", "--episodes=x"], "--episodes: invalid int value: 'x'"),
        (evaluate.main, ["--run_dir=r", "--output=/proc/x"], "--output=/proc/x: cannot be written to"),
        (compare.main, ["a", "b", "--margin=nan"], "--margin=nan: must be a finite number"),
        (compare.main, ["a", "b", "--margin=-1"], "--margin=-1.0: must be greater than 0"),
        (compare.main, ["a", "b", "--resamples=0"], "--resamples=0: must be at least 1"),
        (compare.main, ["a", "b", "--resamples=1000000000"], "--resamples=1000000000: must be at most 100000"),
        (sweep.main, ["s.yaml", "--count=0"], "--count=0: must be at least 1"),
        (sweep.main, ["s.yaml", "--seed=-1"], "--seed=-1: must not be negative"),
        (analyse_table.main, ["--table=t.npz", "--seed=-1"], "--seed=-1: must not be negative"),
        (stage0.main, ["--run_dir=r", "--tasks=0"], "--tasks=0: must be at least 1"),
        (stage0.main, ["--run_dir=r", "--replicates=-1"], "--replicates=-1: must be at least 1"),
        (choose.main, ["--run_dir=r", "--method=alphas", "--meta_lr=inf"], "--meta_lr=inf: must be a finite number"),
        (arms.main, [*TABLES, "--controller_lr=nan"], "--controller_lr=nan: must be a finite number"),
        (choose.main, ["--run_dir=r", "--method=alphas", "--steps=0"], "--steps=0: must be at least 1"),
        (choose.main, ["--run_dir=r", "--method=alphas", "--rate=-1"], "--rate=-1.0: must be greater than 0"),
        (arms.main, [*TABLES, "--kl_target=-1"], "--kl_target=-1.0: must not be negative"),
        (arms.main, [*TABLES, "--kl_target=nan"], "--kl_target=nan: must be a finite number"),
        (arms.main, [*TABLES, "--meta_batch_size=0"], "--meta_batch_size=0: must be at least 1"),
    ],
)
def test_a_number_that_means_nothing_is_refused_before_anything_is_read(
    main: Main, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in error_of(main, words, capsys)


#: Numbers of any sign: the points by which an arm may favour or disfavour an op.
SIGNED = {"--plant"}


@pytest.mark.parametrize("main", COMMANDS, ids=lambda main: main.__module__)
def test_every_number_of_a_command_carries_a_range(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    parsers: list[OneLineParser] = []

    def caught(self: OneLineParser, *args: object) -> None:
        parsers.append(self)
        raise SystemExit(0)

    monkeypatch.setattr(OneLineParser, "parse_known_args", caught)
    with pytest.raises(SystemExit):
        main([])
    (parser,) = parsers
    free = {action.option_strings[-1] for action in parser._actions if action.type in (int, float)}
    free -= {name for name, ranges in parser._ranges.values() if ranges}
    assert free <= SIGNED
    assert len(parser._actions) > 1 and len(COMMANDS) > 10


def test_a_folder_that_cannot_be_written_to_is_named_with_its_flag(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for place in (Path("/proc/x"), tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(InputError, match=f"^--output={place}: cannot be written to .*; give another folder$"):
            output_folder(place)
    assert output_folder(tmp_path / "new" / "folder").is_dir()
    assert os.listdir(tmp_path / "new" / "folder") == []


def test_a_run_that_is_none_is_named_by_every_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = str(tmp_path / "gone")
    commands: list[tuple[Main, list[str]]] = [
        (report.main, [gone]),
        (compare.main, [gone, gone]),
        (evaluate.main, [f"--run_dir={gone}"]),
        (stage0.main, [f"--run_dir={gone}"]),
    ]
    for main, words in commands:
        assert gone in error_of(main, words, capsys)


def test_what_is_shown_is_one_printable_line_of_limited_length() -> None:
    assert one_line("a\n b\tc\x1b[2J\udcff") == "a b c\\x1b[2J\\udcff"
    assert len(one_line("x" * 10**6)) < 1100
