"""Initial weights against the variances that their laws have."""

import math

import pytest
import torch
from torch import nn

from few_shot_nas.nn.init import kaiming_init


@pytest.mark.parametrize(("mode", "fans"), [("fan_in", (9 * 16, 64)), ("fan_out", (9 * 64, 128))])
def test_kaiming_weights_have_variance_two_over_fan_and_norms_keep_their_scales(mode, fans):
    net = nn.Sequential(nn.Conv2d(16, 64, 3), nn.BatchNorm2d(64), nn.Linear(64, 128))
    torch.manual_seed(0)
    kaiming_init(net, mode)
    for layer, fan in zip((net[0], net[2]), fans, strict=True):
        assert float(layer.weight.std()) == pytest.approx(math.sqrt(2 / fan), rel=0.03)
        assert float(layer.weight.mean()) == pytest.approx(0, abs=0.05 * math.sqrt(2 / fan))
        assert not layer.bias.any()
    assert bool((net[1].weight == 1).all())
