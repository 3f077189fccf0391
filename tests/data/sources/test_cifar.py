"""CIFAR-FS and FC100 from tiny copies of every layout. Truth: the colour each class is painted in."""

import io
import logging
import pickle

import numpy as np
import pytest
from PIL import Image

from few_shot_nas.data.layouts import Content, distinct_names
from few_shot_nas.data.sources.cifar_fs import CIFARFS
from few_shot_nas.data.sources.cifar_fs import split_of as split_of_fs
from few_shot_nas.data.sources.fc100 import FC100
from few_shot_nas.data.sources.fc100 import split_of as split_of_fc
from few_shot_nas.errors import InputError

# CIFAR-100's superclasses and classes, as its page lists them.
CIFAR100 = {
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man-made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "non-insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}
COARSE = {fine: coarse for coarse, names in CIFAR100.items() for fine in names.split()}
FINE = sorted(COARSE)
IMAGES = {"train": 2, "test": 1}
EACH = sum(IMAGES.values())


def colour(name):
    return (2 * FINE.index(name) + 1, 2 * FINE.index(name), 250 - 2 * FINE.index(name))


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def png(name):
    stream = io.BytesIO()
    Image.new("RGB", (32, 32), colour(name)).save(stream, "PNG")
    return stream.getvalue()


def cifar_python(root, text=str):
    order = np.random.default_rng(0)
    for part, count in IMAGES.items():
        fine = order.permutation(np.repeat(np.arange(100), count)).tolist()
        data = np.array([np.repeat(colour(FINE[c]), 32 * 32) for c in fine], dtype=np.uint8)
        coarse = [list(CIFAR100).index(COARSE[FINE[c]]) for c in fine]
        content = {"data": data, "fine_labels": fine, "coarse_labels": coarse, "filenames": [], "batch_label": part}
        content = {text(key): value for key, value in content.items()}
        put(root / "cifar-100-python" / part, pickle.dumps(content, protocol=2))
    names = {text("fine_label_names"): list(map(text, FINE)), text("coarse_label_names"): list(map(text, CIFAR100))}
    put(root / "cifar-100-python" / "meta", pickle.dumps(names, protocol=2))


def splits_of(rule):
    return {s: [n for n in FINE if rule(n, COARSE[n]) == s] for s in ("train", "val", "test")}


def lists_and_images(root, splits):
    for split, names in splits.items():
        put(root / "splits" / "bertinetto" / f"{split}.txt", "\n".join([*names, ""]).encode())
        for name in names:
            for i in range(EACH):
                put(root / "data" / name / f"{i}.png", png(name))


def class_folders(root, splits):
    for split, names in splits.items():
        for name in names:
            for i in range(EACH):
                put(root / split / name / f"{i}.png", png(name))


def array_pickles(prefix):
    def write(root, splits):
        for split, names in splits.items():
            labels = [FINE.index(name) for name in names for _ in range(EACH)]
            pixels = np.array([colour(FINE[c]) for c in labels], np.uint8)[:, None, None].repeat(32, 1).repeat(32, 2)
            content = {"data": pixels, "labels": labels}
            put(root / f"{prefix}_{split}.pickle", pickle.dumps(content, protocol=2))

    return write


@pytest.fixture
def make(tmp_path):
    def build(source, **settings):
        return source(data_dir=str(tmp_path / "data"), cache_dir=str(tmp_path / "cache"), **settings)

    return build


def check(source, splits, name_of=lambda name: name, size=32):
    for split, names in splits.items():
        packed = source.split(split)
        assert packed.class_names == tuple(map(name_of, names))
        assert packed.images.shape == (EACH * len(names), size, size, 3)
        for c, name in enumerate(names):
            rows = packed.images[packed.starts[c] : packed.starts[c + 1]]
            assert len(rows) == EACH and (rows == colour(name)).all()


def number(name):
    return f"label {FINE.index(name)}"


@pytest.mark.parametrize("text", [str, str.encode])
@pytest.mark.parametrize(
    "source, rule, sizes", [(CIFARFS, split_of_fs, (64, 16, 20)), (FC100, split_of_fc, (60, 20, 20))]
)
def test_the_published_splits_are_made_from_cifar_100_itself(make, tmp_path, text, source, rule, sizes):
    cifar_python(tmp_path / "data", text)
    splits = splits_of(rule)
    assert tuple(map(len, splits.values())) == sizes == tuple(count for count, _ in source.published.values())
    assert all(images == 600 * count for count, images in source.published.values())
    check(make(source), splits)


def test_a_source_that_has_found_its_data_goes_to_a_worker(make, tmp_path):
    cifar_python(tmp_path / "data")
    source = make(FC100)
    source.prepare()
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy.split("val").images, source.split("val").images)


def test_the_bertinetto_split_cuts_superclasses_and_fc100_does_not():
    parts = {coarse: {split_of_fc(name, coarse) for name in names.split()} for coarse, names in CIFAR100.items()}
    assert all(len(part) == 1 for part in parts.values())
    numbers = {s: [i for i, c in enumerate(CIFAR100) if parts[c] == {s}] for s in ("val", "test")}
    assert numbers == {"val": [8, 11, 13, 16], "test": [0, 7, 12, 14]}
    assert [split_of_fs(name, "people") for name in ("boy", "otter", "baby")] == ["train", "val", "test"]


FEW = {"train": ["apple", "bear"], "val": ["crab", "otter"], "test": ["baby"]}


@pytest.mark.parametrize(
    "source, folder, write, name_of",
    [
        (CIFARFS, "cifar100", lists_and_images, str),
        (CIFARFS, ".", class_folders, str),
        (CIFARFS, "CIFAR-FS", array_pickles("CIFAR_FS"), number),
        (FC100, "FC100", class_folders, str),
        (FC100, "fc100", array_pickles("FC100"), number),
    ],
)
def test_every_layout_gives_the_classes_and_pictures_it_holds(make, tmp_path, source, folder, write, name_of):
    write(tmp_path / "data" / folder, FEW)
    check(make(source), FEW, name_of)
    check(make(source, image_size=20), FEW, name_of, size=20)


def test_fewer_classes_than_published_are_a_warning_and_as_many_are_not(make, tmp_path, caplog, monkeypatch):
    class_folders(tmp_path / "data", FEW)
    make(FC100).prepare()
    assert "FC100: train has 2 classes and 6 images, the published split 60 and 36000; results cannot" in caplog.text
    caplog.clear()
    monkeypatch.setattr(FC100, "published", {"train": (2, 6), "val": (2, 6), "test": (1, 3)})
    make(FC100).prepare()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_class_in_two_splits_is_named(make, tmp_path):
    array_pickles("CIFAR_FS")(tmp_path / "data", {**FEW, "test": ["bear"]})
    with pytest.raises(InputError, match=f"CIFARFS: class {number('bear')} is in both train and test"):
        make(CIFARFS).prepare()


def content(*names):
    return Content(names, (1,) * len(names), lambda size, resample: iter(()))


def test_numbers_that_start_anew_in_each_split_are_told_apart_only_where_the_counts_are_the_published_ones():
    published = {"train": (3, 9), "val": (2, 6)}
    parts = {"train": content("label 0", "label 1", "label 2"), "val": content("label 0", "label 1")}
    named = distinct_names(parts, published)
    assert named["train"] == ("train label 0", "train label 1", "train label 2")
    assert named["val"] == ("val label 0", "val label 1")
    for other in ({}, {"train": (3, 9), "val": (3, 6)}):
        assert distinct_names(parts, other)["val"] == ("label 0", "label 1")
    sparse = {"train": content("label 3", "label 1", "label 2"), "val": content("label 0", "label 4")}
    assert distinct_names(sparse, published)["val"] == ("label 0", "label 4")


@pytest.mark.parametrize("source", [CIFARFS, FC100])
def test_missing_data_is_one_line_with_every_layout_and_where_to_get_it(make, tmp_path, source):
    array_pickles("CIFAR_FS" if source is CIFARFS else "FC100")(tmp_path / "data", {"train": ["apple"]})
    with pytest.raises(InputError) as caught:
        make(source).prepare()
    message = str(caught.value)
    assert message.startswith(f"{source.name}: train and val images are not in data_dir={tmp_path / 'data'}")
    assert "pickles for train only" in message and "\n" not in message
    assert all(part in message for part in ("cifar-100-python/{train,test,meta}", "toronto.edu", "{train,val}/<class>"))


def test_a_listed_class_without_images_is_named(make, tmp_path):
    lists_and_images(tmp_path / "data", FEW)
    put(tmp_path / "data" / "splits" / "bertinetto" / "val.txt", b"otter\nsnake\n")
    with pytest.raises(InputError, match=r"val\.txt: lists snake, and .*snake has no images"):
        make(CIFARFS).prepare()


@pytest.mark.parametrize(
    "part, change, message",
    [
        ("train", {"data": np.zeros((200, 3071), np.uint8)}, r"train: data is uint8 \[200, 3071\], needed is"),
        ("test", {"fine_labels": [1, 2]}, "test: fine_labels and coarse_labels must be equally many"),
        ("train", {"fine_labels": [100] * 200}, "labels beyond the 100 classes and 20 superclasses"),
        ("meta", {"fine_label_names": None}, "meta: fine_label_names is missing; this is not CIFAR-100"),
    ],
)
def test_a_damaged_file_is_named(make, tmp_path, part, change, message):
    cifar_python(tmp_path / "data")
    path = tmp_path / "data" / "cifar-100-python" / part
    fields = {**pickle.loads(path.read_bytes()), **change}
    put(path, pickle.dumps({key: value for key, value in fields.items() if value is not None}))
    with pytest.raises(InputError, match=message):
        make(FC100).prepare()
