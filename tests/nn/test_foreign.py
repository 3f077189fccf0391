"""Foreign batch normalisation is refused, and can be replaced by ours. Truth: torch's own layers."""

import copy

import pytest
import torch
from torch import nn

from few_shot_nas.errors import InputError
from few_shot_nas.nn.foreign import refuse_foreign_norms, refuse_written_buffers, replace_foreign_norms
from few_shot_nas.nn.norm import BatchNorm2d, keep_running_statistics


def net(norm: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(norm, nn.ReLU()), nn.Flatten(), nn.Linear(4 * 36, 5))


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(4),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.SyncBatchNorm(4),
        nn.InstanceNorm2d(4, track_running_stats=True),
    ],
    ids=lambda norm: repr(norm),
)
def test_a_layer_that_acts_differently_in_evaluation_or_mixes_support_and_queries_is_refused(norm: nn.Module) -> None:
    name = type(norm).__name__
    with pytest.raises(InputError, match=rf"Sequential: 1 layers such as 1\.0 \({name}\).*nn\.norm\.BatchNorm2d"):
        refuse_foreign_norms(net(norm))


@pytest.mark.parametrize("norm", [BatchNorm2d(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.Identity()])
def test_layers_that_act_alike_in_both_modes_are_taken(norm: nn.Module) -> None:
    refuse_foreign_norms(net(norm))


def test_our_own_running_statistics_are_taken() -> None:
    ours = net(BatchNorm2d(4))
    keep_running_statistics(ours)
    refuse_foreign_norms(ours)
    assert ours[1][0].running_mean is not None


def test_the_replacement_computes_what_the_layer_does_in_train_mode_with_the_same_parameters() -> None:
    torch.manual_seed(0)
    theirs = net(nn.BatchNorm2d(4, eps=0.1))
    nn.init.normal_(theirs[1][0].weight)
    ours = replace_foreign_norms(copy.deepcopy(theirs))
    refuse_foreign_norms(ours)
    assert list(dict(ours.named_parameters())) == list(dict(theirs.named_parameters()))
    images = torch.randn(6, 3, 8, 8)
    torch.testing.assert_close(ours.eval()(images), theirs.train()(images))
    alone = replace_foreign_norms(nn.BatchNorm2d(3, affine=False))
    assert type(alone) is BatchNorm2d and alone.weight is None


class Centred(nn.Module):
    """Subtracts the batch's mean in training and a mean that it remembers in evaluation, under no familiar name."""

    def __init__(self, assigns: bool) -> None:
        super().__init__()
        self.assigns = assigns
        self.register_buffer("middle", torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x - self.middle[:, None, None]
        mean = x.mean((0, 2, 3))
        if self.assigns:
            self.middle = 0.9 * self.middle + 0.1 * mean.detach()
        else:
            self.middle.lerp_(mean.detach(), 0.1)
        return x - mean[:, None, None]


@pytest.mark.parametrize("assigns", [True, False])
def test_a_layer_of_any_name_that_remembers_in_a_buffer_is_refused_and_left_as_it_was(assigns: bool) -> None:
    torch.manual_seed(0)
    ours, images = net(Centred(assigns)), torch.randn(2, 3, 8, 8)
    before = copy.deepcopy(ours.state_dict())
    with pytest.raises(InputError, match=r"Sequential: training writes to 1 buffers such as 1\.0\.middle"):
        refuse_written_buffers(ours, images)
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in before.items())


@pytest.mark.parametrize("norm", [BatchNorm2d(4), nn.Dropout(), nn.GroupNorm(2, 4)])
def test_a_network_that_remembers_nothing_is_taken_and_moves_no_generator(norm: nn.Module) -> None:
    ours = net(norm)
    ours.register_buffer("constant", torch.ones(3))
    before = torch.get_rng_state()
    refuse_written_buffers(ours, torch.ones(2, 3, 8, 8))
    assert torch.equal(before, torch.get_rng_state())
