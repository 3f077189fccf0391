"""Photographs that a test makes: one colour per class, with noise, in files as people have them."""

import colorsys
from pathlib import Path

import numpy as np
from PIL import Image


def photo(hue: float, seed: int, size: tuple[int, int]) -> Image.Image:
    """Return a picture of one colour with noise and a darker part whose place depends on the seed."""
    rng = np.random.default_rng(seed)
    pixels = np.full((*size[::-1], 3), [255 * part for part in colorsys.hsv_to_rgb(hue, 0.9, 0.9)])
    row, column = rng.integers(0, size[1] // 2), rng.integers(0, size[0] // 2)
    pixels[row : row + size[1] // 3, column : column + size[0] // 3] *= 0.6
    return Image.fromarray((pixels + rng.normal(0, 8, pixels.shape)).clip(0, 255).astype(np.uint8))


def write_classes(folder: Path, hues: dict[str, float], images: int | dict[str, int], size: tuple[int, int]) -> None:
    """Write ``folder/<class>/<number>.png``; ``images`` of each class."""
    for place, (name, hue) in enumerate(hues.items()):
        (folder / name).mkdir(parents=True)
        count = images if isinstance(images, int) else images[name]
        for number in range(count):
            photo(hue, 1000 * place + number, size).save(folder / name / f"{number}.png")
