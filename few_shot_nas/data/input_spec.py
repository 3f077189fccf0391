"""How a picture becomes what a network was trained on: size, colours, filter, normalisation. Nothing else is needed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from few_shot_nas.data.image_files import Depth, ImageFile, read_all
from few_shot_nas.data.normalisation import normalise, planes
from few_shot_nas.errors import InputError

MODES = {1: "L", 3: "RGB"}  # of PIL, by number of channels


@dataclass(frozen=True)
class InputSpec:
    """How pictures are read and normalised.

    Attributes:
        image_size: height and width in pixels; pictures of another size are resized as a whole.
        mean: per channel, subtracted from the picture scaled to [0, 1]. Its length is the number of channels.
        std: per channel, divides what is left.
        resample: name of PIL's filter for resizing.
        invert: swap dark and light after reading, as for ink on paper.
        upright: turn a picture as its EXIF tag says.

    >>> spec = InputSpec(2, (0.5,), (0.25,))
    >>> spec.normalised(np.full((1, 2, 2, 1), 255, dtype=np.uint8)).flatten().tolist()
    [2.0, 2.0, 2.0, 2.0]
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resample: str = "LANCZOS"
    invert: bool = False
    upright: bool = True

    @property
    def channels(self) -> int:
        """Number of channels C."""
        return len(self.mean)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "InputSpec":
        """Return the specification that :meth:`to_dict` wrote.

        Raises:
            InputError: if a field is missing, unknown or of another kind.
        """
        try:
            values: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in content.items()}
            spec = cls(**values)
            fits = spec.image_size >= 1 and len(spec.mean) == len(spec.std) and spec.channels in MODES
            fits = fits and spec.resample in Image.Resampling.__members__
        except TypeError as error:
            raise InputError(f"input specification: {error}; it has {', '.join(cls.__dataclass_fields__)}") from error
        if not fits:
            raise InputError(f"input specification {dict(content)}: size, channels or filter are not possible")
        return spec

    def pixels(self, files: Sequence[Path | ImageFile]) -> np.ndarray:
        """Read pictures as uint8 ``[n, size, size, C]``.

        Samples of more than 8 bits are scaled by the range that all of ``files`` have together: give what is to be
        compared in one call.

        Raises:
            InputError: naming the first file that cannot be read.
        """
        found = [file if isinstance(file, ImageFile) else ImageFile(Path(file)) for file in files]
        how = MODES[self.channels], self.image_size, Image.Resampling[self.resample]
        read = read_all(found, *how, invert=self.invert, upright=self.upright, depth=Depth(found))
        empty = np.empty((0, self.image_size, self.image_size, self.channels), dtype=np.uint8)
        return np.stack(list(read)) if found else empty

    def normalised(self, pixels: np.ndarray) -> Tensor:
        """Return uint8 ``[n, H, W, C]`` as the float32 ``[n, C, H, W]`` that the network takes."""
        return normalise(planes(torch.from_numpy(pixels)), self.mean, self.std)

    def read(self, files: Sequence[Path | ImageFile]) -> Tensor:
        """Read and normalise pictures: float32 ``[n, C, size, size]``.

        Raises:
            InputError: naming the first file that cannot be read.
        """
        return self.normalised(self.pixels(files))
