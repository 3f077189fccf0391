"""Intervals that hold for other classes, against closed forms and simulated draws of classes."""

from itertools import combinations

import numpy as np
import pytest

from few_shot_nas.stats.class_variance import class_interval, class_variance
from few_shot_nas.stats.statistics import mean_ci


def every_task(classes: int, ways: int, times: int) -> np.ndarray:
    return np.array(list(combinations(range(classes), ways)) * times)


def test_effects_of_classes_without_noise_give_their_variance_over_their_number() -> None:
    effect = np.array([3.0, -1.0, 0.5, 2.0, -4.0, 1.0])
    tasks = every_task(6, 3, 2)
    found = class_variance(effect[tasks].mean(1), tasks)
    assert found.variance == pytest.approx(effect.var(ddof=1) / 6, rel=1e-9)
    assert found.uncertainty == pytest.approx(found.variance**2 / 5, rel=1e-9)


def test_names_of_classes_do_not_matter() -> None:
    tasks = every_task(6, 2, 3)
    values = np.random.default_rng(0).normal(size=len(tasks)) + tasks[:, 0]
    assert class_variance(values, 7 * tasks[:, ::-1] + 100) == pytest.approx(class_variance(values, tasks))


def test_the_difference_of_sources_is_no_variance_of_classes() -> None:
    tasks = every_task(6, 2, 3)
    effect = np.random.default_rng(1).normal(size=6)
    values = effect[tasks].mean(1)
    one = class_variance(values, tasks).variance
    both = class_variance(np.concatenate([values, values + 50.0]), np.concatenate([tasks, tasks + 6]))
    assert both.variance == pytest.approx(one / 2)  # a quarter each, twice


def test_tasks_of_all_classes_or_of_more_classes_than_tasks_say_nothing_of_classes() -> None:
    values = np.random.default_rng(2).normal(size=40)
    assert class_variance(values, np.tile(np.arange(5), (40, 1))).variance == 0
    assert class_variance(values[:3], np.arange(9).reshape(3, 3)).variance == 0


def test_it_covers_the_mean_of_all_classes_where_an_interval_over_tasks_does_not() -> None:
    rng = np.random.default_rng(3)
    covered = np.zeros(2)
    for _ in range(150):
        effect, tasks = 2 * rng.normal(size=16), rng.random((1, 400, 16)).argsort(2)[:, :, :5]
        values = effect[tasks].mean(2) + 2 * rng.normal(size=(1, 400))
        for place, found in enumerate((mean_ci(values[0]), class_interval(values, tasks))):
            covered[place] += abs(found.mean) < found.ci95
    assert covered[0] < 0.55 * 150 and covered[1] > 0.85 * 150


def test_it_counts_the_images_of_the_classes_as_units_too() -> None:
    """Classes are alike here and images are not: 20 of each class are all that there are."""
    rng = np.random.default_rng(5)
    covered = np.zeros(2)
    for _ in range(100):
        image, tasks = rng.normal(size=(16, 20)), rng.random((1, 400, 16)).argsort(2)[:, :, :5]
        drawn = rng.random((400, 5, 20)).argsort(2)[:, :, :15]
        values = image[tasks[0][:, :, None], drawn].mean((1, 2))[None]
        for place, found in enumerate((mean_ci(values[0]), class_interval(values, tasks))):
            covered[place] += abs(found.mean) < found.ci95
    assert covered[0] < 30 and covered[1] >= 90


def test_without_effects_of_classes_it_is_the_interval_over_seeds() -> None:
    rng = np.random.default_rng(4)
    values, tasks = rng.normal(size=(4, 300)), rng.random((4, 300, 40)).argsort(2)[:, :, :5]
    tight = class_interval(values, tasks)
    plain = mean_ci(values.mean(1))
    assert tight.mean == pytest.approx(plain.mean) and tight.n == 4
    assert 0.5 * plain.ci95 < tight.ci95 < 1.6 * plain.ci95
