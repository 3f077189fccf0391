"""Tasks as pure functions. Truth: the definition of an N-way K-shot task, and plain loops over toy images."""

import numpy as np
import pytest
import torch
from scipy import stats

from few_shot_nas.data import sampler
from few_shot_nas.data.sampler import check_task, draw_task, image_tensor, materialise, stack
from few_shot_nas.episode import check_episode
from few_shot_nas.errors import InputError

N, K, Q = 5, 2, 3


def draw(split, task_id, rotation="none", **changes):
    arguments = {"seed": 7, "split_name": "train", "n_way": N, "k_shot": K, "n_query": Q, **changes}
    return draw_task(split, task_id=task_id, rotation=rotation, **arguments)


@pytest.fixture
def split(make_toy):
    return make_toy().split("train")


def classes_of(split, plan):
    return np.searchsorted(split.starts, plan.index.numpy(), side="right") - 1


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a[:4], b[:4], strict=True))


@pytest.mark.parametrize("rotation", ["none", "augment", "classes"])
def test_a_task_is_the_same_whenever_it_is_drawn(split, rotation):
    first = [draw(split, task, rotation) for task in range(20)]
    np.random.seed(1)
    torch.manual_seed(1)
    again = [draw(split, task, rotation) for task in reversed(range(20))][::-1]
    assert all(same(a, b) for a, b in zip(first, again, strict=True))


GOLDEN = {  # every second row, and the turns of the classes, of task 299 of 12 classes with 20 images
    "none": ([34, 219, 145, 124, 100, 131, 117, 128, 116, 215, 156, 208, 101], [0, 0, 0, 0, 0]),
    "augment": ([31, 202, 150, 133, 116, 32, 119, 213, 115, 210, 103, 140, 147], [3, 3, 3, 2, 1]),
    "classes": ([114, 119, 165, 4, 220, 11, 237, 8, 236, 115, 176, 108, 221], [0, 3, 3, 3, 1]),
}


@pytest.mark.parametrize("rotation", GOLDEN)
def test_the_streams_of_published_runs_stay_what_they_are(split, rotation):
    plan = draw(split, 299, rotation)
    assert (plan.index[::2].tolist(), plan.rotation[: N * K : K].tolist()) == GOLDEN[rotation]


@pytest.mark.parametrize("rotation", ["none", "augment", "classes"])
def test_the_classes_of_a_task_are_named_by_numbers_within_the_split(split, rotation):
    turned = set()
    for task in range(30):
        plan = draw(split, task, rotation)
        named = sampler.classes_of(split, plan, rotation)
        by_label = sampler.classes_by_label(split, plan, rotation)
        for label, row, turn in zip(plan.label.tolist(), classes_of(split, plan), plan.rotation.tolist(), strict=True):
            assert by_label[label] == (row * 4 + turn if rotation == "classes" else row)
            name = split.class_names[row]
            wanted = f"{name}, turned {turn}/4" if rotation == "classes" else name
            assert sampler.class_name(split, by_label[label], rotation) == wanted
        assert sorted(by_label) == named
        plain = set(classes_of(split, plan).tolist())
        assert len(named) == N and named == sorted(set(named))
        assert {c // 4 for c in named} == plain if rotation == "classes" else set(named) == plain
        turned |= {c % 4 for c in named}
    assert turned == {0, 1, 2, 3}


def test_seed_split_and_task_id_each_give_another_task(split):
    plans = [draw(split, 0), draw(split, 1), draw(split, 0, seed=8), draw(split, 0, split_name="val")]
    assert not any(same(a, b) for i, a in enumerate(plans) for b in plans[:i])


def test_drawing_leaves_the_global_generators_alone(split):
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    draw(split, 0, "augment")
    assert torch.equal(torch.get_rng_state(), before[0]) and np.random.get_state()[1].tolist() == before[1]


@pytest.mark.parametrize("rotation", ["none", "augment"])
def test_labels_and_classes_correspond_one_to_one(split, rotation):
    for task in range(100):
        plan = draw(split, task, rotation)
        pairs = set(zip(plan.label.tolist(), classes_of(split, plan).tolist(), strict=True))
        assert len(pairs) == len({label for label, _ in pairs}) == len({c for _, c in pairs}) == N
        assert {label for label, _ in pairs} == set(range(N))


def test_support_has_k_and_query_n_query_different_images_of_every_class(split):
    for task in range(100):
        plan = draw(split, task)
        assert plan.n_support == N * K and len(plan.index) == N * (K + Q)
        assert np.bincount(plan.label[: N * K]).tolist() == [K] * N
        assert np.bincount(plan.label[N * K :]).tolist() == [Q] * N
        assert len(set(plan.index.tolist())) == N * (K + Q)


def test_a_given_class_gets_every_label_equally_often(split):
    counts = np.zeros(N)
    for task in range(3000):
        plan = draw(split, task)
        for label in set(plan.label[classes_of(split, plan) == 4].tolist()):
            counts[label] += 1
    assert counts.sum() > 1000
    assert stats.chisquare(counts).pvalue > 1e-3


def test_every_class_and_every_image_of_a_class_is_drawn_equally_often(split):
    plans = [draw(split, task) for task in range(3000)]
    # The statistic wants independent draws: a class counts once per task, an image once per task and class.
    classes = np.concatenate([np.unique(classes_of(split, plan)) for plan in plans])
    assert stats.chisquare(np.bincount(classes, minlength=12)).pvalue > 1e-3
    first_support = np.concatenate([plan.index.numpy()[: N * K : K] for plan in plans])
    assert stats.chisquare(np.bincount(first_support % 20, minlength=20)).pvalue > 1e-3


def test_labels_of_the_query_do_not_follow_from_position(split):
    first = np.bincount([int(draw(split, task).label[N * K]) for task in range(2000)], minlength=N)
    assert stats.chisquare(first).pvalue > 1e-3
    repeats = np.mean([(np.diff(draw(split, task).label[N * K :].numpy()) == 0).mean() for task in range(500)])
    # In a random order of N classes with Q images each, a neighbour has the same label with (Q-1)/(NQ-1).
    assert repeats == pytest.approx((Q - 1) / (N * Q - 1), abs=0.02)


def test_augment_turns_each_class_by_one_angle_and_every_angle_occurs_equally_often(split):
    angles = []
    for task in range(400):
        plan = draw(split, task, "augment")
        by_label = [set(plan.rotation[plan.label == label].tolist()) for label in range(N)]
        assert all(len(turns) == 1 for turns in by_label)
        angles += [turns.pop() for turns in by_label]
    assert stats.chisquare(np.bincount(angles, minlength=4)).pvalue > 1e-3
    assert len({tuple(angles[i : i + N]) for i in range(0, len(angles), N)}) > 200, "angles of a task go together"


def test_rotations_as_classes_are_classes_of_their_own(split):
    met = 0
    for task in range(400):
        plan = draw(split, task, "classes", n_way=8)
        virtual = list(zip(classes_of(split, plan).tolist(), plan.rotation.tolist(), strict=True))
        pairs = set(zip(plan.label.tolist(), virtual, strict=True))
        assert len(pairs) == len(set(virtual)) == 8
        met += len({c for c, _ in virtual}) < 8
    assert met > 20, "two turns of one character must be able to meet"


def test_no_rotation_turns_nothing(split):
    assert not any(draw(split, task).rotation.any() for task in range(50))


def test_materialised_images_are_those_of_a_plain_loop(split):
    mean, std = (0.3,), (0.6,)
    plans = [draw(split, task, "augment") for task in range(6)]
    episode = materialise(plans, image_tensor(split), mean, std)
    check_episode(episode, N)
    assert episode.task_id.tolist() == list(range(6))
    for m, plan in enumerate(plans):
        images = torch.cat([episode.support_x[m], episode.query_x[m]])
        labels = torch.cat([episode.support_y[m], episode.query_y[m]])
        for b in range(len(plan.index)):
            turned = np.rot90(split.images[int(plan.index[b])], int(plan.rotation[b]))
            expected = (turned.transpose(2, 0, 1) / 255 - mean[0]) / std[0]
            np.testing.assert_allclose(images[b].numpy(), expected, atol=1e-6)
            assert labels[b] == plan.label[b]


def test_without_mean_and_deviation_an_image_is_its_bytes_over_255(split):
    episode = materialise([draw(split, 0)], image_tensor(split), (0.0,), (1.0,))
    values = torch.cat([episode.support_x, episode.query_x], dim=1).unique()
    assert torch.equal(values, (values * 255).round() / 255)


def test_stacked_plans_and_single_ones_give_the_same_episode(split):
    plans = [draw(split, task, "augment") for task in range(3)]
    images = image_tensor(split)
    together = materialise(stack(plans), images, (0.1,), (0.5,))
    apart = [materialise([plan], images, (0.1,), (0.5,)) for plan in plans]
    for field in range(5):
        assert torch.equal(together[field], torch.cat([episode[field] for episode in apart]))


def test_the_image_tensor_shares_the_memory_map_and_does_not_warn(split, recwarn):
    tensor = image_tensor(split)
    assert tensor.data_ptr() == split.images.ctypes.data and not recwarn.list


def test_channels_are_normalised_each_by_its_own(make_toy):
    images = torch.tensor([[10, 20, 30]], dtype=torch.uint8).repeat(240, 1).view(240, 1, 1, 3)
    episode = materialise([draw(make_toy().split("train"), 0)], images, (0.1, 0.2, 0.3), (0.5, 0.25, 0.125))
    expected = [(10 / 255 - 0.1) / 0.5, (20 / 255 - 0.2) / 0.25, (30 / 255 - 0.3) / 0.125]
    assert episode.query_x[0, 0].flatten().tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"n_way": 13}, "Toy: n_way=13 but there are 12 classes"),
        ({"n_way": 0}, "Toy: n_way=0 must be at least 1"),
        ({"k_shot": 0}, "Toy: k_shot=0 must be at least 1"),
        ({"n_query": -1}, "Toy: n_query=-1 must be at least 1"),
        ({"k_shot": 6, "n_query": 15}, "class train-0 has 20 images, k_shot=6 and n_query=15 need 21 of every class"),
        ({"n_way": 49, "rotation": "classes"}, "n_way=49 but there are 48 classes"),
    ],
)
def test_a_task_that_cannot_be_drawn_is_refused_with_the_numbers(split, changes, message):
    with pytest.raises(InputError, match=message):
        check_task(split, label="Toy", **{"n_way": 5, "k_shot": 1, "n_query": 15, **changes})


def test_a_task_that_just_fits_is_drawn(split):
    fits = {"n_way": 48, "k_shot": 5, "n_query": 15, "rotation": "classes"}
    check_task(split, label="Toy", **fits)
    plan = draw(split, 0, **fits)
    assert len(set(zip(plan.index.tolist(), plan.rotation.tolist(), strict=True))) == 48 * 20
