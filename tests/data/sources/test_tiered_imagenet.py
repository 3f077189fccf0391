"""tieredImageNet from tiny copies of every layout. Truth: the colour each class is painted in."""

import io
import pickle
import struct
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from few_shot_nas.data.sources.tiered_imagenet import NpzArrays, PngPickles, TieredImagenet
from few_shot_nas.errors import InputError

# Split -> (category, class) -> colour; the two cranes are different classes of ImageNet with one name.
SPLITS = {
    "train": {("machine", "crane"): (200, 100, 0), ("hound", "whippet"): (150, 40, 90)},
    "val": {("bird", "crane"): (240, 250, 10), ("bird", "kite"): (60, 80, 20)},
    "test": {("fruit", "fig"): (90, 10, 80)},
}
LABELS = {split: [i % len(classes) for i in range(5)] for split, classes in SPLITS.items()}
SIZE = 84


def pixels_of(split, bgr=False):
    colours = np.array([list(SPLITS[split].values())[label] for label in LABELS[split]], dtype=np.uint8)
    colours = colours[:, ::-1] if bgr else colours
    return colours[:, None, None, :].repeat(SIZE, axis=1).repeat(SIZE, axis=2)


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def write_labels(root, split, protocol=2, **changes):
    categories = list(dict.fromkeys(category for category, _ in SPLITS[split]))
    general = [categories.index(list(SPLITS[split])[label][0]) for label in LABELS[split]]
    fields = {
        "label_specific": np.array(LABELS[split]), "label_general": np.array(general),
        "label_specific_str": [name for _, name in SPLITS[split]], "label_general_str": categories, **changes,
    }  # fmt: skip
    fields = {key: value for key, value in fields.items() if value is not None}
    put(root / f"{split}_labels.pkl", pickle.dumps(fields, protocol=protocol))


def column(encoded):
    return np.frombuffer(encoded, dtype=np.uint8)[:, None]


def row(encoded):
    return np.frombuffer(encoded, dtype=np.uint8).copy()


def object_array(items):
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def python_2(items):
    """Byte strings as Python 2 pickles its str."""
    strings = b"".join(b"T" + struct.pack("<i", len(item)) + item for item in items)
    return b"\x80\x02]q\x00(" + strings + b"e."


def png_pickle(item, container=list, protocol=2):
    def write(root, split):
        content = container([item(png(pixels)) for pixels in pixels_of(split)])
        put(root / f"{split}_images_png.pkl", pickle.dumps(content, protocol=protocol))
        write_labels(root, split)

    return write


def python_2_pickle(root, split):
    put(root / f"{split}_images_png.pkl", python_2([png(pixels) for pixels in pixels_of(split)]))
    write_labels(root, split)


def npz(save):
    def write(root, split):
        root.mkdir(parents=True, exist_ok=True)
        save(root / f"{split}_images.npz", images=pixels_of(split, bgr=True))
        write_labels(root, split)

    return write


def class_folders(root, split):
    for i, (label, pixels) in enumerate(zip(LABELS[split], pixels_of(split), strict=True)):
        category, name = list(SPLITS[split])[label]
        put(root / split / f"{category} {name}" / f"{i}.png", png(pixels))


LAYOUTS = {
    **{f"columns, protocol {p}": png_pickle(column, protocol=p) for p in (1, 2, 3, 4, 5)},
    "rows": png_pickle(row),
    "rows, protocol 5": png_pickle(row, protocol=5),
    "bytes": png_pickle(bytes, protocol=4),
    "array of rows": png_pickle(row, object_array),
    "array of columns": png_pickle(column, object_array, protocol=5),
    "Python 2": python_2_pickle,
    "npz": npz(np.savez),
    "compressed npz": npz(np.savez_compressed),
    "class folders": class_folders,
}


@pytest.fixture
def make(tmp_path):
    def build(**settings):
        return TieredImagenet(data_dir=str(tmp_path / "data"), cache_dir=str(tmp_path / "cache"), **settings)

    return build


def write_all(root, layout="columns, protocol 2", splits=SPLITS):
    for split in splits:
        LAYOUTS[layout](root, split)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_classes_and_pictures(make, tmp_path, layout, caplog):
    write_all(tmp_path / "data" / "tiered-imagenet", layout)
    source = make()
    source.prepare()
    assert source.split_names() == ("train", "val", "test")
    for name, classes in SPLITS.items():
        split = source.split(name)
        titles = {" ".join(title.split("/")): c for c, title in enumerate(split.class_names)}
        assert len(titles) == len(classes) and split.images.shape == (5, SIZE, SIZE, 3)
        for label, (key, colour) in enumerate(classes.items()):
            c = titles[" ".join(key)]
            rows = split.images[split.starts[c] : split.starts[c + 1]]
            assert len(rows) == LABELS[name].count(label) and (rows == colour).all()
    assert "swapped" not in caplog.text
    assert "TieredImagenet: train has 2 classes and 5 images, the published split 351 and 448695" in caplog.text


def test_classes_are_named_with_their_category_where_the_file_knows_it(make, tmp_path):
    write_all(tmp_path / "data")
    assert make().split("train").class_names == ("machine/crane", "hound/whippet")
    write_labels(tmp_path / "data", "train", label_general=None)
    assert make().split("train").class_names == ("crane", "whippet")
    unnamed = {"label_specific": None, "labels": [3, 3, 1, 1, 3], "label_specific_str": None}
    write_labels(tmp_path / "data", "train", **unnamed, label_general=np.array([0, 0, 1, 1, 0]))
    assert make().split("train").class_names == ("hound/label 1", "machine/label 3")


def test_images_of_a_class_keep_the_order_of_the_file(make, tmp_path):
    write_all(tmp_path / "data")
    shades = [np.full((8, 8, 3), (10 * i, i, 0), dtype=np.uint8) for i in range(5)]
    content = pickle.dumps([column(png(shade)) for shade in shades])
    put(tmp_path / "data" / "train_images_png.pkl", content)
    split = make(image_size=8).split("train")
    assert split.images[:, 0, 0, 0].tolist() == [0, 20, 40, 10, 30] and split.starts.tolist() == [0, 3, 5]


def test_the_channels_of_npz_files_can_be_said_to_be_in_order_and_a_wrong_word_shows(make, tmp_path, caplog):
    write_all(tmp_path / "data", "npz")
    right, wrong = make(), make(npz_order="rgb")
    np.testing.assert_array_equal(right.split("train").images[..., ::-1], wrong.split("train").images)
    right.prepare()
    assert "swapped" not in caplog.text
    wrong.prepare()
    assert "the training pictures have more blue" in caplog.text and "see npz_order" in caplog.text


def test_png_files_say_themselves_what_is_red(make, tmp_path):
    write_all(tmp_path / "data")
    np.testing.assert_array_equal(make().split("val").images, make(npz_order="rgb").split("val").images)


def test_another_order_is_refused(make):
    with pytest.raises(InputError, match="TieredImagenet: npz_order=rbg is not one of bgr, rgb"):
        make(npz_order="rbg")


def test_42_pixels_are_the_means_of_two_by_two(make, tmp_path):
    write_all(tmp_path / "data", "npz")
    noise = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), dtype=np.uint8)
    np.savez(tmp_path / "data" / "train_images.npz", images=noise)
    order = np.argsort(LABELS["train"], kind="stable")
    means = noise[order].reshape(5, 42, 2, 42, 2, 3).mean(axis=(2, 4))[..., ::-1]
    np.testing.assert_allclose(make(image_size=42).split("train").images, means, atol=1)


@pytest.mark.parametrize("layout", [PngPickles(), NpzArrays("bgr")])
def test_reading_never_holds_more_than_a_few_images(tmp_path, layout):
    count = 300
    noise = np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)
    write_labels(tmp_path, "train", label_specific=np.arange(count) % 2)
    put(tmp_path / "train_images_png.pkl", pickle.dumps([column(png(pixels)) for pixels in noise]))
    np.savez_compressed(tmp_path / "train_images.npz", images=noise)
    tracemalloc.start()
    images = layout.read(tmp_path, "train").images(SIZE, Image.Resampling.LANCZOS)
    assert sum(1 for _ in images) == count
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert noise.nbytes > 6e6 and peak < 1.5e6


@pytest.mark.parametrize("count, said", [(4, "train_images_png.pkl: 4 images"), (6, "pkl: more than 5 images")])
def test_images_and_labels_that_do_not_agree_are_named(make, tmp_path, count, said):
    write_all(tmp_path / "data")
    encoded = [column(png(pixels_of("train")[0]) + bytes([i])) for i in range(count)]
    put(tmp_path / "data" / "train_images_png.pkl", pickle.dumps(encoded))
    with pytest.raises(InputError, match=f"{said}, and 5 labels in .*train_labels.pkl; they do not belong together"):
        make().prepare()
    assert [entry.suffix for entry in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_png_that_is_cut_off_and_a_pickle_that_is_are_named(make, tmp_path):
    write_all(tmp_path / "data")
    path = tmp_path / "data" / "val_images_png.pkl"
    whole = path.read_bytes()
    put(path, pickle.dumps([png(pixels)[:60] for pixels in pixels_of("val")]))
    with pytest.raises(InputError, match="val_images_png.pkl: image 0 cannot be read"):
        make().prepare()
    put(path, whole[: len(whole) // 2])
    with pytest.raises(InputError, match="val_images_png.pkl: this pickle is damaged"):
        make().prepare()


def test_a_pickle_of_images_runs_nothing(make, tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    write_all(tmp_path / "data")
    content = [Evil(), *(png(pixels) for pixels in pixels_of("train"))]
    put(tmp_path / "data" / "train_images_png.pkl", pickle.dumps(content))
    make().prepare()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content, message",
    [
        (np.zeros((5, 8, 8), np.uint8), r"images is uint8 \[5, 8, 8\], needed is"),
        (np.zeros((5, 8, 8, 3)), r"images is float64 \[5, 8, 8, 3\], needed is"),
        (np.zeros((4, 8, 8, 3), np.uint8), "train_images.npz: 4 images, and 5 labels"),
        (None, "cannot be read as npz with images"),
    ],
)
def test_an_npz_of_another_kind_is_named(make, tmp_path, content, message):
    write_all(tmp_path / "data", "npz")
    path = tmp_path / "data" / "train_images.npz"
    np.savez(path, **({"pictures": np.zeros(3)} if content is None else {"images": content}))
    with pytest.raises(InputError, match=message):
        make().prepare()


@pytest.mark.parametrize("labels", [None, [0.5, 1.0], [[1, 2]], []])
def test_labels_of_another_kind_are_named(make, tmp_path, labels):
    write_all(tmp_path / "data")
    write_labels(tmp_path / "data", "val", label_specific=labels)
    with pytest.raises(InputError, match="val_labels.pkl: label_specific or labels is missing or no list of integers"):
        make().prepare()


def test_a_class_in_two_splits_is_refused(make, tmp_path):
    write_all(tmp_path / "data")
    changes = {"label_specific_str": ["crane", "fox"], "label_general_str": ["machine"]}
    write_labels(tmp_path / "data", "val", label_specific=np.array([0, 1, 0, 1, 0]), **changes)
    with pytest.raises(InputError, match="TieredImagenet: class machine/crane is in both train and val"):
        make().prepare()


def test_missing_data_is_one_line_with_every_layout_and_where_to_get_it(make, tmp_path):
    write_all(tmp_path / "data", splits=["train"])
    with pytest.raises(InputError) as caught:
        make().prepare()
    message = str(caught.value)
    assert message.startswith(f"TieredImagenet: train and val images are not in data_dir={tmp_path / 'data'}")
    assert "png pickles for train only" in message and "\n" not in message
    parts = ("{train,val}_images_png.pkl with {train,val}_labels.pkl", "_images.npz", "<class>", "few-shot-ssl-public")
    assert all(part in message for part in parts)
