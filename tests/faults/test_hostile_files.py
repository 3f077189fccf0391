"""Odd files of honest users, and files made to harm. Truth: the same data without them, or the pixels as written.

Every case is a kind: what was left by a program, what no decoder should get, what would wait or fill the memory.
"""

import io
import os
import struct
import subprocess
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from few_shot_nas.data import image_files
from few_shot_nas.data.image_files import LARGEST_FILE, archive_members, folder_members
from few_shot_nas.data.sources import SOURCES
from few_shot_nas.data.sources.image_folder import ImageFolder
from few_shot_nas.data.unpickle import load_pickle
from few_shot_nas.errors import InputError
from training import predict

CLASSES = [f"class{c}" for c in range(6)]
IMAGES = 3
LEFT_BY_PROGRAMS = (".ipynb_checkpoints", "@eaDir", "__MACOSX", ".git", "__pycache__", ".AppleDouble", "@Recycle")


def picture(value: int, size: int = 6) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.arange(size * size * 3, dtype=np.uint8).reshape(size, size, 3) // 2 + value).save(stream, "PNG")
    return stream.getvalue()


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def tree(root: Path) -> None:
    """Three splits of two classes each, which every source that reads class folders takes."""
    for split, names in (("train", CLASSES[:2]), ("val", CLASSES[2:4]), ("test", CLASSES[4:])):
        for name in names:
            for i in range(IMAGES):
                put(root / split / name / f"{i}.png", picture(20 * CLASSES.index(name) + i))


def source(root: Path, name: str = "ImageFolder", **settings):
    cache = root.parent / "cache"
    return SOURCES[name](data_dir=str(root), cache_dir=str(cache), image_size=6, **settings)


def content_of(made) -> dict[str, tuple]:
    splits = {name: made.split(name) for name in made.split_names()}
    return {name: (split.class_names, split.images.tobytes()) for name, split in splits.items()}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    tree(tmp_path / "data")
    return tmp_path / "data"


# ---- what programs leave among the data ----------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", LEFT_BY_PROGRAMS)
@pytest.mark.parametrize("name", ["ImageFolder", "MiniImagenet", "TieredImagenet", "CIFARFS", "FC100"])
def test_hidden_folders_are_neither_classes_nor_images(root: Path, name: str, hidden: str) -> None:
    clean = content_of(source(root, name))
    for place in (root, root / "train", root / "train" / CLASSES[0], root / "val" / CLASSES[2] / "deeper"):
        for i in range(IMAGES):
            put(place / hidden / f"{i}.png", picture(i))
            put(place / hidden / "inner" / f"{i}.png", picture(i))
    assert content_of(source(root, name)) == clean


def test_hidden_folders_are_no_classes_where_the_source_divides_them(tmp_path: Path) -> None:
    for name in CLASSES:
        put(tmp_path / "data" / name / "0.png", picture(1))
    clean = content_of(source(tmp_path / "data"))
    for hidden in LEFT_BY_PROGRAMS:
        put(tmp_path / "data" / hidden / "0.png", picture(1))
    assert content_of(source(tmp_path / "data")) == clean


@pytest.mark.parametrize("name", ["ImageFolder", "MiniImagenet"])
def test_resource_forks_beside_the_images_are_no_images(root: Path, name: str) -> None:
    clean = content_of(source(root, name))
    for file in sorted((root / "train").rglob("*.png")):
        put(file.with_name(f"._{file.name}"), b"\0\5\x16\7 a resource fork")
    assert content_of(source(root, name)) == clean


def test_a_folder_whose_own_path_is_hidden_is_read(tmp_path: Path) -> None:
    tree(tmp_path / ".cache" / "@data")
    assert source(tmp_path / ".cache" / "@data").split("train").class_names == tuple(CLASSES[:2])


def test_members_of_archives_obey_the_same_rule_and_count_once(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("c/1.png", "__MACOSX/c/._1.png", "c/._1.png", "c/.ipynb_checkpoints/1.png", "@eaDir/1.png"):
            archive.writestr(name, b"x")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("c/1.png", b"y")
    assert [file.member for file in archive_members(path)] == ["c/1.png"]


# ---- what is no file of data ---------------------------------------------------------------------------------------


def test_a_link_to_nothing_is_named(root: Path) -> None:
    (root / "train" / CLASSES[0] / "9.png").symlink_to("gone.png")
    with pytest.raises(InputError, match=r"class0/9\.png: is a link to nothing; replace or remove it"):
        source(root).prepare()


def test_a_link_in_a_circle_is_named_and_a_folder_in_a_circle_is_not_followed(root: Path) -> None:
    clean = content_of(source(root))
    (root / "train" / CLASSES[0] / "again").symlink_to(root / "train" / CLASSES[0])
    assert content_of(source(root)) == clean
    (root / "train" / CLASSES[0] / "loop.png").symlink_to("loop.png")
    with pytest.raises(InputError, match=r"loop\.png: is a link to nothing"):
        source(root).prepare()


@pytest.mark.parametrize("name", ["ImageFolder", "MiniImagenet"])
@pytest.mark.parametrize(
    ("target", "message"),
    [
        (".", "holds .*, by a link"),  # the data set in one of its classes: the test images too
        ("train", "holds .*, by a link"),
        (f"val/{CLASSES[2]}", "is the same folder as .*, by a link"),
        (f"train/{CLASSES[0]}", "is the same folder as .*, by a link"),
    ],
)
def test_a_link_that_puts_images_into_two_classes_is_named(root: Path, name: str, target: str, message: str) -> None:
    (root / "train" / "linked").symlink_to((root / target).resolve())
    with pytest.raises(InputError, match=f"{message}; an image may have one class only"):
        source(root, name).prepare()


def test_folders_of_splits_in_capital_letters_are_no_classes(root: Path) -> None:
    clean = content_of(source(root))
    for split, name in (("train", "Train"), ("val", "VAL"), ("test", "Test")):
        (root / split).rename(root / name)
    assert content_of(source(root)) == clean


def test_splits_that_are_made_of_links_are_read(root: Path, tmp_path: Path) -> None:
    clean = content_of(source(root))
    for split in ("train", "val", "test"):
        (tmp_path / "linked" / split).mkdir(parents=True)
        for folder in (root / split).iterdir():
            (tmp_path / "linked" / split / folder.name).symlink_to(folder)
    assert content_of(source(tmp_path / "linked")) == clean


def test_a_pipe_with_the_name_of_an_image_is_named_and_not_waited_for(root: Path) -> None:
    os.mkfifo(root / "train" / CLASSES[0] / "9.png")
    with pytest.raises(InputError, match=r"9\.png: has the name of an image and is a pipe, socket or device"):
        source(root).prepare()


def test_a_folder_with_the_name_of_an_image_is_a_folder(root: Path) -> None:
    put(root / "train" / CLASSES[0] / "more.png" / "9.png", picture(99))
    assert len(source(root).split("train").images) == 2 * IMAGES + 1


def test_names_that_are_not_utf8_are_read(root: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(root / "train") + b"/\xe9l\xe9phant"))
    for i in range(IMAGES):
        put(Path(os.fsdecode(os.fsencode(odd) + b"/\xff%d.png" % i)), picture(i))
    made = source(root)
    assert len(made.split("train").class_names) == 3
    assert content_of(source(root)) == content_of(made)  # from the cache


# ---- what no decoder should get ------------------------------------------------------------------------------------


def test_only_the_formats_of_pictures_are_opened_and_no_program_is_started(root: Path, monkeypatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail(f"started {a}"))
    monkeypatch.setattr(os, "system", lambda *a: pytest.fail(f"started {a}"))
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    put(root / "train" / CLASSES[0] / "0.png", script)
    with pytest.raises(InputError, match=r"0\.png: cannot be read as an image \(its content is none of PNG, JPEG"):
        source(root).prepare()


@pytest.mark.parametrize("content", [b"", b"\x89PNG", picture(0)[:40], picture(0)[:-30], b"GIF89a" + b"\xff" * 40])
def test_a_damaged_image_is_named_and_no_object_of_python(root: Path, content: bytes) -> None:
    put(root / "train" / CLASSES[0] / "0.png", content)
    with pytest.raises(InputError) as caught:
        source(root).prepare()
    assert "class0/0.png: cannot be read as an image" in str(caught.value)
    assert "BytesIO" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_too_large_for_a_picture_is_named_and_not_read(root: Path) -> None:
    with open(root / "train" / CLASSES[0] / "9.png", "wb") as stream:
        stream.truncate(12 * 10**9)  # a hole: no disk is used
    with pytest.raises(InputError, match=r"9\.png: has 12\.0 GB, and a picture at most 0\.3 GB"):
        source(root).prepare()


def omniglot_zips(root: Path, name: str, content: bytes, change=lambda raw: raw) -> None:
    for part in ("images_background", "images_evaluation"):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for alphabet in range(8):
                member = f"{part}/A{alphabet}{part[7]}/character01/{name}"
                with archive.open(member, "w") as place:
                    place.write(content)
        put(root / f"{part}.zip", change(stream.getvalue()))


def encrypted(raw: bytes) -> bytes:
    """Set the flag of encryption in every header of a zip archive."""
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = raw.find(mark)
        while at >= 0:
            raw = raw[: at + offset] + bytes([raw[at + offset] | 1]) + raw[at + offset + 1 :]
            at = raw.find(mark, at + 4)
    return raw


def huge(raw: bytes) -> bytes:
    """Let every member of a zip archive say that it has nearly 4 GB."""
    at = raw.find(b"PK\1\2")
    while at >= 0:
        raw = raw[: at + 24] + struct.pack("<I", 0xFFFFFFF0) + raw[at + 28 :]
        at = raw.find(b"PK\1\2", at + 4)
    return raw


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (encrypted, "0001.png: is encrypted"),
        (huge, r"0001.png: has 4\.3 GB, and a picture at most"),
        (lambda raw: raw[: len(raw) // 2], "cannot be read as a zip archive"),
        (lambda raw: b"", "cannot be read as a zip archive"),
    ],
    ids=["encrypted", "huge", "half", "empty"],
)
def test_a_zip_archive_that_cannot_be_read_is_named(tmp_path: Path, change, message: str) -> None:
    omniglot_zips(tmp_path / "data", "0001.png", picture(0), change)
    with pytest.raises(InputError, match=message):
        source(tmp_path / "data", "Omniglot", split_scheme="lake").prepare()


def test_a_member_at_the_top_of_an_archive_is_no_character(tmp_path: Path) -> None:
    omniglot_zips(tmp_path / "data", "0001.png", picture(0))
    with zipfile.ZipFile(tmp_path / "data" / "images_background.zip", "a") as archive:
        archive.writestr("cover.png", picture(1))
    assert len(source(tmp_path / "data", "Omniglot", split_scheme="lake").split("test").class_names) == 8


def test_a_bomb_of_pixels_is_refused_before_it_is_unpacked(root: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    put(root / "train" / CLASSES[0] / "0.png", bomb)
    with pytest.raises(InputError, match=r"0\.png: cannot be read as an image \(.*decompression bomb"):
        source(root).prepare()
    assert LARGEST_FILE < 2**30


def test_a_picture_of_more_pixels_than_a_camera_takes_is_refused(root: Path, monkeypatch) -> None:
    monkeypatch.setattr(image_files, "MOST_PIXELS", 35)
    with pytest.raises(InputError, match=r"0\.png: .*it has 6 x 6 pixels, and a picture at most 0 million"):
        source(root).prepare()


def test_a_huge_file_among_pictures_to_classify_is_left_out_and_not_read(root: Path, capsys) -> None:
    with open(root / "train" / CLASSES[0] / "9.png", "wb") as stream:
        stream.truncate(12 * 10**9)  # a hole: no disk is used
    assert len(predict.query_files(root / "train")) == 2 * IMAGES
    assert "left out: " in capsys.readouterr().err
    with pytest.raises(InputError, match="none of its 1 pictures can be read"):
        predict.query_files(root / "train" / CLASSES[0] / "9.png")


# ---- what is missing or too little ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["MiniImagenet", "TieredImagenet", "CIFARFS", "FC100"])
@pytest.mark.parametrize("suffix", ["webp", "bmp", "tif", "gif", "JPEG"])
def test_ready_made_sources_read_every_kind_of_picture(tmp_path: Path, name: str, suffix: str) -> None:
    for split, names in (("train", CLASSES[:2]), ("val", CLASSES[2:4])):
        for class_name in names:
            (tmp_path / "data" / split / class_name).mkdir(parents=True)
            Image.new("RGB", (9, 9), (10, 20, 30)).save(tmp_path / "data" / split / class_name / f"0.{suffix}")
    assert source(tmp_path / "data", name).split("train").class_names == tuple(CLASSES[:2])


def test_classes_with_too_few_images_are_left_out_and_counted(root: Path, caplog) -> None:
    for name in ("poor1", "poor2"):
        put(root / "train" / name / "0.png", picture(1))
    made = source(root, min_images_per_class=2)
    assert made.split("train").class_names == tuple(CLASSES[:2])
    (message,) = [text for text in caplog.messages if "left out" in text]
    assert message.startswith("ImageFolder: 2 of 4 classes in ") and message.endswith(
        "have fewer than min_images_per_class=2 images and are left out: poor1, poor2"
    )
    with pytest.raises(InputError, match="ImageFolder: min_images_per_class=0 must be at least 1"):
        ImageFolder(min_images_per_class=0)


# ---- pickles -------------------------------------------------------------------------------------------------------


def pickled(root: Path, **fields) -> Path:
    import pickle

    for split in ("train", "val"):
        pixels = np.full((4, 6, 6, 3), 9, dtype=np.uint8)
        own = {key: value(split) if callable(value) else value for key, value in fields.items()}
        put(root / f"mini-imagenet-cache-{split}.pkl", pickle.dumps({"image_data": pixels, **own}))
    return root


@pytest.mark.parametrize("row", [float("inf"), float("nan"), 1.5, 10**30, -1, "1", None, True, [1]])
def test_rows_that_are_no_rows_are_named(tmp_path: Path, row) -> None:
    pickled(tmp_path / "data", class_dict=lambda split: {f"{split} a": [0, row]})
    with pytest.raises(InputError, match=r"mini-imagenet-cache-train\.pkl: (class_dict, or labels, is|names rows)"):
        source(tmp_path / "data", "MiniImagenet").prepare()


@pytest.mark.parametrize("classes", [{"a": [0, 1, 1]}, {"a": [0, 1], "b": [1, 2]}])
def test_a_row_that_is_named_twice_would_be_support_and_query(tmp_path: Path, classes) -> None:
    pickled(tmp_path / "data", class_dict=lambda split: {f"{split} {name}": rows for name, rows in classes.items()})
    with pytest.raises(InputError, match="names a row twice"):
        source(tmp_path / "data", "MiniImagenet").prepare()


@pytest.mark.parametrize("labels", [[0, 0, 1], [0, 0, 1, float("inf")], "0011"])
def test_labels_that_are_no_labels_are_named(tmp_path: Path, labels) -> None:
    pickled(tmp_path / "data", labels=labels)
    with pytest.raises(InputError, match="class_dict, or labels, is missing or of another kind"):
        source(tmp_path / "data", "MiniImagenet").prepare()


@pytest.mark.parametrize("content", [b"\x8e" + b"\xff" * 8, b"(" * 10**5, b"\x80\x09.", b"I" + b"9" * 5000 + b"\n."])
def test_a_pickle_made_to_harm_is_one_line(tmp_path: Path, content: bytes) -> None:
    put(tmp_path / "a.pkl", content)
    with pytest.raises(InputError, match=r"a\.pkl: this pickle is damaged"):
        load_pickle(tmp_path / "a.pkl")


def test_folder_members_are_sorted_whatever_the_disk_lists_first(root: Path) -> None:
    files = [file.path for file in folder_members(root)]
    assert files == sorted(files) and len(files) == len(CLASSES) * IMAGES
