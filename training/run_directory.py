"""The folder of a run: chosen before anything is written, made only when the run is sure to start."""

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from few_shot_nas.errors import InputError
from few_shot_nas.whole_file import replacing

#: Lightning starts the other ranks by running the same command again; they find the first rank's folder here.
VARIABLE = "FSN_RUN_DIR"

_RANKS = ("RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK", "LOCAL_RANK")


def is_first_rank(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether this process is the one that writes."""
    rank = next((environment[name] for name in _RANKS if name in environment), "0")
    return rank == "0" and environment.get("NODE_RANK", "0") == "0"


def adopt_best(resume: Path, run_dir: Path, meta_step: int) -> None:
    """Copy the best checkpoint beside ``resume`` into a new run directory, if it was written by ``meta_step``.

    A run that is continued elsewhere must still find the best weights of its first part.
    """
    from few_shot_nas.runtime.checkpoint import KEY, load_checkpoint

    best = resume.parent / "best.ckpt"
    if best.is_file() and load_checkpoint(best)[KEY]["meta_step"] <= meta_step:
        with replacing(run_dir / "checkpoints" / "best.ckpt") as part:
            shutil.copyfile(best, part)


class RunDirectory:
    """Where a run writes, and where it resumes from.

    Args:
        path: the folder.
        resume: checkpoint to continue from, or None.

    Attributes:
        continues: whether the checkpoint is one of this folder's own.
    """

    def __init__(self, path: Path, resume: Path | None) -> None:
        self.path = path
        self.resume = resume
        self.continues = resume is not None and resume.resolve().parent == (path / "checkpoints").resolve()
        self._made: list[Path] = []
        self._active = False

    @classmethod
    def choose(cls, run_dir: str | None, ckpt_path: str | None, names: tuple[str, str, str]) -> "RunDirectory":
        """Pick the folder and check that a run may write there; nothing is written yet.

        Args:
            run_dir: the user's choice; None for ``runs/<algorithm>-<model>-<data>-<time>``.
            ckpt_path: checkpoint to continue from, or ``last`` for the one in ``run_dir``.
            names: algorithm, model and data class.

        Raises:
            InputError: if ``last`` has no file or no folder, or the folder belongs to another run.
        """
        inherited = None if is_first_rank() else os.environ.get(VARIABLE)
        if ckpt_path == "last":
            if run_dir is None:
                raise InputError("--ckpt_path=last needs --run_dir: the folder of the run to continue")
            ckpt_path = str(Path(run_dir) / "checkpoints" / "last.ckpt")
        resume = None if ckpt_path is None else Path(ckpt_path)
        if resume is not None and not resume.is_file():
            raise InputError(f"--ckpt_path: {resume} does not exist; give the path of a run's checkpoints/last.ckpt")
        if inherited is not None:
            return cls(Path(inherited), resume)
        path = Path(run_dir) if run_dir is not None else cls._fresh("-".join(names))
        chosen = cls(path, resume)
        if path.exists() and not path.is_dir():
            raise InputError(f"--run_dir={path}: is a file; give a folder")
        if is_first_rank() and path.is_dir() and any(path.iterdir()) and not chosen.continues:
            mend = "continue it with --ckpt_path=last, or give another --run_dir"
            if not (path / "checkpoints" / "last.ckpt").is_file():
                mend = "it has no checkpoint to continue from, so give another --run_dir or delete it"
            raise InputError(f"--run_dir={path}: holds another run; {mend}")
        return chosen

    @staticmethod
    def _fresh(stem: str) -> Path:
        base = Path("runs") / f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"
        path, number = base, 2
        while path.exists():
            path, number = base.with_name(f"{base.name}-{number}"), number + 1
        return path

    def make(self) -> None:
        """Make the folder on the first rank and tell the ranks that will be started about it.

        Raises:
            InputError: if it cannot be made.
        """
        if not is_first_rank():
            return
        self._made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        try:
            # A folder that has come up since choose() is another run's that started at the same moment.
            (self.path / "checkpoints").mkdir(parents=True, exist_ok=self.continues)
        except FileExistsError as error:
            raise InputError(f"--run_dir={self.path}: another run has just started there; give another one") from error
        except OSError as error:
            raise InputError(f"--run_dir={self.path}: cannot be made: {error.strerror}") from error
        os.environ[VARIABLE] = str(self.path.resolve())
        self._active = True

    def release(self) -> None:
        """Forget the folder in the environment, so that a next run in this process gets its own."""
        if self._active:
            os.environ.pop(VARIABLE, None)

    def discard(self) -> None:
        """Remove what :meth:`make` made: the run failed before its first step. A continued run keeps its folder."""
        if not self._active or self.continues:
            return
        for entry in self.path.iterdir():
            shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink()
        for folder in self._made:
            try:
                folder.rmdir()
            except OSError:  # another run has started to use it
                return
