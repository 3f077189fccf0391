"""The four-block convolutional network."""

import pytest
import torch
import torch.nn.functional as F

from few_shot_nas.errors import InputError
from few_shot_nas.models.conv4 import Conv4
from few_shot_nas.nn.cost import count_parameters


def test_parameter_counts_are_the_published_ones():
    assert count_parameters(Conv4(5, 3, 84, width=32)) == 32_901
    assert count_parameters(Conv4(5, 1, 28, width=64, downsample="stride")) == 112_261


@pytest.mark.parametrize(
    ("image_size", "downsample", "feature_dim"),
    [(28, "pool", 8), (42, "pool", 32), (84, "pool", 200), (28, "stride", 8), (84, "stride", 8)],
)
def test_feature_length_follows_from_image_size(image_size, downsample, feature_dim):
    net = Conv4(5, 1, image_size, width=8, downsample=downsample)
    assert net.features(torch.randn(2, 1, image_size, image_size)).shape == (2, net.feature_dim) == (2, feature_dim)


@pytest.mark.parametrize(("activation", "slope"), [("relu", 0.0), ("leaky_relu", 0.01)])
@pytest.mark.parametrize("downsample", ["pool", "stride"])
def test_logits_equal_the_blocks_written_out(downsample, activation, slope):
    torch.manual_seed(0)
    net = Conv4(5, 3, 28, width=6, downsample=downsample, activation=activation).double()
    x = torch.randn(4, 3, 28, 28, dtype=torch.double)
    weights = list(net.parameters())
    out = x
    for block in range(4):
        kernel, bias, scale, shift = weights[4 * block : 4 * block + 4]
        out = F.conv2d(out, kernel, bias, stride=1 if downsample == "pool" else 2, padding=1)
        variance, mean = torch.var_mean(out, dim=(0, 2, 3), correction=0, keepdim=True)
        out = (out - mean) / (variance + 1e-5).sqrt()
        out = (out * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1))
        out = torch.where(out > 0, out, slope * out)
        out = F.max_pool2d(out, 2) if downsample == "pool" else out
    out = out.reshape(4, -1) if downsample == "pool" else out.mean(dim=(2, 3))
    assert torch.allclose(net(x), out @ weights[-2].T + weights[-1], atol=1e-10)


def test_too_small_images_and_other_choices_are_refused():
    with pytest.raises(InputError, match="image_size=15"):
        Conv4(5, 1, 15)
    with pytest.raises(InputError, match="downsample=blur"):
        Conv4(5, 1, 28, downsample="blur")
    with pytest.raises(InputError, match="activation=gelu"):
        Conv4(5, 1, 28, activation="gelu")
