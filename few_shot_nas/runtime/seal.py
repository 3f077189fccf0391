"""A digest in the file that it is of: a checkpoint that a disk or a copy has damaged is noticed.

``torch.load`` reads a file with a flipped bit without a word. A checkpoint is a zip archive, and a zip archive ends
with a comment, which here holds the SHA-256 of everything before it.
"""

import hashlib
import os
import struct
import zipfile
from pathlib import Path

_MARK = b"sha256="
_COMMENT = len(_MARK) + 64


def _digest(path: Path, size: int) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while size > 0:
            block = file.read(min(size, 1 << 20))
            if not block:
                break
            digest.update(block)
            size -= len(block)
    return digest.hexdigest().encode()


def seal(path: Path) -> None:
    """Append the digest to a zip archive without a comment, as ``torch.save`` writes it.

    Raises:
        ValueError: if the file is not such an archive.
    """
    with path.open("r+b") as file:
        file.seek(-2, os.SEEK_END)
        if file.read(2) != b"\0\0":
            raise ValueError(f"{path} has no place for a seal: it does not end like a zip archive without a comment")
        file.seek(-2, os.SEEK_END)
        file.write(struct.pack("<H", _COMMENT))
    content = _MARK + _digest(path, path.stat().st_size)
    with path.open("ab") as file:
        file.write(content)


def is_sealed(path: Path) -> bool:
    """Return whether the file ends with a digest."""
    with path.open("rb") as file:
        file.seek(-min(_COMMENT, path.stat().st_size), os.SEEK_END)
        return file.read(len(_MARK)) == _MARK


def damage(path: Path) -> str:
    """Return in a few words what is wrong with a checkpoint's bytes; empty if nothing is.

    A file without a digest is of an earlier version: the archive's own checksums, which leave out its headers, have to
    do for it.
    """
    size = path.stat().st_size
    if size == 0:
        return "it is empty"
    if is_sealed(path):
        with path.open("rb") as file:
            file.seek(-64, os.SEEK_END)
            wanted = file.read()
        return "" if wanted == _digest(path, size - _COMMENT) else "its bytes have changed since it was written"
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, EOFError) as error:
        return f"it is not a whole file ({error})"
    return "" if broken is None else f"its entry {broken} is damaged"
