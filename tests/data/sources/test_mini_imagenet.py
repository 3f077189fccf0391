"""mini-ImageNet from tiny copies of every layout. Truth: the colour each class is painted in."""

import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from few_shot_nas.data.sources.mini_imagenet import MiniImagenet
from few_shot_nas.errors import InputError

# Class -> colour. Red, green and blue differ, so that swapped channels would show.
COLOURS = {
    "n01": (200, 100, 0), "n02": (0, 200, 100), "n03": (100, 0, 200), "n04": (250, 250, 10), "n05": (40, 80, 160)
}  # fmt: skip
SPLITS = {"train": ["n01", "n02"], "val": ["n03", "n04"], "test": ["n05"]}
IMAGES = 3


def jpeg(colour: tuple[int, int, int], size: int = 84) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def files_of(split: str) -> list[tuple[str, str]]:
    return [(f"{name}{i:08}.jpg", name) for name in SPLITS[split] for i in range(IMAGES)]


def write_list(root: Path, split: str, header: str = "filename,label", class_first: bool = False) -> None:
    rows = [f"{name},{file}" if class_first else f"{file},{name}" for file, name in files_of(split)]
    put(root / f"{split}.csv", "\n".join([header, *rows, ""]).encode())


def csv_with(pattern: str, header: str = "filename,label", class_first: bool = False):
    def write(root: Path, split: str) -> None:
        write_list(root, split, header, class_first)
        for file, name in files_of(split):
            put(root / pattern.format(file=file, name=name, split=split), jpeg(COLOURS[name]))

    return write


def csv_and_shards(root: Path, split: str) -> None:
    write_list(root, split)
    for shard in range(2):
        with zipfile.ZipFile(root / f"{split}-{shard}-of-2.zip", "w") as archive:
            for file, name in files_of(split)[shard::2]:
                archive.writestr(f"images/{file}", jpeg(COLOURS[name]))


def class_folders(root: Path, split: str) -> None:
    for file, name in files_of(split):
        put(root / split / name / file, jpeg(COLOURS[name], size=100))


def pixels_of(split: str) -> np.ndarray:
    colours = [COLOURS[name] for _, name in files_of(split)]
    return np.array(colours, dtype=np.uint8)[:, None, None, :].repeat(84, axis=1).repeat(84, axis=2)


def cache_pickle(val_name: str = "val", text=str, protocol: int = 4):
    def write(root: Path, split: str) -> None:
        classes = {text(name): [i for i, (_, n) in enumerate(files_of(split)) if n == name] for name in SPLITS[split]}
        content = {text("image_data"): pixels_of(split), text("class_dict"): classes}
        file = f"mini-imagenet-cache-{val_name if split == 'val' else split}.pkl"
        put(root / file, pickle.dumps(content, protocol=protocol))

    return write


def rfs_pickle(root: Path, split: str) -> None:
    numbers = {name: i for i, name in enumerate(COLOURS)}
    content = {
        "data": pixels_of(split),
        "labels": [numbers[name] for _, name in files_of(split)],
        "catname2label": {name: numbers[name] for name in SPLITS[split]},
    }
    part = "train_phase_train" if split == "train" else split
    put(root / f"miniImageNet_category_split_{part}.pickle", pickle.dumps(content, protocol=2))


def json_lists(root: Path, split: str) -> None:
    name_of = {"train": "base", "val": "val", "test": "novel"}
    for file, name in files_of(split):
        put(root / "pictures" / file, jpeg(COLOURS[name], size=120))
    content = {
        "label_names": SPLITS[split],
        "image_names": [f"pictures/{file}" for file, _ in files_of(split)],
        "image_labels": [64 + SPLITS[split].index(name) for _, name in files_of(split)],
    }
    put(root / f"{name_of[split]}.json", json.dumps(content).encode())


LAYOUTS = {
    "csv + images": csv_with("images/{file}"),
    "csv + zip shards": csv_and_shards,
    "csv + folders by split and class": csv_with("{split}/{name}/{file}"),
    "csv + images beside": csv_with("{file}"),
    "csv with the header of the other list": csv_with("images/{file}", "filename,class"),
    "easyfsl": csv_with("images_by_class/{name}/{file}", "class_name,image_name", class_first=True),
    "easyfsl in images": csv_with("images/{name}/{file}", "class_name,image_name", class_first=True),
    "class folders": class_folders,
    "cache pickles": cache_pickle(),
    "cache pickles, validation": cache_pickle("validation"),
    "cache pickles with bytes keys": cache_pickle(text=str.encode, protocol=2),
    "RFS pickles": rfs_pickle,
    "json": json_lists,
}


@pytest.fixture
def make_source(tmp_path):
    """Return MiniImagenet on ``tmp_path/data``."""

    def make(**settings):
        settings = {"data_dir": str(tmp_path / "data"), **settings}
        return MiniImagenet(cache_dir=str(tmp_path / "cache"), **settings)

    return make


def write_all(root: Path, layout: str, splits=("train", "val", "test")) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for split in splits:
        LAYOUTS[layout](root, split)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_classes_and_pictures(make_source, tmp_path, layout):
    write_all(tmp_path / "data", layout)
    source = make_source()
    assert source.split_names() == ("train", "val", "test")
    for name, classes in SPLITS.items():
        split = source.split(name)
        assert split.class_names == tuple(classes)
        assert split.images.shape == (IMAGES * len(classes), 84, 84, 3)
        for c, class_name in enumerate(classes):
            rows = split.images[split.starts[c] : split.starts[c + 1]]
            assert len(rows) == IMAGES
            np.testing.assert_allclose(rows.astype(int), np.broadcast_to(COLOURS[class_name], rows.shape), atol=3)


@pytest.mark.parametrize("layout", ["csv + zip shards", "class folders", "RFS pickles"])
def test_the_test_split_may_be_absent(make_source, tmp_path, layout):
    write_all(tmp_path / "data" / "mini_imagenet", layout, splits=("train", "val"))
    source = make_source()
    source.prepare()
    assert source.has_split("val") and not source.has_split("test")
    with pytest.raises(InputError, match="MiniImagenet: there is no split test; there are train, val"):
        source.split("test")


def test_the_log_says_which_layout_was_found(make_source, tmp_path, caplog):
    write_all(tmp_path / "data" / "miniImagenet", "cache pickles", splits=("train", "val"))
    with caplog.at_level("INFO"):
        make_source().prepare()
    assert "cache pickles in" in caplog.text and "train 2 classes, 6 images; val 2 classes, 6 images" in caplog.text


@pytest.mark.parametrize("missing", ["train", "val"])
def test_without_train_or_val_the_message_says_what_is_there_and_what_is_needed(make_source, tmp_path, missing):
    write_all(tmp_path / "data", "RFS pickles", splits=tuple(split for split in SPLITS if split != missing))
    with pytest.raises(InputError) as caught:
        make_source().prepare()
    message = str(caught.value)
    there = ", ".join(split for split in SPLITS if split != missing)
    assert message.startswith(f"MiniImagenet: train and val images are not in data_dir={tmp_path / 'data'}")
    assert f"data has RFS pickles for {there} only" in message and "\n" not in message
    layouts = ("{train,val}.csv", "{train,val}/<class>", "mini-imagenet-cache", "category_split", "base.json")
    assert all(part in message for part in (*layouts, "zenodo.org", "image-net.org"))


def test_a_list_without_its_images_is_not_mistaken_for_data(make_source, tmp_path):
    for split in SPLITS:
        write_list(tmp_path / "data", split)
    with pytest.raises(InputError, match="MiniImagenet: train and val images are not in"):
        make_source().prepare()


def test_a_copy_split_by_image_is_refused(make_source, tmp_path):
    write_all(tmp_path / "data", "class folders")
    put(tmp_path / "data" / "val" / "n02" / "more.jpg", jpeg((1, 2, 3)))
    with pytest.raises(InputError, match="class n02 is in both train and val.*split by image"):
        make_source().prepare()


def test_a_listed_image_that_is_missing_is_named(make_source, tmp_path):
    write_all(tmp_path / "data", "csv + images")
    (tmp_path / "data" / "images" / "n0200000001.jpg").unlink()
    with pytest.raises(InputError, match=r"train\.csv: lists n0200000001\.jpg, and .* does not exist"):
        make_source().prepare()


def test_a_listed_image_that_is_in_no_shard_is_named(make_source, tmp_path):
    write_all(tmp_path / "data", "csv + zip shards")
    with open(tmp_path / "data" / "val.csv", "a") as stream:
        stream.write("n0399999999.jpg,n03\n")
    with pytest.raises(InputError, match=r"val\.csv: lists n0399999999\.jpg, which is in none of its zip shards"):
        make_source().prepare()


def test_a_missing_shard_is_named(make_source, tmp_path):
    write_all(tmp_path / "data", "csv + zip shards")
    (tmp_path / "data" / "train-1-of-2.zip").unlink()
    with pytest.raises(InputError, match="train-1-of-2.zip missing in"):
        make_source().prepare()


@pytest.mark.parametrize(
    "content, message", [("a,b\n1,2\n", "columns are a,b; needed are"), ("filename,label\nx.jpg,\n", "empty, or a row")]
)
def test_a_list_of_another_kind_is_named(make_source, tmp_path, content, message):
    write_all(tmp_path / "data", "csv + images")
    (tmp_path / "data" / "val.csv").write_text(content)
    with pytest.raises(InputError, match=rf"val\.csv: {message}"):
        make_source().prepare()


@pytest.mark.parametrize("layout", ["csv + images", "csv + zip shards", "class folders", "json"])
def test_a_corrupt_image_is_named(make_source, tmp_path, monkeypatch, layout):
    whole = jpeg
    broken = {COLOURS["n04"]: whole(COLOURS["n04"])[:200]}
    monkeypatch.setitem(globals(), "jpeg", lambda colour, size=84: broken.get(colour) or whole(colour, size))
    write_all(tmp_path / "data", layout)
    with pytest.raises(InputError, match=r"n0400000000\.jpg: cannot be read as an image"):
        make_source().prepare()
    assert [entry.suffix for entry in (tmp_path / "cache").iterdir()] == [".lock"]


@pytest.mark.parametrize(
    "content, message",
    [
        ([1], "holds a list, needed is a dict"),
        ({"image_data": np.zeros((2, 84, 84, 3)), "class_dict": {}}, r"is float64 \[2, 84, 84, 3\], needed is uint8"),
        ({"image_data": np.zeros((2, 84, 84, 3), np.uint8)}, "class_dict, or labels, is missing"),
        ({"image_data": np.zeros((2, 8, 8, 3), np.uint8), "class_dict": {"a": [2]}}, "rows beyond its 2 images"),
        ({"image_data": np.zeros((2, 8, 8, 3), np.uint8), "class_dict": {}}, "has no classes|split train has no"),
    ],
)
def test_a_pickle_of_another_kind_is_named(make_source, tmp_path, content, message):
    write_all(tmp_path / "data", "cache pickles")
    put(tmp_path / "data" / "mini-imagenet-cache-train.pkl", pickle.dumps(content))
    with pytest.raises(InputError, match=message):
        make_source().prepare()


def test_a_pickle_that_runs_a_command_is_refused(make_source, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    write_all(tmp_path / "data", "RFS pickles")
    file = "miniImageNet_category_split_val.pickle"
    put(tmp_path / "data" / file, pickle.dumps({"data": Evil(), "labels": []}))
    with pytest.raises(InputError, match=f"{file}: refused, this pickle wants posix.system"):
        make_source().prepare()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content, message",
    [
        (b"{", "not a list with label_names"),
        (b'{"label_names": ["a"], "image_names": [], "image_labels": [0]}', "0 image_names but 1 image_labels"),
        (b'{"label_names": ["a"], "image_names": ["x.jpg"], "image_labels": [0]}', "lists x.jpg, which is neither"),
    ],
)
def test_a_json_list_of_another_kind_is_named(make_source, tmp_path, content, message):
    write_all(tmp_path / "data", "json")
    (tmp_path / "data" / "base.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"base\.json: {message}"):
        make_source().prepare()


def test_labels_without_names_are_named_by_number(make_source, tmp_path):
    for part, labels in (("train_phase_train", [0, 0, 7]), ("val", [64, 65])):
        content = {"data": np.zeros((len(labels), 84, 84, 3), np.uint8), "labels": np.array(labels)}
        put(tmp_path / "data" / f"miniImageNet_category_split_{part}.pickle", pickle.dumps(content))
    source = make_source()
    assert source.split("train").class_names == ("label 0", "label 7")
    assert source.split("train").starts.tolist() == [0, 2, 3]


def pattern() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size=(2, 84, 84, 3), dtype=np.uint8)


def test_42_pixels_are_the_means_of_two_by_two(make_source, tmp_path):
    for name, part in (("a", "train"), ("b", "val")):
        content = {"image_data": pattern(), "class_dict": {name: [0, 1]}}
        put(tmp_path / "data" / f"mini-imagenet-cache-{part}.pkl", pickle.dumps(content))
    means = pattern().reshape(2, 42, 2, 42, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(make_source(image_size=42).split("train").images, means, atol=1)
    np.testing.assert_array_equal(make_source().split("train").images, pattern())
    lanczos = [np.asarray(Image.fromarray(p).resize((32, 32), Image.Resampling.LANCZOS)) for p in pattern()]
    np.testing.assert_array_equal(make_source(image_size=32).split("train").images, np.stack(lanczos))


@pytest.mark.realdata
def test_the_real_train_and_val_splits_have_64_and_16_classes_of_600_images(tmp_path):
    source = MiniImagenet(data_dir=os.environ["FEW_SHOT_NAS_DATA"], cache_dir=str(tmp_path))
    source.prepare()
    for name, classes in (("train", 64), ("val", 16)):
        split = source.split(name)
        assert len(split.class_names) == classes and set(np.diff(split.starts)) == {600}
        assert split.images.shape == (classes * 600, 84, 84, 3)
    sample = source.split("train").images[::20].reshape(-1, 3) / 255
    np.testing.assert_allclose(sample.mean(axis=0), source.mean, atol=0.01)
    np.testing.assert_allclose(sample.std(axis=0), source.std, atol=0.01)
