"""Augmentation as a pure function of the task. Truth: windows cut with numpy, torchvision's colour functions."""

import numpy as np
import pytest
import torch
from lightning_fabric.utilities.apply_func import move_data_to_device
from scipy import stats
from torchvision.transforms import functional

from few_shot_nas.data.augment import (
    Augmentation, colour_jitter, crop_and_flip, draw_augmentation, padding, part_of, stack_augmentations
)  # fmt: skip
from few_shot_nas.data.episodic import EpisodicDataModule, PlannedBatch
from few_shot_nas.data.sampler import draw_task, image_tensor, materialise, stack
from few_shot_nas.errors import InputError

B, SIZE = 12, 10


def draw(kind="crop_flip_jitter", task_id=0, **changes):
    arguments = {"count": B, "image_size": SIZE, "seed": 5, "split_name": "train", **changes}
    return draw_augmentation(kind, task_id=task_id, **arguments)


def pictures(channels=3, count=B):
    return torch.from_numpy(np.random.default_rng(1).integers(0, 256, (count, SIZE, SIZE, channels), dtype=np.uint8))


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_what_is_drawn_depends_on_the_task_alone():
    first = [draw(task_id=task) for task in range(5)]
    np.random.seed(1)
    torch.manual_seed(1)
    again = [draw(task_id=task) for task in reversed(range(5))][::-1]
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert not same(draw(), draw(seed=6)) and not same(draw(), draw(split_name="val")) and not same(*first[:2])


def test_drawing_leaves_the_global_generators_alone():
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    draw()
    assert torch.equal(torch.get_rng_state(), before[0]) and np.random.get_state()[1].tolist() == before[1]


def test_none_draws_nothing_and_crop_flip_draws_the_same_windows_without_colours():
    assert draw("none") is None
    assert draw("crop_flip").jitter is None
    assert same(draw("crop_flip")[:3], draw("crop_flip_jitter")[:3])


@pytest.mark.parametrize("size, pixels", [(84, 8), (32, 4), (28, 3), (42, 4), (1, 1)])
def test_the_padding_is_that_of_rfs(size, pixels):
    assert padding(size) == pixels


def test_half_of_the_images_are_mirrored_and_every_window_is_as_likely_as_another():
    drawn = [draw(task_id=task) for task in range(300)]
    flips = torch.cat([one.flip for one in drawn])
    assert stats.binomtest(int(flips.sum()), len(flips)).pvalue > 1e-3
    for name in ("top", "left"):
        counts = np.bincount(torch.cat([getattr(one, name) for one in drawn]), minlength=2 * padding(SIZE) + 1)
        assert len(counts) == 2 * padding(SIZE) + 1 and stats.chisquare(counts).pvalue > 1e-3
    factors = torch.cat([one.jitter for one in drawn])
    assert stats.kstest((factors.flatten().numpy() - 0.6) / 0.8, "uniform").pvalue > 1e-3
    fields = np.stack([torch.cat([getattr(one, name) for one in drawn]) for name in ("top", "left", "flip")])
    assert np.abs(np.corrcoef(fields) - np.eye(3)).max() < 0.06


def test_images_of_a_task_are_augmented_each_by_itself():
    one = draw(count=200)
    windows = set(zip(one.top.tolist(), one.left.tolist(), one.flip.tolist(), strict=True))
    assert len(windows) > 10 and len(set(one.jitter[:, 0].tolist())) == 200


@pytest.mark.parametrize("channels", [1, 3])
def test_a_crop_is_a_window_of_the_padded_image_mirrored_or_not(channels):
    images, one, p = pictures(channels), draw("crop_flip"), padding(SIZE)
    got = crop_and_flip(images, one)
    assert got.dtype == torch.uint8 and got.shape == images.shape
    for b in range(B):
        padded = np.pad(images[b].numpy(), ((p, p), (p, p), (0, 0)))
        top, left = int(one.top[b]), int(one.left[b])
        window = padded[top : top + SIZE, left : left + SIZE]
        np.testing.assert_array_equal(got[b], window[:, ::-1] if one.flip[b] else window)


def test_the_middle_window_without_a_mirror_is_the_image():
    middle = torch.full((B,), padding(SIZE))
    still = Augmentation(middle, middle, torch.zeros(B, dtype=torch.bool), None)
    assert torch.equal(crop_and_flip(pictures(), still), pictures())


def test_factors_of_one_leave_the_colours_and_zero_gives_black_flat_and_grey():
    x = pictures().permute(0, 3, 1, 2).float()
    one = torch.ones(B, 3)
    torch.testing.assert_close(colour_jitter(x, one), x, rtol=0, atol=1e-4)
    zero = [one.index_fill(1, torch.tensor([column]), 0.0) for column in range(3)]
    assert not colour_jitter(x, zero[0]).any()
    assert colour_jitter(x, zero[1]).var(dim=(1, 2, 3)).max() < 1e-6
    grey = colour_jitter(x, zero[2])
    torch.testing.assert_close(grey, grey[:, :1].expand_as(grey))


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_are_those_of_torchvision_in_our_order(channels):
    x, factors = pictures(channels).permute(0, 3, 1, 2).float(), draw().jitter
    got = colour_jitter(x, factors)
    for b in range(B):
        expected = functional.adjust_brightness(x[b] / 255, float(factors[b, 0]))
        expected = functional.adjust_contrast(expected, float(factors[b, 1]))
        expected = functional.adjust_saturation(expected, float(factors[b, 2]))
        # torchvision rounds the weight of red to 0.2989
        torch.testing.assert_close(got[b] / 255, expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("kind", ["crop_flip", "crop_flip_jitter"])
def test_stacked_tasks_are_augmented_as_single_ones(make_toy, kind):
    split = make_toy().split("train")
    shape = {"seed": 0, "split_name": "train", "n_way": 3, "k_shot": 1, "n_query": 3}
    plans = [
        draw_task(split, task_id=task, **shape)._replace(augmentation=draw(kind, task, image_size=5))
        for task in range(3)
    ]
    images = image_tensor(split)
    together = materialise(stack(plans), images, (0.1,), (0.5,))
    apart = [materialise([plan], images, (0.1,), (0.5,)) for plan in plans]
    for field in range(5):
        assert torch.equal(together[field], torch.cat([episode[field] for episode in apart]))
    parts = stack_augmentations([plan.augmentation for plan in plans])
    assert part_of(parts, slice(3, None)).top.tolist() == [t for p in plans for t in p.augmentation.top[3:].tolist()]


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
    return all(all(torch.equal(x, y) for x, y in zip(a, b, strict=True)) for a, b in zip(one, other, strict=True))


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
def test_a_gpu_gives_the_same_pictures():
    images, one = pictures(), draw()
    device = Augmentation(*(field.cuda() for field in one))
    assert torch.equal(crop_and_flip(images.cuda(), device).cpu(), crop_and_flip(images, one))
    x = images.permute(0, 3, 1, 2).float()
    torch.testing.assert_close(colour_jitter(x.cuda(), device.jitter).cpu(), colour_jitter(x, one.jitter))
