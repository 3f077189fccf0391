"""How a dataset lies on the disk: small readers for its various shapes, and a source that takes the first it finds."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from PIL import Image

from few_shot_nas.data.image_files import Depth, ImageFile, folder_members, folders_in, read_all, refuse_shared, resized
from few_shot_nas.data.source import SPLITS, Source, SplitPlan
from few_shot_nas.data.unpickle import load_pickle
from few_shot_nas.errors import InputError
from few_shot_nas.ranges import ImageSize


class Content(NamedTuple):
    """One split as it lies on the disk.

    Attributes:
        class_names: one name per class.
        counts: number of images of each class.
        images: (size, filter) -> the images, class by class, uint8 ``[size, size, 3]``.
        positions: as in :class:`~few_shot_nas.data.pack.SplitPlan`, where the images come in another order.
        files: the pictures, where each lies in a file of its own; they are scaled together with those of other splits.
    """

    class_names: tuple[str, ...]
    counts: tuple[int, ...]
    images: Callable[[int, Image.Resampling], Iterator[np.ndarray]]
    positions: np.ndarray | None = None
    files: Sequence[ImageFile] = ()


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


class FoundLayout(NamedTuple):
    """The layout in use, the folder it is in, and the splits that are there."""

    layout: Layout
    root: Path
    splits: tuple[str, ...]


class LayoutSource(Source):
    """A source of colour images that lie in one of several layouts.

    Attributes:
        roots: folders below ``data_dir``, itself first, that are searched, for every layout in turn.
        advice: where to get the data, for the message when there is none.
    """

    in_channels = 3
    roots: ClassVar[tuple[str, ...]]
    advice: ClassVar[str]

    def __init__(self, data_dir: str, cache_dir: str, image_size: ImageSize) -> None:
        super().__init__(data_dir, cache_dir, image_size)
        self._found: FoundLayout | None = None

    @abstractmethod
    def layouts(self) -> tuple[Layout, ...]:
        """Return what is looked for; the first that has train and val is used, the test split may be absent."""

    def split_names(self) -> tuple[str, ...]:
        """Return train, val and, where its files are there, test."""
        return tuple(split for split in SPLITS if split in self._layout().splits)

    def settings(self) -> dict[str, Any]:
        """Return the layout that was found."""
        return {"layout": self._layout().layout.name}

    def input_files(self) -> list[Path]:
        """Return the lists and archives, or every image of the tree.

        Raises:
            InputError: if train or val is missing.
        """
        found = self._layout()
        return sorted({file for split in found.splits for file in found.layout.files(found.root, split)})

    def describe(self) -> str:
        """Return the layout that was found."""
        found = self._layout()
        return f"{found.layout.name} in {found.root}"

    def plan(self) -> dict[str, SplitPlan]:
        """Return the classes of each split with the images to read."""
        found = self._layout()
        contents = {split: found.layout.read(found.root, split) for split in self.split_names()}
        shape = (self.image_size, self.image_size, 3)
        depth = Depth(file for content in contents.values() for file in content.files)
        return {
            split: SplitPlan(
                names,
                contents[split].counts,
                shape,
                self._images(contents[split], depth),
                positions=contents[split].positions,
            )
            for split, names in distinct_names(contents, self.published).items()
        }

    def _images(self, content: Content, depth: Depth) -> Iterator[np.ndarray]:
        if not content.files:
            return content.images(self.image_size, self.resample())
        return read_all(content.files, "RGB", self.image_size, self.resample(), depth=depth)

    def _layout(self) -> FoundLayout:
        if self._found is None:
            self._found = find(self.data_dir, self.name, self.roots, self.layouts(), self.advice)
        return self._found


def find(data_dir: Path, label: str, roots: Sequence[str], layouts: Sequence[Layout], advice: str) -> FoundLayout:
    """Return the first layout that has train and val.

    Args:
        data_dir: the folder the user gave.
        label: the source, for the message.
        roots: folders below ``data_dir`` to search, ``.`` first.
        layouts: what to look for in each.
        advice: where to get the data, a clause for the end of the message.

    Raises:
        InputError: if none has, saying what was looked for, where, and what was half there.
    """
    half = []
    for root in (data_dir / name for name in roots):
        for layout in layouts:
            splits = tuple(split for split in SPLITS if layout.has(root, split))
            if "train" in splits and "val" in splits:
                return FoundLayout(layout, root, splits)
            if splits:
                half.append(f"{root} has {layout.name} for {', '.join(splits)} only")
    raise InputError(
        f"{label}: train and val images are not in data_dir={data_dir} nor in its folders {', '.join(roots[1:])}"
        f"{' (' + '; '.join(half) + ')' if half else ''}; needed is one of: "
        f"{'; '.join(layout.expects for layout in layouts)}. {advice}"
    )


def distinct_names(
    contents: Mapping[str, Content], published: Mapping[str, tuple[int, int]]
) -> dict[str, tuple[str, ...]]:
    """Return the class names of each split, those of unnamed classes made different where they surely are.

    Files without class names number them over all splits, or afresh in each. In the second case the same numbers in two
    splits mean nothing; it is taken for granted only where every split has exactly its published number of classes,
    which copies that are split by image do not have.

    Args:
        contents: what was read, by split.
        published: split -> (classes, images) of the published dataset.
    """
    afresh = all(
        split in published and content.class_names == tuple(f"label {label}" for label in range(published[split][0]))
        for split, content in contents.items()
    )
    prefix = "{} " if afresh else ""
    return {
        split: tuple(prefix.format(split) + name for name in content.class_names)
        for split, content in contents.items()
    }


def from_files(classes: Mapping[str, Sequence[ImageFile]]) -> Content:
    """Return what a split holds, given the pictures of each class."""
    files = [file for images in classes.values() for file in images]
    return Content(
        tuple(classes),
        tuple(len(images) for images in classes.values()),
        lambda size, resample: read_all(files, "RGB", size, resample, depth=Depth(files)),
        files=files,
    )


class ClassFolders(Layout):
    """One folder per split with one folder per class, as torchvision's ImageFolder reads it."""

    name = "class folders"
    expects = "{train,val}/<class>/*.jpg"

    def has(self, root: Path, split: str) -> bool:
        """Return whether the split's folder holds a folder."""
        return (root / split).is_dir() and bool(folders_in(root / split))

    def files(self, root: Path, split: str) -> list[Path]:
        """Return every image."""
        return [file.path for files in self._classes(root, split).values() for file in files]

    def read(self, root: Path, split: str) -> Content:
        """Return the classes sorted by name; folders without pictures are passed over."""
        return from_files(self._classes(root, split))

    def _classes(self, root: Path, split: str) -> dict[str, list[ImageFile]]:
        places = [root / name for name in SPLITS if (root / name).is_dir()]
        refuse_shared(folder for place in places for folder in folders_in(place))
        classes = {folder.name: folder_members(folder) for folder in folders_in(root / split)}
        return {name: files for name, files in classes.items() if files}


class ArrayPickles(Layout):
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


def text_of(key: Any) -> Any:
    """Return a key as text; pickles of Python 2 may have it as bytes."""
    return key.decode("latin1") if isinstance(key, bytes) else key


def fields_of(path: Path, content: Any) -> dict[str, Any]:
    """Return the content of a pickle as a dict with text keys.

    Raises:
        InputError: if it is no dict.
    """
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, needed is a dict of named arrays")
    return {str(text_of(key)): value for key, value in content.items()}


def _array(path: Path, content: Any) -> np.ndarray:
    fields = fields_of(path, content)
    pixels = np.asarray(fields.get("image_data", fields.get("data")))
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
        raise InputError(
            f"{path}: image_data or data is {pixels.dtype} {list(pixels.shape)}, needed is uint8 [n, height, width, 3]"
        )
    return pixels


def label_titles(labels: list[int], names: list[str]) -> dict[int, str]:
    """Return label -> class name: by index, else by rank where there are as many names as labels, else by number."""
    distinct = sorted(set(labels))
    if distinct and 0 <= distinct[0] and distinct[-1] < len(names):
        return {label: names[label] for label in distinct}
    if len(names) == len(distinct):
        return dict(zip(distinct, names, strict=True))
    return {label: f"label {label}" for label in distinct}


def whole(value: Any) -> int:
    """Return a whole number of a file as int.

    Raises:
        TypeError: if it is anything else, such as 1.5, infinity, a text or a truth value.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise TypeError(f"{value!r:.40} is no whole number")
    return int(value)


def _rows_by_class(path: Path, content: Any) -> dict[str, list[int]]:
    fields = fields_of(path, content)
    count = len(_array(path, content))
    try:
        if "class_dict" in fields:
            classes = {str(text_of(name)): [whole(row) for row in rows] for name, rows in fields["class_dict"].items()}
        else:
            labels = [whole(label) for label in fields["labels"]]
            title = {whole(label): str(text_of(name)) for name, label in dict(fields.get("catname2label", {})).items()}
            classes = {title.get(label, f"label {label}"): [] for label in sorted(set(labels))}
            for row, label in enumerate(labels):
                classes[title.get(label, f"label {label}")].append(row)
            if len(labels) != count:
                raise ValueError(f"{len(labels)} labels of {count} images")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path}: class_dict, or labels, is missing or of another kind ({type(error).__name__}: {error})"
        ) from error
    if any(not 0 <= row < count for rows in classes.values() for row in rows):
        raise InputError(f"{path}: names rows beyond its {count} images; get this file again")
    named = [row for rows in classes.values() for row in rows]
    if len(set(named)) < len(named):
        raise InputError(
            f"{path}: names a row twice: one image would be support and query of a task; get this file again"
        )
    return classes
