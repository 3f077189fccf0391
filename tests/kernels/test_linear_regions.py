"""Linear regions: exact counts on lines, and against torch.unique."""

import pytest
import torch
from torch import nn

from few_shot_nas.kernels.activation_codes import activation_codes
from few_shot_nas.kernels.linear_regions import crop_pool, distinct_rows, linear_regions


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("units", [1, 5, 12])
def test_n_kinks_cut_a_line_into_n_plus_one_regions(units):
    kinks = torch.linspace(-0.9, 0.9, units)
    layer = nn.Linear(1, units)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([(-1.0) ** i for i in range(units)]).unsqueeze(1))
        layer.bias.copy_(-kinks * layer.weight.squeeze(1))
    assert linear_regions(lambda x: torch.relu(layer(x)), torch.linspace(-1, 1, 1001).unsqueeze(1)) == units + 1


def test_it_counts_what_torch_unique_counts_and_does_not_depend_on_order_or_duplicates():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 3, padding=1), nn.ReLU())
    pool = torch.randn(200, 1, 3, 3, generator=stream())
    codes = activation_codes(net, pool)
    assert codes.shape == (200, 5 * 9) and codes.dtype == torch.bool
    regions = len(torch.unique(codes, dim=0))
    assert 1 < regions == linear_regions(net, pool) == linear_regions(net, pool, batch=7)
    assert linear_regions(net, torch.cat([pool, pool]).flip(0)) == regions
    assert linear_regions(net, pool[:1].expand(50, -1, -1, -1)) == 1


@pytest.mark.parametrize("units", [7, 8, 9, 64])
def test_rows_of_any_length_are_told_apart_by_their_last_unit(units):
    rows = torch.zeros(3, units, dtype=torch.bool)
    rows[1, -1] = True
    assert distinct_rows(rows) == 2


def test_the_codes_are_those_of_module_and_functional_relus_and_nothing_is_differentiated():
    first = nn.Linear(4, 6)
    x = torch.randn(5, 4, generator=stream())
    codes = activation_codes(lambda x: torch.relu(-nn.ReLU(inplace=True)(first(x))), x)
    assert torch.equal(codes, torch.cat([first(x) > 0, torch.zeros(5, 6, dtype=torch.bool)], dim=1))
    assert first.weight.grad is None
    with pytest.raises(ValueError, match="ReLU"):
        activation_codes(first, x)


def test_crops_are_pieces_of_one_channel_of_one_image_and_a_function_of_the_stream():
    images = torch.arange(2 * 3 * 32 * 32, dtype=torch.float).view(2, 3, 32, 32)
    pool = crop_pool(images, 300, stream())
    assert pool.shape == (300, 1, 3, 3)
    for crop in pool[:, 0]:
        image, rest = divmod(int(crop[0, 0]), 3 * 32 * 32)
        channel, rest = divmod(rest, 32 * 32)
        row, column = divmod(rest, 32)
        assert torch.equal(crop, images[image, channel, row : row + 3, column : column + 3])
    corners = (pool[:, 0, 0, 0] % (32 * 32)).long()
    assert set((corners // 32).tolist()) == set(range(30)) == set((corners % 32).tolist())
    assert len(set((pool[:, 0, 0, 0] // (32 * 32)).tolist())) == 6
    assert torch.equal(crop_pool(images, 300, stream()), pool)
    assert not torch.equal(crop_pool(images, 300, stream(1)), pool)


def test_images_are_resized_before_they_are_cropped():
    flat = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 84, 84)
    pool = crop_pool(flat, 50, stream())
    assert sorted({round(float(value), 4) for value in pool.unique()}) == [0, 1, 2, 3]
    assert crop_pool(flat, 2, stream(), resize=8, size=8).shape == (2, 1, 8, 8)
