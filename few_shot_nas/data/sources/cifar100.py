"""CIFAR-100 as its authors publish it, with its classes divided anew: what CIFAR-FS and FC100 are made of."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from few_shot_nas.data.image_files import resized
from few_shot_nas.data.layouts import Content, Layout, fields_of, text_of
from few_shot_nas.data.unpickle import load_pickle
from few_shot_nas.errors import InputError

FOLDER = "cifar-100-python"
WHERE = "cifar-100-python is at www.cs.toronto.edu/~kriz/cifar.html, or torchvision.datasets.CIFAR100(download=True)"
MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)  # of CIFAR-100's 50,000 training images

_PARTS = ("train", "test")
_SIZE = 32


class Cifar100Python(Layout):
    """``cifar-100-python/{train,test,meta}``, its training and test images taken together: 600 per class.

    Args:
        split_of: (fine class, superclass) -> train, val or test; names as in CIFAR-100's own ``meta``.
    """

    name = FOLDER
    expects = f"{FOLDER}/{{train,test,meta}}"

    def __init__(self, split_of: Callable[[str, str], str]) -> None:
        self._split_of = split_of

    def has(self, root: Path, split: str) -> bool:
        """Return whether all three files are there; every split is read from them."""
        return all(file.is_file() for file in self.files(root, split))

    def files(self, root: Path, split: str) -> list[Path]:
        """Return the three files."""
        return [root / FOLDER / name for name in (*_PARTS, "meta")]

    def read(self, root: Path, split: str) -> Content:
        """Return the classes in the order of CIFAR-100, that is by name."""
        folder = root / FOLDER
        meta = folder / "meta"
        fine, coarse = (_names(meta, key) for key in ("fine_label_names", "coarse_label_names"))
        labels = np.concatenate([_labels(folder / part) for part in _PARTS])
        if (labels < 0).any() or (labels >= (len(fine), len(coarse))).any():
            raise InputError(f"{folder}: labels beyond the {len(fine)} classes and {len(coarse)} superclasses of meta")
        superclass = {int(c): coarse[s] for c, s in labels}
        chosen = [c for c in sorted(superclass) if self._split_of(fine[c], superclass[c]) == split]
        rows = [np.flatnonzero(labels[:, 0] == c) for c in chosen]

        def images(size: int, resample: Image.Resampling) -> Iterator[np.ndarray]:
            pixels = np.concatenate([_pixels(folder / part) for part in _PARTS])
            for row in np.concatenate(rows):
                yield resized(Image.fromarray(pixels[row]), size, resample)

        return Content(tuple(fine[c] for c in chosen), tuple(map(len, rows)), images)


def _field(path: Path, key: str) -> Any:
    fields = fields_of(path, load_pickle(path))
    if key not in fields:
        raise InputError(f"{path}: {key} is missing; this is not CIFAR-100 (CIFAR-10 cannot be used). {WHERE}")
    return fields[key]


def _names(path: Path, key: str) -> list[str]:
    return [str(text_of(name)) for name in _field(path, key)]


def _labels(path: Path) -> np.ndarray:
    """Return fine and coarse labels, ``[n, 2]``."""
    fine, coarse = (np.asarray(_field(path, key)) for key in ("fine_labels", "coarse_labels"))
    if fine.ndim != 1 or fine.shape != coarse.shape or fine.dtype.kind not in "iu" or coarse.dtype.kind not in "iu":
        raise InputError(f"{path}: fine_labels and coarse_labels must be equally many integers; get this file again")
    return np.stack([fine, coarse], axis=1)


def _pixels(path: Path) -> np.ndarray:
    """Return the images, uint8 ``[n, 32, 32, 3]``."""
    data = np.asarray(_field(path, "data"))
    if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3 * _SIZE * _SIZE:
        raise InputError(f"{path}: data is {data.dtype} {list(data.shape)}, needed is uint8 [n, 3072]; get it again")
    return np.ascontiguousarray(data.reshape(-1, 3, _SIZE, _SIZE).transpose(0, 2, 3, 1))
