"""How commands end."""

import errno

import pytest

from few_shot_nas.errors import InputError
from training.exits import OneLineParser, guarded


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        (InputError("a flag\n  is wrong"), "error: a flag is wrong\n"),
        (
            OSError(errno.ENOSPC, "full", "cache/x"),
            "error: no space left on a disk while writing cache/x; free some in the run directory, the cache and the "
            "temporary folder\n",
        ),
    ],
)
def test_a_mistake_is_one_line_and_code_2(problem: Exception, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise problem

    with pytest.raises(SystemExit) as ended:
        guarded(work)
    assert ended.value.code == 2
    assert capsys.readouterr().err == line


def test_out_of_memory_says_what_memory_grows_with(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise OutOfMemoryError("CUDA out of memory")

    with pytest.raises(SystemExit):
        guarded(work)
    assert "--first_order" in capsys.readouterr().err


class MisconfigurationException(Exception):
    """Named as Lightning's."""


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        (MisconfigurationException("limit\n is too small"), "error: Trainer: limit is too small\n"),
        (OSError(errno.ENAMETOOLONG, "long", "a" * 5000), "error: aaaa"),
        (MemoryError("Unable to allocate 3 TiB"), "error: out of memory (Unable to allocate 3 TiB); use smaller"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), "error: out of memory; use smaller"),
    ],
)
def test_what_lightning_and_the_allocators_say_is_one_line(
    problem: Exception, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        raise problem

    with pytest.raises(SystemExit) as ended:
        guarded(work)
    assert ended.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith(line) and shown.count("\n") == 1


@pytest.mark.parametrize("problem", [OSError(errno.EACCES, "no"), RuntimeError("defect"), KeyError("defect")])
def test_a_defect_is_not_hidden(problem: Exception) -> None:
    def work() -> None:
        raise problem

    with pytest.raises(type(problem)):
        guarded(work)


def test_work_that_ends_well_is_0() -> None:
    assert guarded(lambda: None) == 0


def test_argparse_complains_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    parser = OneLineParser()
    parser.add_argument("--n", type=int)
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["--n=x"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: argument --n: invalid int value: 'x'\n"
