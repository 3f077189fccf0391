"""One process at a time writes into the folder of a run."""

import fcntl
import os
import socket
from pathlib import Path

from few_shot_nas.errors import InputError

NAME = ".lock"


class FolderLock:
    """A lock on a folder, which ends with the process that holds it, however it ends.

    A POSIX record lock, and not the flock of the package filelock: workers that load data inherit a flock, so that a
    killed run would keep its folder locked until they have noticed its end.

    Args:
        folder: an existing folder; the file ``.lock`` in it stays.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._handle: int | None = None

    def is_held(self) -> bool:
        """Return whether another process holds the lock; not for the process that holds it, which would lose it."""
        try:
            handle = os.open(self.path, os.O_RDWR)
        except OSError:
            return False
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(handle)
        return False

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            InputError: if another process holds it, or the file cannot be written.
        """
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise InputError(f"--run_dir={self.path.parent}: cannot be written: {error.strerror}") from error
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(handle, 200).decode(errors="replace").strip()
            os.close(handle)
            raise InputError(
                f"--run_dir={self.path.parent}: another process writes there{holder and f' ({holder})'}; wait for it, "
                "or give another folder"
            ) from error
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        self._handle = handle

    def refuse_if_held(self) -> None:
        """Raise InputError if another process holds the lock. Not for a process that holds it itself."""
        if self.path.exists():
            self.acquire()
            self.release()

    def release(self) -> None:
        """Give the lock back, if it is held."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
