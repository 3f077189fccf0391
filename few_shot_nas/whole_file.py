"""Files that appear under their name whole or not at all, and are on the disk when they do."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: End of the names of files that are being written.
PART = ".part"


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; when the block ends, flush the file to the disk and rename it.

    A reader sees the old file or the new one, also after a killed process or a power cut. If the block raises, the old
    file stays and what was written is removed. Two processes that write the same file at once do not mix: the name in
    the block holds the process id.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "a.txt"
        >>> with replacing(target) as part:
        ...     _ = part.write_text("new")
        >>> target.read_text(), [entry.name for entry in target.parent.iterdir()]
        ('new', ['a.txt'])
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.{os.getpid()}{PART}")
    try:
        yield part
        _flush(part)
        os.replace(part, path)
        # The new name is an entry of the folder, which has to be on the disk too.
        _flush(path.parent)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        # Some network file systems refuse to flush a folder; a file's own error must not be lost.
        if not path.is_dir():
            raise
    finally:
        os.close(handle)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def remove_parts(folder: Path) -> None:
    """Remove what killed processes have left half-written in ``folder``; the caller alone writes there."""
    for part in folder.glob(f"*{PART}"):
        with suppress(OSError):
            part.unlink()
