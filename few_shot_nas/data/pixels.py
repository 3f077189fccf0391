"""Decoded pictures as 8-bit pixels, whatever range their samples have.

Most pictures have 8 bits per sample and stay as they are. Measuring devices write more: 10 to 16 bits in a container of
16, whole numbers of 32 bits, floating point. Their range is often written nowhere, so it is taken from the data, once
for all pictures of a source, which keeps the pictures comparable with each other.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

#: TIFF tags: bits per sample, smallest and largest sample value as integers, and the same in the sample's own format.
_BITS, _MIN, _MAX, _OWN_MIN, _OWN_MAX, _FORMAT = 258, 280, 281, 340, 341, 339
#: Pillow reads the upper byte of 16-bit colours; asked for the other byte order it reads the lower one.
_OTHER_BYTE = {"16B": "16L", "16L": "16B", "16N": "16B"}
_ORIENTATION = 0x0112
#: EXIF's orientations.
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda samples: samples[:, ::-1],
    3: lambda samples: samples[::-1, ::-1],
    4: lambda samples: samples[::-1],
    5: lambda samples: samples.swapaxes(0, 1),
    6: lambda samples: samples.swapaxes(0, 1)[:, ::-1],
    7: lambda samples: samples.swapaxes(0, 1)[::-1, ::-1],
    8: lambda samples: samples.swapaxes(0, 1)[::-1],
}


class Bounds(NamedTuple):
    """The range of samples.

    Attributes:
        low: smallest sample, or what a file declares as such.
        high: largest sample, or what a file declares.
        whole: the samples are whole numbers.
    """

    low: float
    high: float
    whole: bool

    def joined(self, other: "Bounds") -> "Bounds":
        """Return the range that holds both."""
        return Bounds(min(self.low, other.low), max(self.high, other.high), self.whole and other.whole)

    def scale(self) -> "Bounds":
        """Return the range that becomes 0..255.

        With negative samples it is the range as it is. Otherwise it begins at 0 and ends, for whole numbers, where as
        many bits end as the largest needs (4095 for 3000); for others, at the next power of two (1 for 0.9), or at 255
        from 128 on to there.

        >>> Bounds(0, 3000, True).scale().high, Bounds(0, 0.9, False).scale().high, Bounds(0, 200.0, False).scale().high
        (4095, 1.0, 255.0)
        >>> Bounds(-1.0, 0.5, False).scale()
        Bounds(low=-1.0, high=0.5, whole=False)
        """
        if self.low < 0 or self.high <= 0:
            return self._replace(whole=False)
        if self.whole:
            return Bounds(0, 2 ** int(self.high).bit_length() - 1, True)
        if 128 <= self.high <= 255:
            return Bounds(0.0, 255.0, False)
        return Bounds(0.0, 2.0 ** math.ceil(math.log2(self.high)), False)

    def to_8_bits(self, samples: np.ndarray) -> np.ndarray:
        """Return samples as uint8: whole numbers keep their upper 8 bits, others are rounded.

        >>> Bounds(0, 4095, True).to_8_bits(np.array([0, 16, 4095]))
        array([  0,   1, 255], dtype=uint8)
        """
        span = self.high - self.low
        if span <= 0:
            return np.zeros(samples.shape, dtype=np.uint8)
        if self.whole:
            found = np.floor(samples.astype(np.float64) * (256 / (span + 1)))
        else:
            found = np.rint((samples.astype(np.float64) - self.low) * (255 / span))
        return found.clip(0, 255).astype(np.uint8)


class Deep(NamedTuple):
    """Samples of more than 8 bits.

    Attributes:
        samples: ``[H, W]``, or ``[H, W, C]`` with C = 3 or 4 (alpha), whole numbers or float.
        bounds: the declared range where it holds the samples, else the range found.
    """

    samples: np.ndarray
    bounds: Bounds


def deep(image: ImageFile, reopened: Callable[[], ImageFile], upright: bool = False) -> Deep | None:
    """Return the samples of a picture that has more than 8 bits of them; None for any other.

    Args:
        image: the picture, not loaded yet.
        reopened: opens the same picture a second time, for the lower bytes of colours.
        upright: turn it as its EXIF tag says.

    Raises:
        ValueError: if a sample is not finite.
    """
    declared = _declared(image)  # before the picture is loaded, which removes what says how to decode it
    if image.mode == "F" or image.mode.startswith("I"):
        samples = np.asarray(image)
        if image.mode == "I" and _tag(image, _BITS) == 32 and _tag(image, _FORMAT) in (None, 1):
            samples = samples.view(np.uint32)  # Pillow reads 32 unsigned bits as signed ones
    else:
        lower = _lower_bytes(image, reopened)
        if lower is None:
            return None
        samples = 256 * np.asarray(image).astype(np.int32) + lower
    if not np.isfinite(samples).all():
        raise ValueError("it holds samples that are not finite numbers")
    colours = samples[..., :3] if samples.ndim == 3 else samples
    found = Bounds(float(colours.min()), float(colours.max()), samples.dtype.kind in "iu")
    if declared is not None and declared[0] <= found.low and found.high <= declared[1]:
        found = Bounds(*declared, found.whole)
    turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1)) if upright else None
    return Deep(samples if turn is None else turn(samples), found)


def _tag(image: ImageFile, number: int) -> float | None:
    value = getattr(image, "tag_v2", {}).get(number)
    if isinstance(value, tuple):
        value = value[0] if value else None
    return None if value is None else float(value)


def _declared(image: ImageFile) -> tuple[float, float] | None:
    """Return the range that the file declares: TIFF's tags, fewer than 16 bits per sample, or PGM's largest value."""
    low, high = _tag(image, _OWN_MIN) or _tag(image, _MIN) or 0.0, _tag(image, _OWN_MAX) or _tag(image, _MAX)
    bits = _tag(image, _BITS)
    if high is None and bits is not None and 8 < bits < 16:
        high = 2.0**bits - 1
    if high is None and any(tile[0] in ("ppm", "ppm_plain") for tile in image.tile):
        high = 65535.0  # to which Pillow scales whatever largest value the file names
    return None if high is None else (low, high)


def _lower_bytes(image: ImageFile, reopened: Callable[[], ImageFile]) -> np.ndarray | None:
    """Return the lower bytes of 16-bit colours, of which Pillow reads the upper ones; None for 8-bit pictures."""
    if image.mode not in ("RGB", "RGBA"):
        return None
    tiles = []
    for tile in image.tile:
        arguments = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        name, _, order = str(arguments[0]).partition(";")
        if name != image.mode or order not in _OTHER_BYTE:
            return None
        swapped = (f"{name};{_OTHER_BYTE[order]}", *arguments[1:])
        tiles.append(tile._replace(args=swapped if isinstance(tile.args, tuple) else swapped[0]))
    if not tiles:
        return None
    with reopened() as again:
        again.tile = tiles
        return np.asarray(again).astype(np.int32)


def converted(image: Image.Image, mode: str) -> Image.Image:
    """Return an 8-bit picture in ``L`` or ``RGB``; transparent parts become white."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def shallow(found: Deep, scale: Bounds) -> Image.Image:
    """Return an 8-bit picture of deep samples; alpha keeps its upper 8 bits."""
    if found.samples.ndim == 2:
        return Image.fromarray(scale.to_8_bits(found.samples))
    channels = [scale.to_8_bits(found.samples[..., :3])]
    if found.samples.shape[2] == 4:
        channels.append((found.samples[..., 3:] >> 8).astype(np.uint8))
    return Image.fromarray(np.concatenate(channels, axis=2))
