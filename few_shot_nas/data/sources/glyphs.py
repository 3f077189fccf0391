"""The built-in dataset: characters of many scripts, drawn from the fonts that matplotlib ships.

Nothing is downloaded. A class is a code point; its 20 images differ in the font (DejaVu Sans, Sans Mono and Serif, each
upright, bold, slanted and both), in an affine map and in the strokes. The splits are scripts, as in Omniglot's
background and evaluation sets: no script of val or test is seen in training.
"""

import unicodedata
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from few_shot_nas.data.source import Source, SplitPlan
from few_shot_nas.errors import InputError
from few_shot_nas.ranges import ImageSize

IMAGES_PER_CLASS = 20
VERSION = 1  # of the drawing below: raise it with any change, so that caches are drawn again

_FACES = tuple(
    f"DejaVu{family}.ttf"
    for family in (
        "Sans", "Sans-Bold", "Sans-Oblique", "Sans-BoldOblique",
        "SansMono", "SansMono-Bold", "SansMono-Oblique", "SansMono-BoldOblique",
        "Serif", "Serif-Bold", "Serif-Italic", "Serif-BoldItalic",
    )
)  # fmt: skip
_BLOCKS: dict[str, tuple[tuple[int, int], ...]] = {
    # Latin, Greek and Coptic, Cyrillic, Canadian syllabics, phonetic extensions, arrows, operators, Old Italic
    "train": (
        (0x0030, 0x024F), (0x0250, 0x02AF), (0x0370, 0x03FF), (0x0400, 0x052F), (0x1400, 0x167F), (0x1D00, 0x1D7F),
        (0x2190, 0x22FF), (0x2C60, 0x2C7F), (0xA640, 0xA69F), (0xA720, 0xA7FF), (0x10300, 0x1032F),
    ),
    # Armenian, Lao
    "val": ((0x0530, 0x058F), (0x0E80, 0x0EFF)),
    # Hebrew, Arabic, Georgian
    "test": ((0x0590, 0x05FF), (0x0600, 0x06FF), (0x10A0, 0x10FF), (0x2D00, 0x2D2F)),
}  # fmt: skip
_MIN_FACES = 4  # a class drawn from fewer fonts would vary by the affine map alone
_ALIKE = 0.93  # correlation of two blurred, size-normalised shapes from which they count as one
_SHAPE = 40  # pixels of the square on which shapes are compared
_EM = 72  # points at which a character is drawn before it is mapped
_OVERSAMPLING = 3  # the mapped image has this many times the final pixels, so that strokes can be filtered


def _face_path(face: str) -> Path:
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / face


@lru_cache(maxsize=None)
def _font(face: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(_face_path(face)), _EM, layout_engine=ImageFont.Layout.BASIC)


def _draw(face: str, code: int) -> Image.Image:
    """Return the character in white on black, cut to its ink."""
    font = _font(face)
    left, top, right, bottom = font.getbbox(chr(code))
    image = Image.new("L", (int(right - left) + 8, int(bottom - top) + 8))
    ImageDraw.Draw(image).text((4 - left, 4 - top), chr(code), fill=255, font=font)
    box = image.getbbox()
    return image.crop(box) if box else image


def _shape(code: int) -> np.ndarray:
    """Return a unit vector that is nearly the same for characters that look the same at any size."""
    ink = _draw(_FACES[0], code)
    scale = 0.8 * _SHAPE / max(ink.size)
    small = ink.resize((max(1, round(ink.width * scale)), max(1, round(ink.height * scale))), Image.Resampling.BOX)
    canvas = Image.new("L", (_SHAPE, _SHAPE))
    canvas.paste(small, ((_SHAPE - small.width) // 2, (_SHAPE - small.height) // 2))
    vector = np.asarray(canvas.filter(ImageFilter.GaussianBlur(1.5)), dtype=np.float32).ravel()
    return vector / np.linalg.norm(vector)


@lru_cache(maxsize=None)
def glyph_classes() -> dict[str, dict[int, tuple[str, ...]]]:
    """Return split -> code point -> the fonts that have it.

    Letters, digits and symbols of each script's blocks that at least four of the twelve fonts have, Sans among them.
    Characters made of another and an accent are left out, and of those that look the same (A in Latin, Greek and
    Cyrillic; c and C) only the first is kept, over all splits.
    """
    charmaps = {face: set(FT2Font(str(_face_path(face))).get_charmap()) for face in _FACES}
    classes: dict[str, dict[int, tuple[str, ...]]] = {}
    codes = {
        split: [code for first, last in blocks for code in range(first, last + 1)] for split, blocks in _BLOCKS.items()
    }
    seen = np.empty((sum(map(len, codes.values())), _SHAPE * _SHAPE), dtype=np.float32)
    count = 0
    for split in codes:
        classes[split] = {}
        for code in codes[split]:
            faces = tuple(face for face in _FACES if code in charmaps[face])
            plain = unicodedata.category(chr(code))[0] in "LNS" and not unicodedata.decomposition(chr(code))
            if len(faces) < _MIN_FACES or _FACES[0] not in faces or not plain:
                continue
            shape = _shape(code)
            if count and float((seen[:count] @ shape).max()) > _ALIKE:
                continue
            seen[count] = shape
            count += 1
            classes[split][code] = faces
    return classes


def _affine(rng: np.random.Generator, ink: Image.Image, canvas: int) -> tuple[float, ...]:
    """Return PIL's coefficients (result -> source) of a random map that fits ``ink`` into a canvas of that side."""
    angle = np.deg2rad(rng.uniform(-15, 15))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shear = np.array([[1.0, rng.uniform(-0.2, 0.2)], [0.0, 1.0]])
    fit = 0.72 * canvas / max(ink.size)
    forward = fit * turn @ shear @ np.diag(rng.uniform(0.8, 1.1, size=2))
    inverse = np.linalg.inv(forward)
    centre = np.array(ink.size) / 2
    target = canvas / 2 + canvas * rng.uniform(-0.06, 0.06, size=2)
    offset = centre - inverse @ target
    return (*inverse[0], offset[0], *inverse[1], offset[1])


def _images(classes: Mapping[int, tuple[str, ...]], image_size: int) -> Iterator[np.ndarray]:
    canvas = image_size * _OVERSAMPLING
    # Bold strokes are thinned and light ones thickened: the other way round they would vanish or run together.
    thin, thicken = ImageFilter.MinFilter(3), ImageFilter.MaxFilter(3)
    for code, faces in classes.items():
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((VERSION, code))))
        inks = [_draw(face, code) for face in faces]
        for index in range(IMAGES_PER_CLASS):
            face, ink = faces[index % len(faces)], inks[index % len(faces)]
            coefficients = _affine(rng, ink, canvas)
            image = ink.transform(
                (canvas, canvas), Image.Transform.AFFINE, coefficients, resample=Image.Resampling.BILINEAR
            )
            if rng.random() < 0.5:
                image = image.filter(thin if "Bold" in face else thicken)
            image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 1.5))))
            yield np.asarray(image.reduce(_OVERSAMPLING))[:, :, None]


class Glyphs(Source):
    """Characters of many scripts, 20 images each, white on black.

    Splits: train has Latin, Greek, Cyrillic, Canadian syllabics, Old Italic, arrows and operators; val has Armenian and
    Lao; test has Hebrew, Arabic and Georgian. Images are fed as 0..1 without further normalisation, as is usual for
    Omniglot.

    Args:
        data_dir: not used; every source takes it.
        cache_dir: folder for the packed images.
        image_size: height and width in pixels.
    """

    name = "Glyphs"
    in_channels = 1
    mean = (0.0,)
    std = (1.0,)

    def __init__(
        self, data_dir: str = "data", cache_dir: str = "~/.cache/few_shot_nas", image_size: ImageSize = 28
    ) -> None:
        super().__init__(data_dir, cache_dir, image_size)

    def split_names(self) -> tuple[str, ...]:
        """Return train, val and test."""
        return ("train", "val", "test")

    def settings(self) -> dict[str, Any]:
        """Return the version of the drawing; the fonts count by size, not by the date they were installed."""
        return {"drawing": VERSION, "fonts": [self._font_size(face) for face in _FACES]}

    def input_files(self) -> tuple[Path, ...]:
        """Return nothing: the fonts are part of :meth:`settings`."""
        return ()

    def describe(self) -> str:
        """Return where the fonts come from."""
        return "the DejaVu fonts of matplotlib"

    def plan(self) -> dict[str, SplitPlan]:
        """Return the characters to draw, by split."""
        return {
            split: SplitPlan(
                tuple(f"U+{code:04X} {unicodedata.name(chr(code))}" for code in classes),
                (IMAGES_PER_CLASS,) * len(classes),
                (self.image_size, self.image_size, 1),
                _images(classes, self.image_size),
            )
            for split, classes in glyph_classes().items()
        }

    def _font_size(self, face: str) -> int:
        path = _face_path(face)
        if not path.is_file():
            raise InputError(f"{self.name}: the font {path} is missing; install matplotlib again")
        return path.stat().st_size
