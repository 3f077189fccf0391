"""Where the linear head starts: at 0 on request, from which one inner step gives the centred class means."""

import pytest
import torch

from few_shot_nas.algorithms.anil import ANIL
from few_shot_nas.algorithms.boil import BOIL
from few_shot_nas.algorithms.maml import MAML
from few_shot_nas.algorithms.maml_plus_plus import MAMLPlusPlus
from few_shot_nas.algorithms.meta_sgd import MetaSGD
from few_shot_nas.algorithms.random_search import RandomSearch
from few_shot_nas.algorithms.reptile import Reptile
from few_shot_nas.algorithms.settings import InnerLoop
from few_shot_nas.episode import Episode, Task, tasks
from few_shot_nas.errors import InputError
from few_shot_nas.models.conv4 import Conv4
from few_shot_nas.spaces.supernet import Supernet

WAY, SHOT, RATE = 3, 2, 0.7


def make_net() -> Conv4:
    torch.manual_seed(1)
    return Conv4(n_way=WAY, in_channels=1, image_size=28, width=8).double()


def make_task() -> Task:
    images = torch.randn(1, WAY * SHOT, 1, 28, 28, generator=torch.Generator().manual_seed(0)).double()
    labels = torch.arange(WAY).repeat(1, SHOT)
    return next(iter(tasks(Episode(images, labels, images, labels, torch.zeros(1, dtype=torch.long)))))


def test_one_step_from_zero_gives_the_centred_class_means_and_leaves_the_body():
    net, task = make_net(), make_task()
    module = MAML(net, inner=InnerLoop(inner_lr=RATE, inner_steps=1, zero_head=True))
    start, adapted = module.descend(module.problem(task), training=True)
    features = net.features(task.support_x)
    total = sum(features[task.support_y == c].sum(0) for c in range(WAY))
    for c in range(WAY):
        expected = RATE * (features[task.support_y == c].sum(0) - total / WAY) / (WAY * SHOT)
        torch.testing.assert_close(adapted["head.weight"][c], expected, rtol=1e-12, atol=1e-12)
    assert not start["head.weight"].any() and adapted["head.weight"].abs().max() > 1e-3
    for name in start:
        if not name.startswith("head."):
            torch.testing.assert_close(adapted[name], start[name], rtol=0, atol=0)


@pytest.mark.parametrize("algorithm", [MAML, ANIL, MetaSGD, MAMLPlusPlus])
@pytest.mark.parametrize("zero", [False, True])
def test_the_head_starts_at_zero_where_it_is_asked_for(algorithm, zero):
    net = make_net()
    algorithm(net, inner=InnerLoop(zero_head=zero))
    assert bool(net.head.weight.any()) is not zero


def test_reptile_and_searches_start_there_too():
    net = make_net()
    Reptile(net, inner=InnerLoop(first_order=True, inner_optimizer="adam", zero_head=True))
    assert not net.head.weight.any()
    supernet = Supernet(WAY, 1, 28, space="nb201")
    assert supernet.head.weight.any()
    RandomSearch(supernet, inner=InnerLoop(first_order=True, zero_head=True))
    assert not supernet.head.weight.any()


def test_boil_refuses_a_head_that_passes_no_gradient():
    with pytest.raises(InputError, match="BOIL: zero_head=True: .* set zero_head=false"):
        BOIL(make_net(), inner=InnerLoop(zero_head=True))


def test_a_network_without_a_linear_head_is_refused():
    with pytest.raises(InputError, match="MAML with zero_head needs a network whose last layer .* not Flatten"):
        MAML(torch.nn.Flatten(), inner=InnerLoop(zero_head=True))
