"""The built-in dataset. Truth: the fonts' own character maps, unicodedata, and looking at every pair of classes."""

import unicodedata

import matplotlib.ft2font
import numpy as np
import pytest

from few_shot_nas.data.sources import glyphs
from few_shot_nas.data.sources.glyphs import IMAGES_PER_CLASS, Glyphs, glyph_classes

SCRIPTS = {"val": {"ARMENIAN", "LAO"}, "test": {"HEBREW", "ARABIC", "ARABIC-INDIC", "EXTENDED", "GEORGIAN"}}


@pytest.fixture(scope="module")
def few():
    """A few classes of every split, to draw quickly."""
    return {split: dict(list(classes.items())[:6]) for split, classes in glyph_classes().items()}


@pytest.fixture
def make_glyphs(tmp_path, monkeypatch, few):
    """Return a source that draws only those."""
    monkeypatch.setattr(glyphs, "glyph_classes", lambda: few)
    return lambda **settings: Glyphs(cache_dir=str(tmp_path / "cache"), **settings)


def test_there_are_enough_classes_in_every_split_and_none_in_two():
    classes = glyph_classes()
    assert {split: len(codes) for split, codes in classes.items()} == {"train": 995, "val": 89, "test": 157}
    assert len(set().union(*classes.values())) == 995 + 89 + 157


def test_scripts_of_val_and_test_are_not_in_train():
    words = {
        split: {unicodedata.name(chr(code)).split()[0] for code in codes} for split, codes in glyph_classes().items()
    }
    assert words["val"] == SCRIPTS["val"] and words["test"] <= SCRIPTS["test"]
    assert not words["train"] & (SCRIPTS["val"] | SCRIPTS["test"])
    assert {"LATIN", "GREEK", "CYRILLIC", "DIGIT", "CANADIAN"} <= words["train"]


def test_every_font_of_a_class_has_its_character():
    maps = {
        face: matplotlib.ft2font.FT2Font(str(glyphs._face_path(face))).get_charmap() for face in glyphs._FACES
    }
    for codes in glyph_classes().values():
        for code, faces in codes.items():
            assert len(set(faces)) == len(faces) >= 4
            assert all(maps[face].get(code, 0) != 0 for face in faces)


def test_characters_that_look_the_same_are_one_class():
    every = set().union(*glyph_classes().values())
    for group in ("AΑА", "cCсϲС", "oOοОО", "ՕOօ", "=⁼"):
        assert len(every & {ord(character) for character in group}) <= 1, group
    shapes = np.stack([glyphs._shape(code) for code in sorted(every)])
    alike = shapes @ shapes.T - np.eye(len(shapes))
    assert alike.max() <= glyphs._ALIKE + 1e-5


def test_images_are_white_ink_on_black_with_room_around(make_glyphs):
    split = make_glyphs().split("train")
    assert split.images.shape == (6 * IMAGES_PER_CLASS, 28, 28, 1)
    assert (split.images.max(axis=(1, 2, 3)) > 128).all()
    ink = split.images.mean(axis=(1, 2, 3)) / 255
    assert (0.01 < ink).all() and (ink < 0.5).all()
    border = np.concatenate([split.images[:, 0], split.images[:, -1], split.images[:, :, 0], split.images[:, :, -1]])
    assert border.mean() < 3


def test_the_images_of_a_class_all_differ(make_glyphs):
    split = make_glyphs().split("test")
    for c in range(6):
        rows = split.images[split.starts[c] : split.starts[c + 1]]
        assert len({image.tobytes() for image in rows}) == IMAGES_PER_CLASS


def test_drawing_twice_gives_the_same_bytes(make_glyphs, tmp_path):
    first = make_glyphs().split("val").images
    second = Glyphs(cache_dir=str(tmp_path / "other")).split("val").images
    assert first.tobytes() == second.tobytes()


def test_a_class_is_named_by_its_code_point(make_glyphs):
    assert make_glyphs().split("train").class_names[0] == "U+0030 DIGIT ZERO"


def test_any_size_can_be_drawn(make_glyphs):
    large, small = make_glyphs(image_size=56).split("val").images, make_glyphs().split("val").images
    assert large.shape[1:] == (56, 56, 1)
    assert large.mean() == pytest.approx(small.mean(), rel=0.15)


def test_a_nearest_mean_classifier_is_far_above_chance_and_below_perfect(make_glyphs):
    images = make_glyphs().split("test").images.reshape(6, IMAGES_PER_CLASS, -1) / 255
    means = images[:, :5].mean(axis=1)
    distances = ((images[:, 5:, None] - means) ** 2).sum(-1)
    accuracy = (distances.argmin(-1) == np.arange(6)[:, None]).mean()
    assert 0.4 < accuracy < 1
