"""tieredImageNet (Ren et al. 2018): 608 ImageNet classes, divided by the 34 categories they belong to."""

import logging
import math
import zipfile
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from few_shot_nas.data.image_files import LARGEST_FILE, decoded, resized
from few_shot_nas.data.layouts import ClassFolders, Content, Layout, LayoutSource, fields_of, label_titles, text_of
from few_shot_nas.data.pixels import Deep, shallow
from few_shot_nas.data.unpickle import load_pickle, stream_bytes
from few_shot_nas.errors import InputError
from few_shot_nas.ranges import ImageSize

logger = logging.getLogger(__name__)

Order = Literal["bgr", "rgb"]

_PNG = b"\x89PNG\r\n\x1a\n"
_SAMPLE = 500  # images on which the order of the colours is judged


class _Labelled(Layout):
    """One file of images in any order, and one of labels; the images are read once, from front to end."""

    images_file: str

    def has(self, root: Path, split: str) -> bool:
        """Return whether both files are there."""
        return all(file.is_file() for file in self.files(root, split))

    def files(self, root: Path, split: str) -> list[Path]:
        """Return the images and the labels."""
        return [root / self.images_file.format(split=split), root / f"{split}_labels.pkl"]

    def read(self, root: Path, split: str) -> Content:
        """Return the classes in the order of their labels."""
        path, labels_path = self.files(root, split)
        labels, titles = _read_labels(labels_path)
        numbers, counts = np.unique(labels, return_counts=True)
        positions = np.empty(len(labels), dtype=np.int64)
        positions[np.argsort(labels, kind="stable")] = np.arange(len(labels))

        def images(size: int, resample: Image.Resampling) -> Iterator[np.ndarray]:
            count = 0
            for count, image in enumerate(self.stream(path), start=1):
                if count > len(labels):
                    break
                yield resized(image, size, resample)
            if count != len(labels):
                more = "more than " if count > len(labels) else ""
                raise InputError(
                    f"{path}: {more}{min(count, len(labels))} images, and {len(labels)} labels in {labels_path}; they "
                    "do not belong together or one of them is cut off"
                )

        return Content(tuple(titles[n] for n in numbers.tolist()), tuple(counts.tolist()), images, positions)

    @abstractmethod
    def stream(self, path: Path) -> Iterator[Image.Image]:
        """Yield the pictures in RGB, in the order of the file."""


class PngPickles(_Labelled):
    """Encoded images: a list, or an array, of PNG byte strings or of uint8 arrays ``[n]`` or ``[n, 1]`` with them."""

    name = "png pickles"
    expects = "{train,val}_images_png.pkl with {train,val}_labels.pkl"
    images_file = "{split}_images_png.pkl"

    def stream(self, path: Path) -> Iterator[Image.Image]:
        """Yield the pictures; PNG says itself which channel is red."""
        for index, encoded in enumerate(stream_bytes(path, _PNG)):
            image = decoded(encoded, f"{path}: image {index}")
            yield (shallow(image, image.bounds.scale()) if isinstance(image, Deep) else image).convert("RGB")


class NpzArrays(_Labelled):
    """Decoded images, uint8 ``[n, height, width, 3]``, under the key ``images``, compressed or not."""

    name = "npz arrays"
    expects = "{train,val}_images.npz with {train,val}_labels.pkl"
    images_file = "{split}_images.npz"

    def __init__(self, order: Order) -> None:
        self._order = order

    def stream(self, path: Path) -> Iterator[Image.Image]:
        """Yield the pictures, their channels put in order."""
        try:
            with zipfile.ZipFile(path) as archive, archive.open("images.npy") as stream:
                shape = _header(path, stream)
                size = int(np.prod(shape[1:]))
                while pixels := stream.read(size):
                    image = np.frombuffer(pixels, dtype=np.uint8).reshape(shape[1:])
                    yield Image.fromarray(image[:, :, ::-1] if self._order == "bgr" else image)
        except InputError:
            raise
        except Exception as error:  # a damaged archive can raise nearly anything
            raise InputError(f"{path}: cannot be read as npz with images ({error}); get this file again") from error


def _header(path: Path, stream: Any) -> tuple[int, ...]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype != np.uint8 or fortran or len(shape) != 4 or shape[3] != 3 or not 0 < math.prod(shape[1:]) < LARGEST_FILE:
        raise InputError(f"{path}: images is {dtype} {list(shape)}, needed is uint8 [n, height, width, 3] in C order")
    return shape


def _read_labels(path: Path) -> tuple[np.ndarray, dict[int, str]]:
    """Return the label of every image and the name of every label.

    A name is ``<category>/<class>`` where the file knows both: ImageNet has two classes called crane.
    """
    fields = fields_of(path, load_pickle(path))
    labels = np.asarray(fields.get("label_specific", fields.get("labels")))
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels):
        raise InputError(
            f"{path}: label_specific or labels is missing or no list of integers ({labels.dtype} {list(labels.shape)})"
        )
    titles = label_titles(labels.tolist(), [str(text_of(name)) for name in fields.get("label_specific_str", ())])
    general = np.asarray(fields.get("label_general", ()))
    names = [str(text_of(name)) for name in fields.get("label_general_str", ())]
    if general.shape == labels.shape and general.dtype.kind in "iu" and names:
        category = label_titles(general.tolist(), names)
        of_label = dict(zip(labels.tolist(), general.tolist(), strict=True))
        titles = {label: f"{category[of_label[label]]}/{title}" for label, title in titles.items()}
    return labels, titles


class TieredImagenet(LayoutSource):
    """Colour photographs, 351/97/160 classes of 20/6/8 categories, about 1300 images each, 84x84.

    The first of these layouts that has train and val is used, in ``data_dir`` or its folders ``tiered-imagenet``,
    ``tiered_imagenet``, ``tieredImageNet`` or ``tieredimagenet``:

    - ``{train,val,test}_images_png.pkl``, encoded images, with ``{split}_labels.pkl``: keys ``label_specific`` and, for
      names, ``label_specific_str``, ``label_general`` and ``label_general_str``;
    - ``{train,val,test}_images.npz``, key ``images``, with ``{split}_labels.pkl``: key ``labels`` or as above;
    - folders ``{train,val,test}/<class>/*``.

    Both kinds of files are read image by image into the cache, 16.5 GB for all three splits at 84 pixels; never is a
    whole split in memory. Images of another size are resized as a whole: for 42 pixels by averaging areas, else by
    Lanczos. A warning says if the training pictures have more blue than red, as photographs with swapped channels do.
    Normalised by the mean and deviation that RFS uses. ImageNet's terms apply: non-commercial research and education.

    Args:
        data_dir: folder with the data.
        cache_dir: folder for the packed images.
        image_size: height and width in pixels.
        npz_order: order of the channels in the npz files: ``bgr`` as OpenCV decoded them in the published ones. PNG
            and image files are not concerned.
    """

    name = "TieredImagenet"
    mean = (0.4721, 0.4533, 0.4100)
    std = (0.2772, 0.2678, 0.2845)
    published = {"train": (351, 448_695), "val": (97, 124_261), "test": (160, 206_209)}
    roots = (".", "tiered-imagenet", "tiered_imagenet", "tieredImageNet", "tieredimagenet")
    advice = "The pickles are linked from github.com/renmengye/few-shot-ssl-public (tiered-imagenet.tar, 12.9 GB)"

    def __init__(
        self,
        data_dir: str = "data",
        cache_dir: str = "~/.cache/few_shot_nas",
        image_size: ImageSize = 84,
        npz_order: Order = "bgr",
    ) -> None:
        super().__init__(data_dir, cache_dir, image_size)
        if npz_order not in ("bgr", "rgb"):
            raise InputError(f"{self.name}: npz_order={npz_order} is not one of bgr, rgb")
        self.npz_order: Order = npz_order

    def layouts(self) -> tuple[Layout, ...]:
        """Return those listed above."""
        return PngPickles(), NpzArrays(self.npz_order), ClassFolders()

    def settings(self) -> dict[str, Any]:
        """Return the layout that was found and the order of the channels."""
        return {**super().settings(), "npz_order": self.npz_order}

    def resample(self) -> Image.Resampling:
        """Return the mean over areas for half the size, else Lanczos."""
        return Image.Resampling.BOX if self.image_size == 42 else Image.Resampling.LANCZOS

    def prepare(self) -> None:
        """Pack the images where that has not been done, and look at their colours.

        Raises:
            InputError: as for every source.
        """
        super().prepare()
        images = self.split("train").images
        red, _, blue = images[:: max(1, len(images) // _SAMPLE)].mean(axis=(0, 1, 2))
        if blue > red:
            logger.warning(
                "%s: the training pictures have more blue (%.0f) than red (%.0f); they may be swapped, see npz_order",
                *(self.name, blue, red),
            )
