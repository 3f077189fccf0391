"""What every entry of SOURCES promises without any data at hand, and what Source itself does."""

import inspect
import pickle

import pytest

from few_shot_nas.data.source import Source
from few_shot_nas.data.sources import SOURCES
from few_shot_nas.errors import InputError


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_takes_flat_typed_keywords_with_defaults(name):
    parameters = list(inspect.signature(SOURCES[name].__init__).parameters.values())[1:]
    assert [p.name for p in parameters][:3] == ["data_dir", "cache_dir", "image_size"]
    assert all(p.default is not p.empty and p.annotation is not p.empty for p in parameters)
    assert SOURCES[name].name == name


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_is_made_without_reading_anything_and_survives_pickling(name, tmp_path):
    source = SOURCES[name](data_dir=str(tmp_path / "none"), cache_dir="~/cache", image_size=33)
    copy = pickle.loads(pickle.dumps(source))
    assert isinstance(copy, Source) and copy.__dict__ == source.__dict__
    assert copy.image_size == 33 and "~" not in str(copy.cache_dir)
    assert len(copy.mean) == len(copy.std) == copy.in_channels
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", SOURCES)
def test_an_image_without_pixels_is_refused(name):
    with pytest.raises(InputError, match=f"{name}: image_size=0 must be at least 1"):
        SOURCES[name](image_size=0)


def test_what_is_pickled_holds_no_images_and_opens_them_again(make_toy):
    source = make_toy()
    images = source.split("train").images
    state = source.__getstate__()
    assert not any(isinstance(value, dict) and "train" in value for key, value in state.items() if key != "classes")
    copy = make_toy()
    copy.__dict__.update(state)
    assert (copy.split("train").images == images).all()


def test_prepare_logs_where_the_images_come_from_and_how_many_there_are(make_toy, caplog):
    with caplog.at_level("INFO"):
        make_toy(classes={"train": 3, "val": 2}).prepare()
    assert caplog.messages == ["Toy from nowhere: train 3 classes, 60 images; val 2 classes, 40 images"]
