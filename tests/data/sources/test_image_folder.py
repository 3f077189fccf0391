"""The user's own images. Truth: the colour each class is painted in."""

import numpy as np
import pytest
from PIL import Image

from few_shot_nas.data.episodic import EpisodicDataModule
from few_shot_nas.data.sources.image_folder import ImageFolder
from few_shot_nas.errors import InputError

NAMES = [f"class {c}" for c in range(10)]


def colour(name):
    c = NAMES.index(name)
    return (20 * c + 5, 200 - 10 * c, 3 * c)


def paint(folder, name, count=3, suffix="png", size=(9, 12)):
    (folder / name).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", size, colour(name)).save(folder / name / f"{i}.{suffix}")


def side_by_side(root, names=NAMES, **options):
    for name in names:
        paint(root, name, **options)


def three_folders(root, val="val", test="test"):
    for split, names in (("train", NAMES[:5]), (val, NAMES[5:8]), (test, NAMES[8:])):
        side_by_side(root / split, names)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def make(tmp_path):
    def build(**settings):
        settings = {"image_size": 6, **settings}
        return ImageFolder(data_dir=str(tmp_path / "data"), cache_dir=str(tmp_path / "cache"), **settings)

    return build


def classes_of(source):
    return {split: source.split(split).class_names for split in source.split_names()}


def check_pictures(source):
    for name in source.split_names():
        split = source.split(name)
        for c, class_name in enumerate(split.class_names):
            rows = split.images[split.starts[c] : split.starts[c + 1]]
            assert len(rows) == 3 and (rows == colour(class_name)).all()


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_three_folders_are_the_users_own_split(make, root, val):
    three_folders(root, val)
    source = make()
    assert classes_of(source) == {"train": tuple(NAMES[:5]), "val": tuple(NAMES[5:8]), "test": tuple(NAMES[8:])}
    check_pictures(source)


def test_the_test_folder_may_be_absent(make, root):
    three_folders(root, test="unused")
    assert make().split_names() == ("train", "val")


def test_one_folder_of_classes_is_divided_by_the_seed_and_every_class_is_in_one_split(make, root):
    side_by_side(root)
    source = make()
    classes = classes_of(source)
    assert {split: len(names) for split, names in classes.items()} == {"train": 6, "val": 2, "test": 2}
    assert sorted(sum(classes.values(), ())) == NAMES
    assert classes_of(make()) == classes
    assert len({str(classes_of(make(class_split_seed=seed))) for seed in range(5)}) > 3
    check_pictures(source)


def test_over_many_seeds_every_class_is_held_out_equally_often(make, root):
    side_by_side(root, count=1)
    counts = dict.fromkeys(NAMES, 0)
    for seed in range(200):
        for name in make(class_split_seed=seed)._divided()["test"]:
            counts[name] += 1
    assert sum(counts.values()) == 400 and all(20 < count < 65 for count in counts.values())


@pytest.mark.parametrize(
    "fractions, sizes",
    [((0.3, 0.0), {"train": 7, "val": 3}), ((0.01, 0.5), {"train": 4, "val": 1, "test": 5})],
)
def test_the_fractions_say_how_many_classes_are_held_out(make, root, fractions, sizes):
    side_by_side(root, count=1)
    source = make(val_fraction=fractions[0], test_fraction=fractions[1])
    assert {split: len(names) for split, names in classes_of(source).items()} == sizes


def test_a_class_that_is_called_train_is_a_class(make, root):
    side_by_side(root, count=1)
    (root / NAMES[0]).rename(root / "train")
    assert "train" in sum(classes_of(make()).values(), ())


def test_hidden_and_empty_folders_and_other_files_are_passed_over(make, root):
    side_by_side(root)
    (root / NAMES[0] / "notes.txt").write_text("x")
    for name in (".cache", "__MACOSX"):
        (root / name).mkdir()
        Image.new("RGB", (3, 3)).save(root / name / "x.png")
    (root / "empty").mkdir()
    assert sorted(sum(classes_of(make()).values(), ())) == NAMES


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp", "ppm", "gif", "JPG"])
def test_pictures_of_many_kinds_and_any_size_are_read(make, root, suffix):
    side_by_side(root, NAMES[:3], suffix=suffix, size=(31, 17))
    split = make(image_size=8, val_fraction=0.4, test_fraction=0.0).split("train")
    for c, name in enumerate(split.class_names):
        assert split.images.shape[1:] == (8, 8, 3)
        np.testing.assert_allclose(split.images[split.starts[c]].astype(int).mean(axis=(0, 1)), colour(name), atol=8)


def one_picture(make, root, save, **settings):
    side_by_side(root, NAMES[1:3])
    (root / NAMES[0]).mkdir()
    save(root / NAMES[0])
    source = make(test_fraction=0.0, val_fraction=0.3, **settings)
    for name in source.split_names():
        split = source.split(name)
        if NAMES[0] in split.class_names:
            return split.images[split.starts[split.class_names.index(NAMES[0])]]


def test_sixteen_bit_grey_keeps_its_upper_bits(make, root):
    pixels = np.arange(36, dtype=np.uint16).reshape(6, 6) * 1800
    picture = one_picture(make, root, lambda folder: Image.fromarray(pixels).save(folder / "a.png"), image_channels=1)
    np.testing.assert_array_equal(picture[:, :, 0], pixels >> 8)


def test_transparent_parts_are_white(make, root):
    pixels = np.zeros((6, 6, 4), dtype=np.uint8)
    pixels[:, 3:] = (10, 20, 30, 255)
    picture = one_picture(make, root, lambda folder: Image.fromarray(pixels).save(folder / "a.png"))
    assert (picture[:, :3] == 255).all() and (picture[:, 3:] == (10, 20, 30)).all()


def test_pictures_are_turned_as_the_camera_says(make, root):
    pixels = np.zeros((6, 6, 3), dtype=np.uint8)
    pixels[0] = 200
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    picture = one_picture(make, root, lambda folder: Image.fromarray(pixels).save(folder / "a.png", exif=exif))
    assert (picture[:, 5] == 200).all() and not picture[:, :5].any()


@pytest.mark.parametrize("channels", [1, 3])
def test_the_channels_are_as_many_as_asked_for_and_episodes_come_out(make, root, channels):
    three_folders(root)
    source = make(image_channels=channels)
    assert source.in_channels == len(source.mean) == len(source.std) == channels
    data = EpisodicDataModule(source, n_way=2, k_shot=1, n_query=2)
    data.setup("fit")
    assert data.episode("train", [0, 1]).support_x.shape == (2, 2, channels, 6, 6)


def test_a_class_with_too_few_images_is_named(make, root):
    three_folders(root)
    with pytest.raises(InputError, match="split train: class class 0 has 3 images, k_shot=1 and n_query=15"):
        EpisodicDataModule(make(), n_way=2).setup("fit")


def test_a_new_image_or_another_split_is_another_cache(make, root, tmp_path):
    side_by_side(root)
    before = len(make().split("train").images)
    for name in NAMES:
        paint(root, name, count=4)
    assert len(make().split("train").images) == before // 3 * 4
    make(image_channels=1).prepare()
    make(class_split_seed=1).prepare()
    assert len([entry for entry in (tmp_path / "cache").iterdir() if entry.is_dir()]) == 4


def test_a_class_in_two_folders_is_refused(make, root):
    three_folders(root)
    paint(root / "val", NAMES[0])
    with pytest.raises(InputError, match="ImageFolder: class class 0 is in both train and val"):
        make().prepare()


@pytest.mark.parametrize("there", ["train", "val"])
def test_train_without_val_and_val_without_train_are_named(make, root, there):
    side_by_side(root / there)
    with pytest.raises(InputError, match=f"data_dir={root} has {there} with folders in it, but train and val"):
        make().prepare()


def test_a_damaged_image_is_named(make, root):
    side_by_side(root)
    (root / NAMES[4] / "1.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="class 4/1.png: cannot be read as an image"):
        make().prepare()


@pytest.mark.parametrize("made", [True, False])
def test_a_folder_without_images_says_what_is_needed(make, root, made):
    if made:
        root.mkdir()
    with pytest.raises(InputError, match=f"no images in data_dir={root}; needed is data_dir/train/<class>"):
        make().prepare()


def test_too_few_classes_for_the_split_are_counted(make, root):
    side_by_side(root, NAMES[:2])
    with pytest.raises(InputError, match="2 classes in data_dir=.*val_fraction=0.2 takes 1 and test_fraction=0.2 .* 1"):
        make().prepare()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"image_channels": 2}, "image_channels=2 must be 1"),
        ({"val_fraction": 0.0}, "val_fraction=0.0 must be above 0"),
        ({"test_fraction": -0.1}, "test_fraction=-0.1 at least 0"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "their sum below 1"),
        ({"class_split_seed": -1}, "class_split_seed=-1 must not be negative"),
    ],
)
def test_settings_that_cannot_work_are_refused(make, settings, message):
    with pytest.raises(InputError, match=f"ImageFolder: .*{message}"):
        make(**settings)
