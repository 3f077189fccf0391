"""The shapes in which mini-ImageNet is found on disks, each as one small reader."""

import json
import re
from collections import Counter
from pathlib import Path

from few_shot_nas.data.image_files import ImageFile, archive_members, is_hidden
from few_shot_nas.data.layouts import ArrayPickles, ClassFolders, Content, Layout, from_files, label_titles, whole
from few_shot_nas.data.lists import read_columns, read_text
from few_shot_nas.errors import InputError


def _check_once(path: Path, files: list[str]) -> None:
    """Refuse a list that names a file twice: one image would be support and query of a task.

    Raises:
        InputError: naming the list and the file.
    """
    twice = next((file for file, count in Counter(files).items() if count > 1), None)
    if twice is not None:
        raise InputError(f"{path}: lists {twice} twice; every image belongs to one class, and to it once")


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
        return from_files(self._in_shards(root, split, shards) if shards else self._in_folders(root, split))

    def _rows(self, root: Path, split: str) -> list[tuple[str, str]]:
        path = root / f"{split}.csv"
        rows = [(file, label) for file, label in read_columns(path, self._columns) if not is_hidden(Path(file).name)]
        _check_once(path, [file for file, _ in rows])
        return rows

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
        members: dict[str, list[ImageFile]] = {}
        for member in (member for shard in shards for member in archive_members(shard)):
            members.setdefault(member.parts[-1], []).append(member)
        classes: dict[str, list[ImageFile]] = {}
        for file, label in self._rows(root, split):
            found = members.get(file, [])
            if len(found) != 1:
                count = "none" if not found else f"{len(found)} places"
                raise InputError(f"{root / f'{split}.csv'}: lists {file}, which is in {count} of its zip shards")
            classes.setdefault(label, []).append(found[0])
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
        return from_files(self._classes(root, split))

    def _classes(self, root: Path, split: str) -> dict[str, list[ImageFile]]:
        path = root / self._file[split]
        try:
            content = json.loads(read_text(path))
            names, images = [str(n) for n in content["label_names"]], [str(n) for n in content["image_names"]]
            labels = [whole(label) for label in content["image_labels"]]
        except InputError:
            raise
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{path}: not a list with label_names, image_names and image_labels ({error})") from error
        if len(images) != len(labels):
            raise InputError(f"{path}: {len(images)} image_names but {len(labels)} image_labels; they must agree")
        title = label_titles(labels, names)
        if len(set(title.values())) < len(title):
            raise InputError(f"{path}: label_names has a name twice, so that two classes would become one; rename one")
        classes: dict[str, list[ImageFile]] = {title[label]: [] for label in sorted(set(labels))}
        for image, label in zip(images, labels, strict=True):
            if not is_hidden(Path(image).name):
                classes[title[label]].append(ImageFile(self._resolve(path, image)))
        _check_once(path, [str(file.path) for files in classes.values() for file in files])
        return {name: files for name, files in classes.items() if files}

    def _resolve(self, path: Path, image: str) -> Path:
        base = Path(image).name
        for candidate in (path.parent / image, path.parent / "images" / base, path.parent / base):
            if candidate.is_file():
                return candidate
        raise InputError(f"{path}: lists {image}, which is neither at that place nor in {path.parent} or its images/")


LAYOUTS: tuple[Layout, ...] = (
    CsvLists(),
    ClassFolders(),
    ArrayPickles(
        "cache pickles",
        "mini-imagenet-cache-{train,val}.pkl",
        {
            "train": ("mini-imagenet-cache-train.pkl",),
            "val": ("mini-imagenet-cache-val.pkl", "mini-imagenet-cache-validation.pkl"),
            "test": ("mini-imagenet-cache-test.pkl",),
        },
    ),
    ArrayPickles(
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
