"""Pictures with a model's answers on one page, least certain first: where a look is worth most."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from few_shot_nas.data.image_files import content_of, decoded
from few_shot_nas.data.pixels import Deep, converted, shallow
from few_shot_nas.report.page import write_page

#: Longer side of a small picture in pixels; twice what is shown, for screens with small pixels.
SIDE = 240
#: Pictures on a page: some 8 kB each.
MOST = 500


class Scored(Protocol):
    """Answers for Q pictures: names, class names and probabilities ``[Q][N]``."""

    @property
    def class_names(self) -> Sequence[str]:
        """The N classes."""

    @property
    def names(self) -> Sequence[str]:
        """The Q pictures."""

    @property
    def probabilities(self) -> Sequence[Sequence[float]]:
        """``[Q][N]``."""


def write_contact_sheet(
    path: Path, files: Sequence[Path], answers: Scored, about: Mapping[str, str], *, upright: bool = True
) -> Path:
    """Write the page.

    Args:
        path: of the page; its folder must exist.
        files: the Q pictures.
        answers: what was said of them.
        about: label -> text, for the head of the page.
        upright: turn the pictures as their EXIF tag says.

    Returns:
        ``path``: one file that needs no other.
    """
    order = sorted(range(len(files)), key=lambda row: (max(answers.probabilities[row]), answers.names[row]))
    tiles = [
        {
            "name": answers.names[row],
            "picture": small_picture(files[row], upright),
            "bars": best_classes(answers.class_names, answers.probabilities[row]),
        }
        for row in order[:MOST]
    ]
    content = {
        "title": f"{len(files)} pictures, {len(answers.class_names)} classes",
        "about": dict(about),
        "tiles": tiles,
        "left": len(files) - len(tiles),
    }
    return write_page(path, "contact_sheet.html.jinja", content)


def best_classes(class_names: Sequence[str], probabilities: Sequence[float], most: int = 3) -> list[tuple[str, float]]:
    """Return the most probable classes with their probabilities, in falling order.

    >>> best_classes(["cat", "dog"], [0.25, 0.75])
    [('dog', 0.75), ('cat', 0.25)]
    """
    ranked = sorted(zip(class_names, probabilities, strict=True), key=lambda item: -item[1])
    return ranked[:most]


def small_picture(file: Path, upright: bool) -> str:
    """Return a picture in small as a data URL."""
    image = decoded(content_of(file), f"{file}:", upright)
    picture = converted(shallow(image, image.bounds.scale()) if isinstance(image, Deep) else image, "RGB")
    picture.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
