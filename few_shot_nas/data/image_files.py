"""Pictures in folders and in zip archives, read alike."""

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from few_shot_nas.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg")
_DAMAGE = (
    OSError, SyntaxError, ValueError, EOFError, KeyError, struct.error, zlib.error, zipfile.BadZipFile,
    Image.DecompressionBombError,
)


class ImageFile(NamedTuple):
    """One picture.

    Attributes:
        path: the file, or the zip archive it is in.
        member: its name inside the archive; None for a plain file.
    """

    path: Path
    member: str | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """Path components, those inside the archive for a member of one."""
        return Path(self.member).parts if self.member is not None else self.path.parts

    def __str__(self) -> str:
        return f"{self.path}" if self.member is None else f"{self.path}:{self.member}"


class ImageReader:
    """Opens pictures, keeping archives open until the ``with`` block ends."""

    def __init__(self) -> None:
        self._archives: dict[Path, zipfile.ZipFile] = {}

    def __enter__(self) -> "ImageReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for archive in self._archives.values():
            archive.close()

    def read(
        self, file: ImageFile, mode: str, size: int, resample: Image.Resampling, upright: bool = False
    ) -> np.ndarray:
        """Return a picture as uint8 ``[size, size, C]``.

        Args:
            file: which picture.
            mode: ``L`` (C = 1) or ``RGB`` (C = 3). It is converted before it is resized: 1-bit pictures would
                otherwise be resized without smoothing.
            size: height and width of the result; a picture of that size is left as it is.
            resample: the filter used for resizing.
            upright: turn the picture as its EXIF tag says, which cameras write and most datasets were made without.

        Raises:
            InputError: naming the file, if it is missing or is not a whole picture.
        """
        try:
            with Image.open(self._open(file)) as image:
                pixels = converted(ImageOps.exif_transpose(image) if upright else image, mode)
        except _DAMAGE as error:
            raise InputError(f"{file}: cannot be read as an image ({error}); replace or remove this file") from error
        return resized(pixels, size, resample)

    def _open(self, file: ImageFile) -> io.BytesIO:
        if file.member is None:
            return io.BytesIO(file.path.read_bytes())
        if file.path not in self._archives:
            self._archives[file.path] = zipfile.ZipFile(file.path)
        return io.BytesIO(self._archives[file.path].read(file.member))


def converted(image: Image.Image, mode: str) -> Image.Image:
    """Return the picture in ``L`` or ``RGB``: 16-bit grey keeps its upper 8 bits, transparent parts become white."""
    if image.mode.startswith("I"):  # convert() would cut everything above 255 off
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 256).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def resized(image: Image.Image, size: int, resample: Image.Resampling) -> np.ndarray:
    """Return ``image`` as uint8 ``[size, size, C]``."""
    if image.size != (size, size):
        image = image.resize((size, size), resample)
    pixels = np.asarray(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def archive_members(path: Path) -> list[ImageFile]:
    """Return the pictures in a zip archive, sorted by name.

    Raises:
        InputError: if the archive is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(name for name in archive.namelist() if name.lower().endswith(SUFFIXES))
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read as a zip archive ({error}); get it again") from error
    return [ImageFile(path, name) for name in names]


def folder_members(folder: Path, suffixes: Sequence[str] = SUFFIXES) -> list[ImageFile]:
    """Return the pictures anywhere below a folder, sorted by path."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes)
    return [ImageFile(path) for path in files]


def read_all(
    files: Sequence[ImageFile],
    mode: str,
    size: int,
    resample: Image.Resampling,
    invert: bool = False,
    upright: bool = False,
) -> Iterator[np.ndarray]:
    """Yield the pictures as :meth:`ImageReader.read` gives them; ``invert`` swaps dark and light."""
    with ImageReader() as reader:
        for file in files:
            pixels = reader.read(file, mode, size, resample, upright)
            yield 255 - pixels if invert else pixels
