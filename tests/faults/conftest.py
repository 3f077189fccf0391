"""The smallest run there is, in this process or in a child that can be killed."""

import importlib.util
import os
import sys
import traceback
from pathlib import Path

import pytest

from training import run_experiment

_NEIGHBOUR = Path(__file__).parents[1] / "training" / "conftest.py"
_SPEC = importlib.util.spec_from_file_location("training_conftest", _NEIGHBOUR)
_FIXTURES = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_FIXTURES)
dots, workplace = _FIXTURES.dots, _FIXTURES.workplace

TINY = (
    "--n_way=2 --n_query=2 --meta_batch_size=1 --val_episodes=2 --test_episodes=3 --log_every=1 --max_meta_steps=6 "
    "--val_every=3 --save_every=2"
).split()


@pytest.fixture
def tiny(workplace):
    """Return the flags of a run of MAML on a network of width 4, in an empty working directory."""
    return ["--algorithm=MAML", "--width=4", *TINY]


@pytest.fixture
def in_child():
    """Return a function that calls another one in a forked child, and gives its exit code."""

    def call(work):
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                code = work() or 0
            except SystemExit as ended:
                code = ended.code
            except BaseException:  # noqa: B036 (this process has no caller to hand it to)
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    return call


@pytest.fixture
def ended(capsys):
    """Return a function that runs a command line and gives exit code and the last line on standard error."""

    def call(*argv, main=run_experiment.main):
        capsys.readouterr()
        code = 0
        try:
            main(list(argv))
        except SystemExit as end:
            code = end.code
        lines = capsys.readouterr().err.strip().splitlines()
        return code, lines[-1] if lines else ""

    return call
