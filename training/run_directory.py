"""The folder of a run: chosen before anything is written, made only when the run is sure to start."""

import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from few_shot_nas.errors import InputError
from few_shot_nas.whole_file import remove_parts, replacing
from training import slurm
from training.folder_lock import NAME as LOCK
from training.folder_lock import FolderLock

#: Lightning starts the other ranks by running the same command again; they find the first rank's folder here.
VARIABLE = "FSN_RUN_DIR"

#: Folder below a search's own in which ``--train_after_search`` trains what it found.
TRAINED = "trained"

#: What a run writes into its folder; other files there, such as the log of a shell, are not its own.
OWN = (
    "config.yaml", "metrics.csv", "choices.csv", "episodes.csv", "results.json", "genotype.json", "model.safetensors",
    "model.json", "report.html", "checkpoints", "tensorboard", "wandb", slurm.RECORD,
)  # fmt: skip

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


def is_to_continue(folder: Path) -> bool:
    """Return whether this job of a cluster has begun the run in ``folder``, or trained there what a search found."""
    return slurm.is_to_continue(folder) or slurm.is_to_continue(folder / TRAINED)


def is_finished(folder: Path) -> bool:
    """Return whether a run, and the training of what it has found if that was begun, have their results."""
    return all((part / "results.json").exists() for part in (folder, folder / TRAINED) if part.is_dir())


def last_of(folder: Path) -> Path:
    """Return where a run keeps its newest checkpoint."""
    return folder / "checkpoints" / "last.ckpt"


class RunDirectory:
    """Where a run writes, and where it resumes from.

    Args:
        path: the folder.
        resume: checkpoint to continue from, or None.
        stem: of the names to choose from, where the user has not named the folder.
        starts_over: what a run without a checkpoint has left there may go.

    Attributes:
        continues: whether the checkpoint is one of this folder's own.
        finished: whether its results have been written.
    """

    def __init__(self, path: Path, resume: Path | None, stem: str | None = None, starts_over: bool = False) -> None:
        self.path = path
        self.resume = resume
        self.stem, self.starts_over = stem, starts_over
        self.continues = resume is not None and resume.resolve().parent == (path / "checkpoints").resolve()
        self.finished = False
        self._existed = path.is_dir()
        self._made: list[Path] = []
        self._active = False
        self._lock: FolderLock | None = None

    @classmethod
    def choose(cls, run_dir: str | None, ckpt_path: str | None, names: tuple[str, str, str]) -> "RunDirectory":
        """Pick the folder and check that a run may write there; nothing is written yet.

        A job that a cluster has requeued continues the run that it had begun, by the same command.

        Args:
            run_dir: the user's choice; None for ``runs/<algorithm>-<model>-<data>-<time>``.
            ckpt_path: checkpoint to continue from; ``last`` for the one in ``run_dir``; ``auto`` for that one if it is
                there, and a start if not.
            names: algorithm, model and data class.

        Raises:
            InputError: if ``last`` has no file or no folder, the folder belongs to another run, or a name is empty.
        """
        for flag, value in (("run_dir", run_dir), ("ckpt_path", ckpt_path)):
            if value is not None and not value.strip():
                raise InputError(f"--{flag}={value}: is empty, as an unset variable is; give a name, or leave it out")
        inherited = None if is_first_rank() else os.environ.get(VARIABLE)
        given = inherited or run_dir
        path = Path(given) if given else cls._begun_by_this_job("-".join(names))
        if ckpt_path in ("last", "auto") and path is None:
            raise InputError(f"--ckpt_path={ckpt_path} needs --run_dir: the folder of the run to continue")
        auto = ckpt_path == "auto" or (ckpt_path is None and path is not None and is_to_continue(path))
        if path is not None and (ckpt_path == "last" or (auto and last_of(path).is_file())):
            ckpt_path = str(last_of(path))
        elif auto:
            ckpt_path = None
        resume = None if ckpt_path is None else Path(ckpt_path)
        if resume is not None and not resume.is_file():
            raise InputError(f"--ckpt_path: {resume} does not exist; give the path of a run's checkpoints/last.ckpt")
        stem = "-".join(names)
        if path is None:
            chosen = cls(cls._fresh(stem), resume, stem)
        else:
            chosen = cls(path, resume, starts_over=auto)
        if inherited is None:
            chosen._check()
        return chosen

    def _check(self) -> None:
        """Refuse a file, and the folder of another run."""
        path = self.path
        if path.exists() and not path.is_dir():
            raise InputError(f"--run_dir={path}: is a file; give a folder")
        if not is_first_rank() or self.continues or not self.is_left_behind():
            return
        if self._lock is None:
            FolderLock(path).refuse_if_held()  # of a process that writes there nobody should delete the folder
        if last_of(path).is_file():
            raise InputError(
                f"--run_dir={path}: holds another run; continue it with --ckpt_path=last, or give another --run_dir"
            )
        if not self.starts_over or (path / "results.json").exists():
            raise InputError(
                f"--run_dir={path}: holds another run; it has no checkpoint to continue from, so give another "
                "--run_dir or delete it"
            )

    @staticmethod
    def _begun_by_this_job(stem: str) -> Path | None:
        """Return the folder of the unfinished run that this job had begun before it was requeued."""
        found = sorted(Path("runs").glob(f"{stem}-*/{slurm.RECORD}"))
        begun = [file.parent for file in found if is_to_continue(file.parent)]
        return next((folder for folder in reversed(begun) if not is_finished(folder)), None)

    @staticmethod
    def _fresh(stem: str) -> Path:
        base = Path("runs") / f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"
        path, number = base, 2
        while path.exists():
            path, number = base.with_name(f"{base.name}-{number}"), number + 1
        return path

    def claim(self) -> None:
        """Lock the folder, if it is there, on the first rank: from now on nobody else changes it.

        Raises:
            InputError: if another process writes there.
        """
        if self._lock is None and is_first_rank() and self._existed:
            lock = FolderLock(self.path)
            lock.acquire()
            self._lock = lock
            self._check()

    def make(self) -> None:
        """Make and lock the folder on the first rank and tell the ranks that will be started about it.

        Raises:
            InputError: if it cannot be made, or another run has just started there.
        """
        if not is_first_rank():
            return
        if not self._existed:
            self._create()
            self._existed = True
        self.claim()
        self._active = True
        if self.starts_over and not self.continues:
            self._remove_own()
        try:
            (self.path / "checkpoints").mkdir(exist_ok=True)
            remove_parts(self.path)
            remove_parts(self.path / "checkpoints")
        except OSError as error:
            raise InputError(f"--run_dir={self.path}: cannot be written: {error.strerror}") from error
        os.environ[VARIABLE] = str(self.path.resolve())

    def _create(self) -> None:
        while True:
            self._made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with suppress(FileExistsError):
                    self.path.mkdir()
                    return
            except OSError as error:
                raise InputError(f"--run_dir={self.path}: cannot be made: {error.strerror}") from error
            # The folder has come up since choose(): it is that of a run that started at the same moment.
            if self.stem is None:
                raise InputError(f"--run_dir={self.path}: another run has just started there; give another one")
            self.path = self._fresh(self.stem)

    def is_left_behind(self) -> bool:
        """Return whether the folder holds files of this run, which keep another one from starting there."""
        return any((self.path / name).exists() for name in OWN)

    def release(self) -> None:
        """Forget the folder in the environment and unlock it, so that a next run in this process gets its own."""
        if self._active:
            os.environ.pop(VARIABLE, None)
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _remove_own(self) -> None:
        for entry in (self.path / name for name in OWN):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove what the run wrote: it failed before its first step. A continued run keeps its folder."""
        if not self._active or self.continues:
            return
        self._remove_own()
        (self.path / LOCK).unlink(missing_ok=True)
        for folder in self._made:
            with suppress(OSError):  # another run has started to use it, or it holds what is not ours
                folder.rmdir()
