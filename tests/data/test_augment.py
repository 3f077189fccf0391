"""Crop, flip and jitter against torchvision's functions, image by image."""

import pytest
import torch
import torchvision.transforms.functional as TF

from few_shot_nas.data.augment import Augmentation, augment, draw_augmentation, join

ADJUST = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation)


@pytest.fixture
def pixels():
    return torch.randint(0, 256, (6, 12, 12, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def by_torchvision(image, how, row):
    """One image [H, W, 3] as RFS's transform would make it with these random numbers; float [3, H, W] in 0..255."""
    x = TF.pad(image.permute(2, 0, 1), how.padding)
    x = TF.crop(x, int(how.top[row]), int(how.left[row]), *image.shape[:2])
    x = TF.hflip(x) if how.flip[row] else x
    x = x.float() / 255
    for kind in how.order[row].tolist():
        x = ADJUST[kind](x, float(how.factors[row, kind]))
    return 255 * x


def test_every_image_is_what_torchvision_makes_of_it_with_the_same_random_numbers(pixels):
    how = draw_augmentation(6, 12, 1)
    out = augment(pixels, how)
    assert len({tuple(order) for order in how.order.tolist()}) > 1 and 0 < int(how.flip.sum()) < 6
    assert out.dtype == torch.float32 and out.shape == (6, 3, 12, 12) and out.is_contiguous()
    for row in range(6):
        torch.testing.assert_close(out[row], by_torchvision(pixels[row], how, row), rtol=0, atol=1e-3)


def test_the_middle_crop_without_flip_and_jitter_changes_nothing(pixels):
    middle = torch.full((6,), 4)
    how = Augmentation(4, middle, middle, torch.zeros(6, dtype=bool), torch.ones(6, 3), torch.arange(3).repeat(6, 1))
    torch.testing.assert_close(augment(pixels, how), pixels.permute(0, 3, 1, 2).float(), rtol=0, atol=1e-4)


def test_the_draws_cover_their_ranges_and_depend_on_their_words_alone():
    how, again, other = (draw_augmentation(4000, 84, *words) for words in (("a", 1), ("a", 1), ("a", 2)))
    assert all(torch.equal(x, y) for x, y in zip(how[1:], again[1:], strict=True))
    assert not torch.equal(how.top, other.top)
    assert how.padding == 8 and draw_augmentation(1, 32, 0).padding == 4
    for corner in (how.top, how.left):
        assert sorted(set(corner.tolist())) == list(range(17))
    assert abs(float(how.flip.double().mean()) - 0.5) < 4 * 0.5 / 4000**0.5
    assert 0.6 <= float(how.factors.min()) < 0.61 and 1.39 < float(how.factors.max()) <= 1.4
    assert len({tuple(order) for order in how.order.tolist()}) == 6
    assert not torch.equal(how.top, how.left)


def test_parts_of_a_batch_joined_again_are_the_batch():
    how = draw_augmentation(5, 12, 0)
    parts = [how.part(torch.tensor(rows).numpy()) for rows in ([0, 1], [2, 3, 4])]
    assert all(torch.equal(x, y) for x, y in zip(join(parts)[1:], how[1:], strict=True))
