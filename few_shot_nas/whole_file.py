"""Files that appear under their name whole or not at all, and are on the disk when they do; and reading such files."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: Bytes of a text file that a run writes; the longest, metrics.csv of 10^5 rows, has about 20 MB.
LARGEST_TEXT = 2**28
#: What a shell calls the pipe that it makes for ``<(command)``.
_PIPES_OF_SHELLS = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")
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


def read_bytes(path: str | os.PathLike[str], largest: int = LARGEST_TEXT) -> bytes:
    """Return a file's content, of a file that someone else may have put there: never wait, never fill the memory.

    Raises:
        OSError: if it cannot be read.
        ValueError: saying of the file that it is a pipe or device, or has more than ``largest`` bytes.
    """
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or str(path).startswith(_PIPES_OF_SHELLS)):
        raise ValueError("is a pipe, a socket or a device")
    with open(path, "rb") as stream:
        content = stream.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"has more than {largest} bytes")
    return content


def read_text(path: str | os.PathLike[str], largest: int = LARGEST_TEXT) -> str:
    """Return the text of a file in UTF-8, as :func:`read_bytes` does.

    Raises:
        OSError, ValueError: as there, or because the content is no text.
    """
    try:
        return read_bytes(path, largest).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError("is not text") from error


def reason(error: OSError | ValueError) -> str:
    """Return in a few words why a file could not be read."""
    return f"it {error}" if isinstance(error, ValueError) else error.strerror or str(error)
