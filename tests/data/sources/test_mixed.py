"""Tasks from one of several datasets. Truth: sources whose every pixel says which of them it is from."""

import numpy as np
import pytest
from scipy import stats

from few_shot_nas.data.episodic import EpisodicDataModule
from few_shot_nas.data.sampler import check_task, draw_task, group_of
from few_shot_nas.data.source import Source, SplitPlan
from few_shot_nas.data.sources import SOURCES
from few_shot_nas.data.sources.mixed import Mixed
from few_shot_nas.errors import InputError

SIZE, IMAGES = 6, 8


class Flat(Source):
    """Classes are shades from ``low`` on; images of a class alternate with one brighter pixel."""

    low = 0
    classes = {"train": 6, "val": 5}
    backwards = False
    in_channels = 1
    mean = (0.0,)
    std = (1.0,)

    def __init__(self, data_dir: str = "data", cache_dir: str = "cache", image_size: int = SIZE) -> None:
        super().__init__(data_dir, cache_dir, image_size)

    def split_names(self):
        return tuple(self.classes)

    def settings(self):
        return {"low": self.low}

    def input_files(self):
        return []

    def plan(self):
        return {split: self._plan(split, count) for split, count in self.classes.items()}

    def _plan(self, split, count):
        shades = [self.low + c for c in range(count) for _ in range(IMAGES)]
        order = np.arange(len(shades))[:: -1 if self.backwards else 1]
        shape = (self.image_size, self.image_size, self.in_channels)
        images = (np.full(shape, shades[row], dtype=np.uint8) for row in order)
        names = tuple(f"{split}{c}" for c in range(count))
        return SplitPlan(names, (IMAGES,) * count, shape, images, positions=order if self.backwards else None)


class Dark(Flat):
    name = "Dark"
    classes = {"train": 6, "val": 5, "test": 4}


class Light(Flat):
    name, low, in_channels, backwards = "Light", 200, 3, True
    mean, std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    classes = {"train": 20, "val": 7}


class Middle(Flat):
    name, low = "Middle", 100


@pytest.fixture(autouse=True)
def parts_in_the_table(monkeypatch):
    for source in (Dark, Light, Middle):
        monkeypatch.setitem(SOURCES, source.name, source)


@pytest.fixture
def make_mixed(tmp_path):
    def make(parts="Dark,Light,Middle", **settings):
        return Mixed(cache_dir=str(tmp_path / "cache"), image_size=SIZE, parts=parts, **settings)

    return make


def test_the_parts_lie_one_after_the_other_with_three_channels_each(make_mixed):
    split = make_mixed().split("train")
    assert split.images.shape == ((6 + 20 + 6) * IMAGES, SIZE, SIZE, 3)
    assert split.groups.tolist() == [0] * 6 + [1] * 20 + [2] * 6 and split.groups.dtype == np.int64
    assert split.class_names[:2] == ("Dark/train0", "Dark/train1") and split.class_names[6] == "Light/train0"
    shades = [c for c in range(6)] + [200 + c for c in range(20)] + [100 + c for c in range(6)]
    for c, shade in enumerate(shades):
        assert (split.images[split.starts[c] : split.starts[c + 1]] == shade).all()


def test_only_the_splits_of_every_part_are_there(make_mixed):
    assert make_mixed().split_names() == ("train", "val")
    assert make_mixed("Middle,Light").split_names() == ("train", "val")


def test_a_task_never_mixes_parts_and_each_part_comes_equally_often_whatever_its_size(make_mixed):
    split = make_mixed().split("train")
    counts = np.zeros(3)
    for task in range(1500):
        plan = draw_task(split, seed=0, split_name="train", task_id=task, n_way=5, k_shot=1, n_query=2)
        classes = np.searchsorted(split.starts, plan.index.numpy(), side="right") - 1
        assert len(set(split.groups[classes].tolist())) == 1 and len(set(classes.tolist())) == 5
        counts[group_of(split, plan)] += 1
        assert group_of(split, plan) == split.groups[classes[0]]
    assert stats.chisquare(counts).pvalue > 1e-3


def test_classes_of_a_part_are_drawn_equally_often(make_mixed):
    split = make_mixed().split("train")
    shape = {"seed": 0, "split_name": "train", "n_way": 5, "k_shot": 1, "n_query": 1}
    rows = [draw_task(split, task_id=task, **shape).index[:5].numpy() for task in range(3000)]
    classes = np.searchsorted(split.starts, np.concatenate(rows), side="right") - 1
    assert stats.chisquare(np.bincount(classes, minlength=32)[6:26]).pvalue > 1e-3


@pytest.mark.parametrize("rotation", ["augment", "classes"])
def test_turned_tasks_do_not_mix_parts_either(make_mixed, rotation):
    split = make_mixed().split("train")
    for task in range(100):
        plan = draw_task(
            split, seed=0, split_name="train", task_id=task, n_way=6, k_shot=1, n_query=1, rotation=rotation
        )
        classes = np.searchsorted(split.starts, plan.index.numpy(), side="right") - 1
        assert len(set(split.groups[classes].tolist())) == 1
        assert len(set(zip(classes[:6].tolist(), plan.rotation[:6].tolist(), strict=True))) == 6


def test_a_single_group_is_no_obstacle_and_no_groups_are_group_zero(make_mixed):
    split = make_mixed().split("train")._replace(groups=None)
    plan = draw_task(split, seed=0, split_name="train", task_id=0, n_way=30, k_shot=1, n_query=1)
    assert group_of(split, plan) == 0


def test_the_smallest_part_says_how_many_ways_there_are(make_mixed):
    split = make_mixed().split("train")
    check_task(split, label="Mixed", n_way=6, k_shot=1, n_query=1)
    with pytest.raises(InputError, match="Mixed: n_way=7 but there are 6 classes in the group of Dark/train0; lower"):
        check_task(split, label="Mixed", n_way=7, k_shot=1, n_query=1)
    turned = {"n_way": 25, "k_shot": 1, "n_query": 1, "rotation": "classes"}
    with pytest.raises(InputError, match="there are 24 classes in the group of Dark/train0"):
        check_task(split, label="Mixed", **turned)


def test_episodes_are_pure_and_the_groups_survive_the_cache(make_mixed):
    data = [
        EpisodicDataModule(make_mixed(), n_way=4, k_shot=2, n_query=3, meta_batch_size=2, test_episodes=2)
        for _ in range(2)
    ]
    for one in data:
        one.setup("fit")
    parts = set()
    for task in range(20):
        first, second = (one.episode("val", [task]) for one in data)
        assert (first.support_x == second.support_x).all()
        shades = set((first.support_x.flatten() * 255).round().int().tolist())
        assert len(shades) == 4 and max(shades) - min(shades) < 10
        parts.add(min(shades) // 100)
    assert parts == {0, 1, 2}


def test_another_mixture_is_another_cache(make_mixed, tmp_path):
    make_mixed().prepare()
    make_mixed("Light,Dark").prepare()
    folders = [entry for entry in (tmp_path / "cache").iterdir() if entry.is_dir()]
    assert len(folders) == 2, "the parts are not packed on their own"


@pytest.mark.parametrize("parts", ["Dark", "", "Dark,Dark", "Dark,Mixed"])
def test_a_mixture_that_is_none_is_refused(make_mixed, parts):
    with pytest.raises(InputError, match=f"Mixed: parts={parts} must be two or more different sources"):
        make_mixed(parts)


def test_an_unknown_part_is_named_with_what_was_meant(make_mixed):
    with pytest.raises(InputError, match="Mixed: parts=Lihgt: unknown. Did you mean Light?"):
        make_mixed("Dark, Lihgt")
