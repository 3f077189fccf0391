"""Augmentation as a pure function of its words. Truth: windows cut with numpy, torchvision's functions."""

from itertools import permutations

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from lightning_fabric.utilities.apply_func import move_data_to_device
from scipy import stats

from few_shot_nas.data.augment import Augmentation, augment, draw_augmentation, padding, stack_augmentations
from few_shot_nas.data.episodic import EpisodicDataModule
from few_shot_nas.data.meta_batches import PlannedBatch
from few_shot_nas.data.sampler import draw_task, image_tensor, materialise, stack
from few_shot_nas.errors import InputError

B, SIZE = 12, 10
ADJUST = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation)


def draw(kind="crop_flip_jitter", *words, count=B, size=SIZE):
    return draw_augmentation(kind, count, size, *(words or (5, "train", 0)))


def pictures(channels=3, count=B):
    return torch.from_numpy(np.random.default_rng(1).integers(0, 256, (count, SIZE, SIZE, channels), dtype=np.uint8))


def as_planes(pixels):
    return pixels.permute(0, 3, 1, 2).float()


def same(one, other):
    return all(a is b is None or torch.equal(a, b) for a, b in zip(one, other, strict=True))


def still(factors):
    """Take the middle window, mirror nothing, and change the colours in the plain order."""
    middle = torch.full((B,), padding(SIZE))
    return Augmentation(middle, middle, torch.zeros(B, dtype=torch.bool), factors, torch.arange(3).repeat(B, 1))


def test_what_is_drawn_depends_on_its_words_alone():
    words = [(5, "train", task) for task in range(5)]
    first = [draw("crop_flip_jitter", *w) for w in words]
    np.random.seed(1)
    torch.manual_seed(1)
    again = [draw("crop_flip_jitter", *w) for w in reversed(words)][::-1]
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    for other in ((6, "train", 0), (5, "val", 0), (5, "train", 1)):
        assert not same(first[0], draw("crop_flip_jitter", *other))


def test_the_draws_of_the_flat_stream_stay_what_they_are():
    how = draw("crop_flip_jitter", 3, "flat augmentation", 7, count=4, size=84)
    assert (how.top.tolist(), how.left.tolist()) == ([0, 6, 2, 0], [10, 14, 8, 2])
    assert how.flip.tolist() == [True, True, False, False]
    assert how.order.tolist() == [[2, 0, 1], [2, 0, 1], [2, 0, 1], [0, 2, 1]]
    torch.testing.assert_close(how.factors[:, 0], torch.tensor([1.1723830, 1.1700418, 1.3858044, 1.0829380]))


def test_drawing_leaves_the_global_generators_alone():
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    draw()
    assert torch.equal(torch.get_rng_state(), before[0]) and np.random.get_state()[1].tolist() == before[1]


def test_none_draws_nothing_and_crop_flip_draws_the_same_windows_without_colours():
    assert draw("none") is None
    assert draw("crop_flip").factors is None and draw("crop_flip").order is None
    assert same(draw("crop_flip")[:3], draw("crop_flip_jitter")[:3])


@pytest.mark.parametrize("size, pixels", [(84, 8), (32, 4), (28, 3), (42, 4), (1, 1)])
def test_the_padding_is_that_of_rfs(size, pixels):
    assert padding(size) == pixels
    assert sorted(set(draw(count=2000, size=size).top.tolist())) == list(range(2 * pixels + 1))


def test_half_of_the_images_are_mirrored_and_every_window_colour_and_order_is_as_likely_as_another():
    drawn = [draw("crop_flip_jitter", 5, "train", task) for task in range(300)]
    flips = torch.cat([one.flip for one in drawn])
    assert stats.binomtest(int(flips.sum()), len(flips)).pvalue > 1e-3
    for name in ("top", "left"):
        counts = np.bincount(torch.cat([getattr(one, name) for one in drawn]), minlength=2 * padding(SIZE) + 1)
        assert len(counts) == 2 * padding(SIZE) + 1 and stats.chisquare(counts).pvalue > 1e-3
    factors = torch.cat([one.factors for one in drawn])
    assert stats.kstest((factors.flatten().numpy() - 0.6) / 0.8, "uniform").pvalue > 1e-3
    orders = np.unique(torch.cat([one.order for one in drawn]), axis=0, return_counts=True)
    assert sorted(map(tuple, orders[0].tolist())) == sorted(permutations(range(3)))
    assert stats.chisquare(orders[1]).pvalue > 1e-3
    fields = np.stack([torch.cat([getattr(one, name) for one in drawn]) for name in ("top", "left", "flip")])
    assert np.abs(np.corrcoef(fields) - np.eye(3)).max() < 0.06


def test_images_of_a_batch_are_augmented_each_by_itself():
    one = draw(count=200)
    windows = set(zip(one.top.tolist(), one.left.tolist(), one.flip.tolist(), strict=True))
    assert len(windows) > 10 and len(set(one.factors[:, 0].tolist())) == 200


@pytest.mark.parametrize("channels", [1, 3])
def test_a_crop_is_a_window_of_the_padded_image_mirrored_or_not(channels):
    images, one, p = pictures(channels), draw("crop_flip"), padding(SIZE)
    got = augment(images, one)
    assert got.dtype == torch.float32 and got.shape == (B, channels, SIZE, SIZE) and got.is_contiguous()
    for b in range(B):
        padded = np.pad(images[b].numpy(), ((p, p), (p, p), (0, 0)))
        top, left = int(one.top[b]), int(one.left[b])
        window = padded[top : top + SIZE, left : left + SIZE]
        np.testing.assert_array_equal(got[b].permute(1, 2, 0), window[:, ::-1] if one.flip[b] else window)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_middle_window_without_a_mirror_and_factors_of_one_changes_nothing(channels):
    images = pictures(channels)
    assert torch.equal(augment(images, still(None)._replace(order=None)), as_planes(images))
    torch.testing.assert_close(augment(images, still(torch.ones(B, 3))), as_planes(images), rtol=0, atol=1e-4)


def test_factors_of_zero_give_black_flat_and_grey():
    black, flat, grey = (
        augment(pictures(), still(torch.ones(B, 3).index_fill(1, torch.tensor([column]), 0.0))) for column in range(3)
    )
    assert not black.any() and flat.var(dim=(1, 2, 3)).max() < 1e-6
    torch.testing.assert_close(grey, grey[:, :1].expand_as(grey))


def by_torchvision(image, how, row):
    """One image [H, W, C] as RFS's transform would make it with these random numbers; float [C, H, W] in 0..255."""
    x = TF.pad(image.permute(2, 0, 1), padding(SIZE))
    x = TF.crop(x, int(how.top[row]), int(how.left[row]), *image.shape[:2])
    x = TF.hflip(x) if how.flip[row] else x
    x = x.float() / 255
    for kind in how.order[row].tolist():
        x = ADJUST[kind](x, float(how.factors[row, kind]))
    return 255 * x


@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_is_what_torchvision_makes_of_it_with_the_same_random_numbers(channels):
    images, how = pictures(channels), draw()
    out = augment(images, how)
    assert len({tuple(order) for order in how.order.tolist()}) > 2 and 0 < int(how.flip.sum()) < B
    for row in range(B):
        torch.testing.assert_close(out[row], by_torchvision(images[row], how, row), rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", ["crop_flip", "crop_flip_jitter"])
def test_parts_of_a_batch_stacked_and_laid_in_one_row_are_the_batch(kind):
    how = draw(kind)
    parts = stack_augmentations([how.part(np.arange(6)), how.part(np.arange(6, 12))])
    assert parts.flip.shape == (2, 6) and same(parts.in_one_row(slice(None)), how)
    assert same(parts.in_one_row(slice(4, None)), how.part(np.array([4, 5, 10, 11])))
    assert stack_augmentations([None, None]) is None


@pytest.mark.parametrize("kind", ["crop_flip", "crop_flip_jitter"])
def test_an_image_of_a_batch_does_not_depend_on_the_others(kind):
    how, some = draw(kind), np.array([7, 2])
    assert torch.equal(augment(pictures()[some], how.part(some)), augment(pictures(), how)[some])


@pytest.mark.parametrize("kind", ["crop_flip", "crop_flip_jitter"])
def test_stacked_tasks_are_augmented_as_single_ones(make_toy, kind):
    split = make_toy().split("train")
    shape = {"seed": 0, "split_name": "train", "n_way": 3, "k_shot": 1, "n_query": 3}
    plans = [
        draw_task(split, task_id=task, **shape)._replace(augmentation=draw(kind, 5, task, size=5))
        for task in range(3)
    ]
    images = image_tensor(split)
    together = materialise(stack(plans), images, (0.1,), (0.5,))
    apart = [materialise([plan], images, (0.1,), (0.5,)) for plan in plans]
    for field in range(5):
        assert torch.equal(together[field], torch.cat([episode[field] for episode in apart]))


@pytest.fixture
def make_data(make_toy):
    def make(augment="none", **settings):
        settings = {"n_way": 3, "k_shot": 2, "n_query": 4, "meta_batch_size": 2, "max_meta_steps": 6, **settings}
        source = make_toy(rotations={"train": "augment"})
        data = EpisodicDataModule(source, augment=augment, val_episodes=5, test_episodes=5, **settings)
        data.setup()
        return data

    return make


def equal(one, other):
    return all(same(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", ["crop_flip", "crop_flip_jitter"])
def test_training_tasks_are_augmented_and_val_and_test_are_not(make_data, kind):
    plain, augmented = make_data(), make_data(kind)
    assert equal(plain.val_dataloader(), augmented.val_dataloader())
    assert equal(plain.test_dataloader(), augmented.test_dataloader())
    for a, b in zip(plain.train_dataloader(), augmented.train_dataloader(), strict=True):
        assert torch.equal(a.support_y, b.support_y) and torch.equal(a.query_y, b.query_y)
        assert not torch.equal(a.support_x, b.support_x) and not torch.equal(a.query_x, b.query_x)


def test_augmented_episodes_replay_with_workers_after_a_resume_and_by_their_ids(make_data):
    whole = list(make_data("crop_flip_jitter").train_dataloader())
    assert equal(whole, make_data("crop_flip_jitter", num_workers=2).train_dataloader())
    resumed = make_data("crop_flip_jitter")
    resumed.load_state_dict({"done": 4})
    assert equal(whole[4:], resumed.train_dataloader())
    assert equal([whole[3]], [resumed.episode("train", [6, 7])])


def test_what_is_gathered_after_the_transfer_is_augmented_alike(make_data, monkeypatch):
    whole = list(make_data("crop_flip_jitter").train_dataloader())
    planned = make_data("crop_flip_jitter", num_workers=1)
    monkeypatch.setattr(planned, "_device_images", lambda name: image_tensor(planned.source.split(name)))
    assert equal(whole, [planned.on_after_batch_transfer(batch, 0) for batch in planned.train_dataloader()])


@pytest.mark.parametrize("kind", ["none", "crop_flip", "crop_flip_jitter"])
def test_a_planned_batch_with_what_was_drawn_goes_through_lightnings_transfer(make_data, monkeypatch, kind):
    data = make_data(kind)
    whole = next(iter(data.train_dataloader()))
    monkeypatch.setattr(data, "_device_images", lambda name: image_tensor(data.source.split(name)))
    data.load_state_dict({"done": 0})
    batch = move_data_to_device(next(iter(data.train_dataloader())), torch.device("cpu"))
    assert isinstance(batch, PlannedBatch)
    assert equal([whole], [data.on_after_batch_transfer(batch, 0)])


def test_an_augmented_training_image_is_a_window_of_the_turned_one(make_data):
    plain, augmented, p = make_data().episode("train", [0]), make_data("crop_flip").episode("train", [0]), padding(5)
    for before, after in zip(plain.support_x[0, :, 0].numpy(), augmented.support_x[0, :, 0].numpy(), strict=True):
        padded = np.pad(before, p)
        windows = [padded[i : i + 5, j : j + 5] for i in range(2 * p + 1) for j in range(2 * p + 1)]
        assert any((after == w).all() or (after == w[:, ::-1]).all() for w in windows)


def test_another_kind_is_refused(make_data):
    with pytest.raises(InputError, match="augment=cutout is not one of none, crop_flip, crop_flip_jitter"):
        make_data("cutout")


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["crop_flip", "crop_flip_jitter"])
def test_a_gpu_gives_the_same_pictures(kind):
    one = draw(kind)
    device = Augmentation(*(None if field is None else field.to("cuda") for field in one))
    torch.testing.assert_close(augment(pictures().to("cuda"), device).cpu(), augment(pictures(), one))
