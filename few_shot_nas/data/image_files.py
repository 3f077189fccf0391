"""Pictures in folders and in zip archives, read alike."""

import io
import logging
import os
import stat
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile as PillowFile

from few_shot_nas.data.pixels import Bounds, Deep, converted, deep, shallow
from few_shot_nas.errors import InputError

logger = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
#: What a picture's content may be. Pillow knows more formats, and starts another program for one of these (EPS).
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
#: Bytes of one picture's file; what is larger is no picture, or made to fill the memory.
LARGEST_FILE = 2**28
#: Pixels of one picture: from there on Pillow warns of a bomb, a small file that fills the memory.
MOST_PIXELS = Image.MAX_IMAGE_PIXELS or 89_478_485
_HIDDEN = (".", "__", "@")


def is_hidden(*parts: str) -> bool:
    """Return whether a path is no data because one of its parts begins with ``.``, ``__`` or ``@``.

    Programs leave such files and folders among the data: ``.ipynb_checkpoints``, ``._cat.jpg`` and ``__MACOSX``,
    ``@eaDir``. Many hold copies or thumbnails of the images beside them, which must not become queries.

    Args:
        *parts: the components below the folder or in the archive that the data is in.

    >>> is_hidden("cat", ".ipynb_checkpoints", "1.jpg"), is_hidden("cat", "1.jpg")
    (True, False)
    """
    return any(part.startswith(_HIDDEN) and part not in (".", "..") for part in parts)


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
        self,
        file: ImageFile,
        mode: str,
        size: int,
        resample: Image.Resampling,
        upright: bool = False,
        depth: "Depth | None" = None,
    ) -> np.ndarray:
        """Return a picture as uint8 ``[size, size, C]``.

        Args:
            file: which picture.
            mode: ``L`` (C = 1) or ``RGB`` (C = 3). It is converted before it is resized: 1-bit pictures would
                otherwise be resized without smoothing.
            size: height and width of the result; a picture of that size is left as it is.
            resample: the filter used for resizing.
            upright: turn the picture as its EXIF tag says, which cameras write and most datasets were made without.
            depth: says how samples of more than 8 bits are scaled; by default as this picture alone needs it.

        Raises:
            InputError: naming the file, if it is missing or is not a whole picture.
        """
        image = decoded(self.content(file), f"{file}:", upright)
        if isinstance(image, Deep):
            image = shallow(image, depth.scale() if depth is not None else image.bounds.scale())
        try:
            return resized(converted(image, mode), size, resample)
        except (ValueError, OSError) as error:  # such as colours in CIE L*a*b*
            raise InputError(f"{file}: cannot be turned into {mode} ({error}); convert or remove this file") from error

    def content(self, file: ImageFile) -> bytes:
        """Return the bytes of a picture's file.

        Raises:
            InputError: naming the file, if it cannot be read or is too large for a picture.
        """
        try:
            if file.member is None:
                _check_size(str(file), os.stat(file.path).st_size)
                return file.path.read_bytes()
            if file.path not in self._archives:
                self._archives[file.path] = zipfile.ZipFile(file.path)
            info = self._archives[file.path].getinfo(file.member)
            _check_size(str(file), info.file_size)
            if info.flag_bits & 1:
                raise InputError(f"{file}: is encrypted; unpack the archive with its password and pack it without")
            return self._archives[file.path].read(info)
        except InputError:
            raise
        except Exception as error:  # a damaged archive can raise nearly anything
            raise InputError(f"{file}: cannot be read as an image ({_reason(error)}); get this file again") from error


class Depth:
    """How samples of more than 8 bits are scaled: by the range that all such pictures of a source have together.

    The pictures are looked at when the first deep one comes up, so that others cost nothing.

    Args:
        files: all pictures of the source.
    """

    def __init__(self, files: Iterable[ImageFile]) -> None:
        self._files = tuple(files)
        self._scale: Bounds | None = None

    def scale(self) -> Bounds:
        """Return the range that becomes 0..255; see :meth:`few_shot_nas.data.pixels.Bounds.scale`."""
        if self._scale is None:
            bounds, count = None, 0
            with ImageReader() as reader:
                for file in self._files:
                    image = decoded(reader.content(file), f"{file}:")
                    if isinstance(image, Deep):
                        bounds = image.bounds if bounds is None else bounds.joined(image.bounds)
                        count += 1
            if bounds is None:
                raise RuntimeError("no deep picture among the files of the source")
            self._scale = bounds.scale()
            logger.info(
                "%d images of more than 8 bits have samples from %g to %g; %g to %g becomes 0 to 255",
                *(count, bounds.low, bounds.high, self._scale.low, self._scale.high),
            )
        return self._scale


def _check_size(name: str, size: int) -> None:
    if size > LARGEST_FILE:
        raise InputError(
            f"{name}: has {size / 1e9:.1f} GB, and a picture at most {LARGEST_FILE / 1e9:.1f} GB; remove this file"
        )
    if size == 0:
        raise InputError(f"{name}: cannot be read as an image (it is empty); replace or remove this file")


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"its content is none of {', '.join(FORMATS)}, or cut off"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _opened(content: bytes) -> PillowFile:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # it is an error here
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(
            f"it has {image.width} x {image.height} pixels, and a picture at most {MOST_PIXELS / 1e6:.0f} million"
        )
    return image


def content_of(path: Path) -> bytes:
    """Return the bytes of a picture's file.

    Raises:
        InputError: naming the file, if it cannot be read or is too large for a picture.
    """
    with ImageReader() as reader:
        return reader.content(ImageFile(path))


def decoded(content: bytes, what: str, upright: bool = False) -> Image.Image | Deep:
    """Return the picture in ``content``: as it is where its samples have at most 8 bits, else its samples.

    Args:
        content: an encoded picture, in one of ``FORMATS``.
        what: begins the message of an error: the file.
        upright: turn it as its EXIF tag says.

    Raises:
        InputError: if it is no whole picture.
    """
    try:
        with _opened(content) as image:
            found = deep(image, lambda: _opened(content), upright)
            if found is not None:
                return found
            image.load()
            return ImageOps.exif_transpose(image) if upright else image.copy()
    except Exception as error:  # a damaged picture can raise nearly anything
        raise InputError(
            f"{what} cannot be read as an image ({_reason(error)}); replace or remove this file"
        ) from error


def resized(image: Image.Image, size: int, resample: Image.Resampling) -> np.ndarray:
    """Return ``image`` as uint8 ``[size, size, C]``."""
    if image.size != (size, size):
        image = image.resize((size, size), resample)
    pixels = np.asarray(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def archive_members(path: Path) -> list[ImageFile]:
    """Return the pictures in a zip archive, sorted by name, without hidden ones.

    Raises:
        InputError: if the archive is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # A name that comes twice is one file for every program that unpacks it.
            names = sorted({name for name in archive.namelist() if name.lower().endswith(SUFFIXES)})
    except Exception as error:  # a damaged archive can raise nearly anything
        raise InputError(f"{path}: cannot be read as a zip archive ({_reason(error)}); get it again") from error
    return [ImageFile(path, name) for name in names if not is_hidden(*PurePosixPath(name).parts)]


def folders_in(place: Path) -> list[Path]:
    """Return the folders that lie in a folder, sorted by path, without hidden ones.

    Raises:
        InputError: if the folder cannot be read.
    """
    try:
        return sorted(entry for entry in place.iterdir() if not is_hidden(entry.name) and entry.is_dir())
    except OSError as error:
        raise InputError(f"{place}: cannot be read ({error.strerror}); give it read permission") from error


def refuse_shared(folders: Iterable[Path]) -> None:
    """Refuse folders of classes of which two are the same, or one is part of another, by links.

    Their images would be in two classes, or in training and in the test.

    Raises:
        InputError: naming two of them.
    """
    found: dict[Path, Path] = {}
    for folder in folders:
        other = found.setdefault(folder.resolve(), folder)
        if other is not folder:
            raise InputError(f"{folder}: is the same folder as {other}, by a link; an image may have one class only")
    for real, folder in found.items():
        for place in real.parents:
            if place in found:
                raise InputError(
                    f"{found[place]}: holds {folder}, by a link; an image may have one class only, so remove the link"
                )


def folder_members(folder: Path) -> list[ImageFile]:
    """Return the pictures anywhere below a folder, sorted by path, without hidden ones.

    Links to files are followed, links to folders below ``folder`` are not.

    Raises:
        InputError: for a folder that cannot be read, a link to nothing, and what has a picture's name and is no file.
    """

    def unreadable(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}); give it read permission") from error

    found = []
    for place, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in folders if not is_hidden(name)]
        paths = [Path(place, name) for name in names if not is_hidden(name) and name.lower().endswith(SUFFIXES)]
        found += [path for path in paths if _is_file(path)]
    return [ImageFile(path) for path in sorted(found)]


def _is_file(path: Path) -> bool:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        kind = "is a link to nothing" if path.is_symlink() else f"cannot be read ({error.strerror})"
        raise InputError(f"{path}: {kind}; replace or remove it") from error
    if not stat.S_ISREG(mode):
        raise InputError(f"{path}: has the name of an image and is a pipe, socket or device; remove it")
    return True


def read_all(
    files: Sequence[ImageFile],
    mode: str,
    size: int,
    resample: Image.Resampling,
    *,
    invert: bool = False,
    upright: bool = False,
    depth: Depth | None = None,
) -> Iterator[np.ndarray]:
    """Yield the pictures as :meth:`ImageReader.read` gives them; ``invert`` swaps dark and light.

    A warning says at the end how many pictures are one constant colour.
    """
    constant: list[ImageFile] = []
    with ImageReader() as reader:
        for file in files:
            pixels = reader.read(file, mode, size, resample, upright, depth)
            if (pixels == pixels[0, 0]).all():
                constant.append(file)
            yield 255 - pixels if invert else pixels
    if constant:
        logger.warning(
            "%d of %d images are constant, one colour and nothing else, for example %s; look whether they are empty",
            *(len(constant), len(files), constant[0]),
        )
