"""NASWOT against its definition on explicit codes."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from few_shot_nas.proxies.naswot import naswot

IMAGES = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.double)


def make_net():
    torch.manual_seed(0)
    return nn.ModuleList([nn.Linear(5, 6), nn.Linear(6, 3)]).double()


def test_it_is_the_log_determinant_of_units_that_agree_at_module_and_functional_relus():
    first, second = make_net()
    score = naswot(lambda x: F.relu(second(nn.ReLU(inplace=True)(first(x)))), IMAGES)
    hidden = first(IMAGES).clamp(min=0)
    codes = torch.cat([hidden > 0, second(hidden) > 0], dim=1)
    kernel = torch.tensor([[float((a == b).sum()) for b in codes] for a in codes], dtype=torch.double)
    assert score == pytest.approx(float(torch.logdet(kernel)), abs=1e-4)


def test_it_does_not_depend_on_a_positive_scale_and_is_low_for_images_that_look_alike():
    first, _ = make_net()
    score = naswot(lambda x: F.relu(first(x)), IMAGES)
    assert naswot(lambda x: F.relu(7 * first(x)), IMAGES) == score
    alike = naswot(lambda x: F.relu(first(x)), IMAGES[[0, 0, 1, 2]])
    assert math.isfinite(alike) and alike < score - 5


def test_nothing_is_differentiated_and_a_network_without_relus_is_refused():
    first, _ = make_net()
    naswot(lambda x: F.relu(first(x)), IMAGES)
    assert all(parameter.grad is None for parameter in first.parameters())
    with pytest.raises(ValueError, match="ReLU"):
        naswot(first, IMAGES)
