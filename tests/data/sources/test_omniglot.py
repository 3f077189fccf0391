"""Omniglot from tiny trees of the official shape. Truth: PIL step by step, and the splits by their definition."""

import io
import os
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from few_shot_nas.data.sources.omniglot import Omniglot
from few_shot_nas.errors import InputError

BACKGROUND = [f"Alpha{letter}" for letter in "ABCDEFG"]
EVALUATION = ["Echo", "Foxtrot"]


def drawing(shade: int) -> Image.Image:
    """1-bit, 105 x 105, black ink on white: ``shade`` of every 16 pixels are ink."""
    pixels = np.ones((105, 105), dtype=bool)
    pixels.ravel()[np.arange(105 * 105) % 16 < shade] = False
    return Image.fromarray(pixels)


def png(shade: int) -> bytes:
    stream = io.BytesIO()
    drawing(shade).save(stream, "PNG")
    return stream.getvalue()


def tree() -> dict[str, bytes]:
    """Return official path -> picture: 7 + 2 alphabets of 2 characters by 3 drawers, ink by character."""
    files, shade = {}, 0
    for part, alphabets in (("images_background", BACKGROUND), ("images_evaluation", EVALUATION)):
        for alphabet in alphabets:
            for character in (1, 2):
                shade = shade % 14 + 1
                for drawer in (1, 2, 3):
                    files[f"{part}/{alphabet}/character{character:02}/0001_{drawer:02}.png"] = png(shade)
    return files


def write(root: Path, files: dict[str, bytes], layout: str) -> None:
    root.mkdir(parents=True, exist_ok=True)
    if layout == "zips":
        for part in ("images_background", "images_evaluation"):
            with zipfile.ZipFile(root / f"{part}.zip", "w") as archive:
                for name in (name for name in files if name.startswith(part)):
                    archive.writestr(name, files[name])
        return
    for name, content in files.items():
        part, alphabet, character, file = name.split("/")
        place = {
            "folders": root / part / alphabet / character,
            "flat folders": root / part / f"{alphabet}_{character}",
            "merged": root / "data" / alphabet / character,
            "merged in place": root / alphabet / character,
        }[layout]
        place.mkdir(parents=True, exist_ok=True)
        (place / file).write_bytes(content)


def whole_set(root: Path, count: int = 1623) -> None:
    """Write zips with as many characters as the real ones, one image each."""
    picture = png(4)
    places = [(i % 50, i // 50) for i in range(count)]
    parts = ["images_background" if alphabet < 30 else "images_evaluation" for alphabet, _ in places]
    names = [f"{part}/Alphabet{a:02}/character{c:02}/0001_01.png" for part, (a, c) in zip(parts, places, strict=True)]
    write(root, {name: picture for name in names}, "zips")


def vinyals_lists(folder: Path, train: list[str], val: list[str], test: list[str]) -> None:
    folder.mkdir(parents=True)
    for name, characters in (("train", train), ("val", val), ("test", test)):
        lines = [f"{character}/rot{turn:03}" for character in characters for turn in (0, 90, 180, 270)]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture
def make_omniglot(tmp_path):
    """Return Omniglot on ``tmp_path/data`` with the alphabet split."""

    def make(**settings):
        settings = {"split_scheme": "lake", "data_dir": str(tmp_path / "data"), **settings}
        return Omniglot(cache_dir=str(tmp_path / "cache"), **settings)

    return make


@pytest.mark.parametrize("folder", [".", "omniglot-py", "omniglot_dataset", "omniglot"])
@pytest.mark.parametrize("layout", ["zips", "folders", "flat folders"])
def test_the_background_and_evaluation_sets_are_read_from_every_layout(make_omniglot, tmp_path, layout, folder):
    write(tmp_path / "data" / folder, tree(), layout)
    source = make_omniglot()
    expected = {
        "train": [f"{a}/character{c:02}" for a in BACKGROUND if a != "AlphaF" for c in (1, 2)],
        "val": ["AlphaF/character01", "AlphaF/character02"],
        "test": [f"{a}/character{c:02}" for a in EVALUATION for c in (1, 2)],
    }
    for split, names in expected.items():
        assert list(source.split(split).class_names) == names
        assert source.split(split).images.shape == (3 * len(names), 28, 28, 1)


@pytest.mark.parametrize("layout", ["merged", "merged in place"])
def test_a_merged_tree_is_read_with_the_published_lists(make_omniglot, tmp_path, layout):
    write(tmp_path / "data" / "omniglot", tree(), layout)
    lists = ["AlphaB/character02", "Echo/character01"], ["AlphaA/character01"], ["AlphaA/character02"]
    vinyals_lists(tmp_path / "data" / "omniglot" / "splits" / "vinyals", *lists)
    source = make_omniglot(split_scheme="vinyals")
    assert [list(source.split(split).class_names) for split in ("train", "val", "test")] == list(lists)


def test_pixels_are_turned_grey_then_resized_then_inverted(make_omniglot, tmp_path):
    write(tmp_path / "data", tree(), "zips")
    split = make_omniglot().split("train")
    for c, shade in enumerate([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 13, 14]):
        grey = drawing(shade).convert("L").resize((28, 28), Image.Resampling.LANCZOS)
        np.testing.assert_array_equal(split.images[split.starts[c], :, :, 0], 255 - np.asarray(grey))
        # Ink is light, and its share survives: a 1-bit image resized as such would be black and white only.
        assert split.images[split.starts[c]].mean() / 255 == pytest.approx(shade / 16, abs=0.03)
        assert len(np.unique(split.images[split.starts[c]])) > 8


@pytest.mark.parametrize(
    "scheme, sizes", [("finn", (1100, 100, 423)), ("mamlpp", (1150, 50, 423)), ("reptile", (1180, 20, 423))]
)
def test_shuffled_splits_have_their_sizes_and_the_documented_order(make_omniglot, tmp_path, scheme, sizes):
    whole_set(tmp_path / "data")
    source = make_omniglot(split_scheme=scheme)
    names = sorted(f"Alphabet{i % 50:02}/character{i // 50:02}" for i in range(1623))
    random.Random(1).shuffle(names)
    lists = [source.plan()[split].class_names for split in ("train", "val", "test")]
    assert tuple(map(len, lists)) == sizes
    assert [name for part in lists for name in part] == names


def test_shuffled_splits_do_not_depend_on_the_layout(make_omniglot, tmp_path):
    whole_set(tmp_path / "data")
    for part in ("images_background", "images_evaluation"):
        with zipfile.ZipFile(tmp_path / "data" / f"{part}.zip") as archive:
            archive.extractall(tmp_path / "tree")
    # Which of the two sets an alphabet is in makes no difference to these splits either.
    (tmp_path / "tree/images_background/Alphabet07").rename(tmp_path / "tree/images_evaluation/Alphabet07")
    zipped = make_omniglot(split_scheme="finn").plan()
    extracted = make_omniglot(split_scheme="finn", data_dir=str(tmp_path / "tree")).plan()
    for split in ("train", "val", "test"):
        assert zipped[split].class_names == extracted[split].class_names


@pytest.mark.parametrize(
    "rotations, train, other",
    [
        ("classes", "classes", "classes"), ("train_classes", "classes", "none"), ("augment", "augment", "none"),
        ("augment_all", "augment", "augment"), ("none", "none", "none"),
    ],
)  # fmt: skip
def test_each_rotation_mode_says_what_happens_in_each_split(make_omniglot, rotations, train, other):
    source = make_omniglot(rotations=rotations)
    assert [source.rotation(split) for split in ("train", "val", "test")] == [train, other, other]


def test_missing_data_is_told_with_files_places_and_origin(make_omniglot, tmp_path):
    with pytest.raises(InputError) as caught:
        make_omniglot().prepare()
    message = str(caught.value)
    for part in ("images_background.zip", "character", str(tmp_path / "data"), "omniglot-py", "github.com/brendenlake"):
        assert part in message
    assert "\n" not in message and not (tmp_path / "cache").exists()


def test_one_zip_without_the_other_is_not_enough(make_omniglot, tmp_path):
    write(tmp_path / "data", tree(), "zips")
    (tmp_path / "data" / "images_evaluation.zip").unlink()
    with pytest.raises(InputError, match="Omniglot: images_background.zip and images_evaluation.zip"):
        make_omniglot().prepare()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"split_scheme": "lakes"}, "split_scheme=lakes is not one of finn, mamlpp, reptile, lake, vinyals"),
        ({"rotations": "some"}, "rotations=some is not one of classes, train_classes"),
        ({"split_scheme": "finn"}, r"split_scheme=finn needs all 1623 characters, zips \(.* has 18;"),
        ({"split_scheme": "vinyals"}, "vinyals needs the lists train.txt, val.txt and test.txt in .*splits/vinyals"),
    ],
)
def test_splits_that_cannot_be_made_are_refused(make_omniglot, tmp_path, settings, message):
    write(tmp_path / "data", tree(), "zips")
    with pytest.raises(InputError, match=message):
        make_omniglot(**settings).prepare()


def test_the_alphabet_split_is_refused_on_a_merged_tree(make_omniglot, tmp_path):
    write(tmp_path / "data", tree(), "merged")
    with pytest.raises(InputError, match="split_scheme=lake needs images_background and images_evaluation apart"):
        make_omniglot().prepare()


def test_the_alphabet_split_needs_six_background_alphabets(make_omniglot, tmp_path):
    files = {name: content for name, content in tree().items() if "AlphaA" not in name and "AlphaB" not in name}
    write(tmp_path / "data", files, "folders")
    with pytest.raises(InputError, match="at least 6 background alphabets, .*images_background has 5"):
        make_omniglot().prepare()


def test_a_listed_character_that_is_not_there_is_named(make_omniglot, tmp_path):
    write(tmp_path / "data", tree(), "zips")
    vinyals_lists(tmp_path / "data/splits/vinyals", ["Echo/character01"], ["Echo/character02"], ["Klingon/character01"])
    with pytest.raises(InputError, match="Klingon/character01 is on the test list but not in zips"):
        make_omniglot(split_scheme="vinyals").prepare()


def test_lists_that_overlap_are_refused(make_omniglot, tmp_path):
    write(tmp_path / "data", tree(), "zips")
    vinyals_lists(tmp_path / "data/splits/vinyals", ["Echo/character01"], ["Echo/character02"], ["Echo/character01"])
    with pytest.raises(InputError, match="class Echo/character01 is in both train and test"):
        make_omniglot(split_scheme="vinyals").prepare()


@pytest.mark.parametrize("content", [b"", b"no picture", png(3)[:60]])
@pytest.mark.parametrize("layout", ["zips", "folders"])
def test_a_corrupt_image_is_named_and_nothing_is_packed(make_omniglot, tmp_path, layout, content):
    files = tree()
    files["images_background/AlphaC/character02/0001_02.png"] = content
    write(tmp_path / "data", files, layout)
    with pytest.raises(InputError, match=r"AlphaC/character02/0001_02\.png: cannot be read as an image"):
        make_omniglot().prepare()
    assert [entry.suffix for entry in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_damaged_zip_is_named(make_omniglot, tmp_path):
    write(tmp_path / "data", tree(), "zips")
    os.truncate(tmp_path / "data" / "images_background.zip", 500)
    with pytest.raises(InputError, match=r"images_background\.zip: cannot be read as a zip archive"):
        make_omniglot().prepare()


def test_a_download_fetches_both_sets_and_then_reads_them(make_omniglot, tmp_path, monkeypatch):
    asked = []

    def fetch(root, background, download):
        asked.append(background)
        write(Path(root) / "omniglot-py", tree(), "zips")

    monkeypatch.setattr("torchvision.datasets.Omniglot", fetch)
    assert len(make_omniglot(download=True).split("test").class_names) == 4
    assert asked == [True, False]


@pytest.mark.parametrize("error", [OSError("no route to host"), RuntimeError("File not found or corrupted.")])
def test_a_download_that_fails_is_one_line_with_a_way_out(make_omniglot, tmp_path, monkeypatch, error):
    def fetch(root, background, download):
        raise error

    monkeypatch.setattr("torchvision.datasets.Omniglot", fetch)
    with pytest.raises(InputError, match=rf"download into .* failed \({error}\); put images_background.zip"):
        make_omniglot(download=True).prepare()


def test_nothing_is_downloaded_when_the_data_is_there(make_omniglot, tmp_path, monkeypatch):
    write(tmp_path / "data", tree(), "zips")
    monkeypatch.setattr("torchvision.datasets.Omniglot", None)
    make_omniglot(download=True).prepare()


@pytest.mark.realdata
def test_the_real_background_and_evaluation_sets_have_964_and_659_characters_of_20_images(tmp_path):
    data = os.environ["FEW_SHOT_NAS_DATA"]
    source = Omniglot(data_dir=data, cache_dir=str(tmp_path), split_scheme="lake")
    splits = {name: source.split(name) for name in ("train", "val", "test")}
    assert len(splits["train"].class_names) + len(splits["val"].class_names) == 964
    assert len(splits["test"].class_names) == 659
    for split in splits.values():
        assert set(np.diff(split.starts)) == {20}
    alphabets = [{name.split("/")[0] for name in split.class_names} for split in splits.values()]
    assert [len(part) for part in alphabets] == [25, 5, 20] and len(set().union(*alphabets)) == 50
    assert splits["train"].images.mean() / 255 == pytest.approx(0.084, abs=0.004)


@pytest.mark.realdata
def test_the_real_characters_in_the_default_split_are_1100_100_and_423(tmp_path):
    source = Omniglot(data_dir=os.environ["FEW_SHOT_NAS_DATA"], cache_dir=str(tmp_path))
    assert [len(source.split(name).class_names) for name in ("train", "val", "test")] == [1100, 100, 423]
    # Golden: these names make the split what it is.
    assert source.split("train").class_names[:3] == (
        "Gurmukhi/character23", "Malayalam/character36", "Tifinagh/character36"
    )  # fmt: skip
