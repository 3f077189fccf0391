"""The shapes in which mini-ImageNet is found on disks, each as one small reader."""

import csv
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from few_shot_nas.data.image_files import ImageFile, archive_members, folder_members, read_all, resized
from few_shot_nas.data.source import SPLITS
from few_shot_nas.data.unpickle import load_pickle
from few_shot_nas.errors import InputError

_ROOTS = (".", "mini_imagenet", "mini-imagenet", "miniImagenet", "miniImageNet", "mini_imagenet_full_size")


class Content(NamedTuple):
    """One split as it lies on the disk.

    Attributes:
        class_names: one name per class.
        counts: number of images of each class.
        images: (size, filter) -> the images, class by class, uint8 ``[size, size, 3]``.
    """

    class_names: tuple[str, ...]
    counts: tuple[int, ...]
    images: Callable[[int, Image.Resampling], Iterator[np.ndarray]]


class Layout(ABC):
    """One shape of the dataset.

    Attributes:
        name: what the log calls it.
        expects: its files, for the message about missing data.
    """

    name: str
    expects: str

    @abstractmethod
    def has(self, root: Path, split: str) -> bool:
        """Return whether ``root`` looks as if it held the split in this shape; cheap."""

    @abstractmethod
    def files(self, root: Path, split: str) -> list[Path]:
        """Return the files that the split is read from."""

    @abstractmethod
    def read(self, root: Path, split: str) -> Content:
        """Return the classes and images of the split.

        Raises:
            InputError: naming the file that is missing or damaged.
        """


class Found(NamedTuple):
    """The layout in use, the folder it is in, and the splits that are there."""

    layout: Layout
    root: Path
    splits: tuple[str, ...]


def find(data_dir: Path, label: str) -> Found:
    """Return the first layout that has train and val.

    Raises:
        InputError: if none has, saying what was looked for, where, and what was half there.
    """
    half = []
    for root in (data_dir / name for name in _ROOTS):
        for layout in LAYOUTS:
            splits = tuple(split for split in SPLITS if layout.has(root, split))
            if "train" in splits and "val" in splits:
                return Found(layout, root, splits)
            if splits:
                half.append(f"{root} has {layout.name} for {', '.join(splits)} only")
    raise InputError(
        f"{label}: train and val images are not in data_dir={data_dir} nor in its folders {', '.join(_ROOTS[1:])}"
        f"{' (' + '; '.join(half) + ')' if half else ''}; needed is one of: "
        f"{'; '.join(layout.expects for layout in LAYOUTS)}. The lists are at "
        "github.com/twitter-research/meta-learning-lstm (data/miniImagenet), the images are part of ImageNet "
        "(image-net.org, ILSVRC2012 train), the pickles are at zenodo.org/records/7978538"
    )


def _from_files(classes: dict[str, list[ImageFile]]) -> Content:
    files = [file for images in classes.values() for file in images]
    return Content(
        tuple(classes),
        tuple(len(images) for images in classes.values()),
        lambda size, resample: read_all(files, "RGB", size, resample),
    )


class CsvLists(Layout):
    """Ravi and Larochelle's lists, or easyfsl's, with the images in zip shards or in folders."""

    name = "csv lists + images"
    expects = "{train,val}.csv with images/ or zip shards {split}-{i}-of-{n}.zip"

    _columns = (("filename", "label"), ("filename", "class"), ("image_name", "class_name"))
    _patterns = (
        "images/{file}", "images_by_class/{label}/{file}", "images/{label}/{file}", "{split}/{label}/{file}", "{file}"
    )  # fmt: skip

    def has(self, root: Path, split: str) -> bool:
        """Return whether the list is there and some of its images."""
        if not (root / f"{split}.csv").is_file():
            return False
        return bool(self._shards(root, split)) or self._pattern(root, split, self._rows(root, split)) is not None

    def files(self, root: Path, split: str) -> list[Path]:
        """Return the list, and the zip shards or the images."""
        listed = [root / f"{split}.csv"]
        shards = self._shards(root, split)
        return listed + (shards or [file.path for files in self._in_folders(root, split).values() for file in files])

    def read(self, root: Path, split: str) -> Content:
        """Return the classes in the order of the list."""
        shards = self._shards(root, split)
        return _from_files(self._in_shards(root, split, shards) if shards else self._in_folders(root, split))

    def _rows(self, root: Path, split: str) -> list[tuple[str, str]]:
        path = root / f"{split}.csv"
        with open(path, newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            header = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = header
            for file, label in self._columns:
                if file in header and label in header:
                    rows = [(row[file] or "", row[label] or "") for row in reader]
                    if not rows or not all(file and label for file, label in rows):
                        raise InputError(f"{path}: empty, or a row without {file} or {label}; get the list again")
                    return rows
        raise InputError(f"{path}: columns are {','.join(header)}; needed are filename,label or class_name,image_name")

    def _shards(self, root: Path, split: str) -> list[Path]:
        shards: dict[int, Path] = {}
        total = 0
        for path in sorted(root.glob(f"{split}-*-of-*.zip")):
            match = re.fullmatch(rf"{split}-(\d+)-of-(\d+)\.zip", path.name)
            if match:
                shards[int(match[1])] = path
                total = int(match[2])
        missing = [f"{split}-{index}-of-{total}.zip" for index in range(total) if index not in shards]
        if missing:
            raise InputError(f"MiniImagenet: {', '.join(missing)} missing in {root}, the other shards are there")
        return [shards[index] for index in sorted(shards)]

    def _in_shards(self, root: Path, split: str, shards: list[Path]) -> dict[str, list[ImageFile]]:
        members = {file.parts[-1]: file for shard in shards for file in archive_members(shard)}
        classes: dict[str, list[ImageFile]] = {}
        for file, label in self._rows(root, split):
            if file not in members:
                raise InputError(f"{root / f'{split}.csv'}: lists {file}, which is in none of its zip shards")
            classes.setdefault(label, []).append(members[file])
        return classes

    def _pattern(self, root: Path, split: str, rows: list[tuple[str, str]]) -> str | None:
        file, label = rows[0]
        for pattern in self._patterns:
            if (root / pattern.format(file=file, label=label, split=split)).is_file():
                return pattern
        return None

    def _in_folders(self, root: Path, split: str) -> dict[str, list[ImageFile]]:
        rows = self._rows(root, split)
        pattern = self._pattern(root, split, rows) or self._patterns[0]
        classes: dict[str, list[ImageFile]] = {}
        for file, label in rows:
            path = root / pattern.format(file=file, label=label, split=split)
            if not path.is_file():
                raise InputError(f"{root / f'{split}.csv'}: lists {file}, and {path} does not exist")
            classes.setdefault(label, []).append(ImageFile(path))
        return classes


class ClassFolders(Layout):
    """One folder per split with one folder per class, as torchvision's ImageFolder reads it."""

    name = "class folders"
    expects = "{train,val}/<class>/*.jpg"

    def has(self, root: Path, split: str) -> bool:
        """Return whether the split's folder holds a folder."""
        return (root / split).is_dir() and any(entry.is_dir() for entry in (root / split).iterdir())

    def files(self, root: Path, split: str) -> list[Path]:
        """Return every image."""
        return [file.path for files in self._classes(root, split).values() for file in files]

    def read(self, root: Path, split: str) -> Content:
        """Return the classes sorted by name; folders without pictures are passed over."""
        return _from_files(self._classes(root, split))

    def _classes(self, root: Path, split: str) -> dict[str, list[ImageFile]]:
        folders = sorted(entry for entry in (root / split).iterdir() if entry.is_dir())
        classes = {folder.name: folder_members(folder) for folder in folders}
        return {name: files for name, files in classes.items() if files}


class JsonLists(Layout):
    """The lists of "A Closer Look at Few-shot Classification"."""

    name = "json lists"
    expects = "base.json and val.json with the images they list"

    _file = {"train": "base.json", "val": "val.json", "test": "novel.json"}

    def has(self, root: Path, split: str) -> bool:
        """Return whether the list is there."""
        return (root / self._file[split]).is_file()

    def files(self, root: Path, split: str) -> list[Path]:
        """Return the list and every image."""
        images = [file.path for files in self._classes(root, split).values() for file in files]
        return [root / self._file[split], *images]

    def read(self, root: Path, split: str) -> Content:
        """Return the classes in the order of their labels."""
        return _from_files(self._classes(root, split))

    def _classes(self, root: Path, split: str) -> dict[str, list[ImageFile]]:
        path = root / self._file[split]
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            names, images = [str(n) for n in content["label_names"]], [str(n) for n in content["image_names"]]
            labels = [int(label) for label in content["image_labels"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not a list with label_names, image_names and image_labels ({error})") from error
        if len(images) != len(labels):
            raise InputError(f"{path}: {len(images)} image_names but {len(labels)} image_labels; they must agree")
        title = _label_titles(labels, names)
        classes: dict[str, list[ImageFile]] = {title[label]: [] for label in sorted(set(labels))}
        for image, label in zip(images, labels, strict=True):
            classes[title[label]].append(ImageFile(self._resolve(path, image)))
        return classes

    def _resolve(self, path: Path, image: str) -> Path:
        base = Path(image).name
        for candidate in (path.parent / image, path.parent / "images" / base, path.parent / base):
            if candidate.is_file():
                return candidate
        raise InputError(f"{path}: lists {image}, which is neither at that place nor in {path.parent} or its images/")


class Pickles(Layout):
    """Arrays of all images of a split in one pickle: the cache pickles, and those of RFS and MetaOptNet."""

    def __init__(self, name: str, expects: str, file_names: dict[str, tuple[str, ...]]) -> None:
        self.name = name
        self.expects = expects
        self._file_names = file_names

    def has(self, root: Path, split: str) -> bool:
        """Return whether the pickle is there."""
        return any((root / name).is_file() for name in self._file_names[split])

    def files(self, root: Path, split: str) -> list[Path]:
        """Return the pickle."""
        return [root / name for name in self._file_names[split] if (root / name).is_file()][:1]

    def read(self, root: Path, split: str) -> Content:
        """Return the classes; the array is read again when the images are asked for, so that one is held at a time."""
        (path,) = self.files(root, split)
        classes = _rows_by_class(path, load_pickle(path))
        rows = [row for members in classes.values() for row in members]

        def images(size: int, resample: Image.Resampling) -> Iterator[np.ndarray]:
            pixels = _array(path, load_pickle(path))
            for row in rows:
                yield resized(Image.fromarray(pixels[row]), size, resample)

        return Content(tuple(classes), tuple(len(members) for members in classes.values()), images)


def _text(key: Any) -> Any:
    return key.decode("latin1") if isinstance(key, bytes) else key


def _fields(path: Path, content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, needed is a dict with image_data or data")
    return {str(_text(key)): value for key, value in content.items()}


def _array(path: Path, content: Any) -> np.ndarray:
    fields = _fields(path, content)
    pixels = np.asarray(fields.get("image_data", fields.get("data")))
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
        raise InputError(
            f"{path}: image_data or data is {pixels.dtype} {list(pixels.shape)}, needed is uint8 [n, height, width, 3]"
        )
    return pixels


def _label_titles(labels: list[int], names: list[str]) -> dict[int, str]:
    """Return label -> class name: by index, else by rank where there are as many names as labels, else by number."""
    distinct = sorted(set(labels))
    if distinct and 0 <= distinct[0] and distinct[-1] < len(names):
        return {label: names[label] for label in distinct}
    if len(names) == len(distinct):
        return dict(zip(distinct, names, strict=True))
    return {label: f"label {label}" for label in distinct}


def _rows_by_class(path: Path, content: Any) -> dict[str, list[int]]:
    fields = _fields(path, content)
    count = len(_array(path, content))
    try:
        if "class_dict" in fields:
            classes = {str(_text(name)): [int(row) for row in rows] for name, rows in fields["class_dict"].items()}
        else:
            labels = [int(label) for label in fields["labels"]]
            title = {int(label): str(_text(name)) for name, label in dict(fields.get("catname2label", {})).items()}
            classes = {title.get(label, f"label {label}"): [] for label in sorted(set(labels))}
            for row, label in enumerate(labels):
                classes[title.get(label, f"label {label}")].append(row)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path}: class_dict, or labels, is missing or of another kind ({type(error).__name__}: {error})"
        ) from error
    if any(not 0 <= row < count for rows in classes.values() for row in rows):
        raise InputError(f"{path}: names rows beyond its {count} images; get this file again")
    return classes


LAYOUTS: tuple[Layout, ...] = (
    CsvLists(),
    ClassFolders(),
    Pickles(
        "cache pickles",
        "mini-imagenet-cache-{train,val}.pkl",
        {
            "train": ("mini-imagenet-cache-train.pkl",),
            "val": ("mini-imagenet-cache-val.pkl", "mini-imagenet-cache-validation.pkl"),
            "test": ("mini-imagenet-cache-test.pkl",),
        },
    ),
    Pickles(
        "RFS pickles",
        "miniImageNet_category_split_{train_phase_train,val}.pickle",
        {
            "train": ("miniImageNet_category_split_train_phase_train.pickle",),
            "val": ("miniImageNet_category_split_val.pickle",),
            "test": ("miniImageNet_category_split_test.pickle",),
        },
    ),
    JsonLists(),
)
