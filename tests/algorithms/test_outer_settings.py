"""The outer loss with smoothed labels and the schedules with a floor, against their formulas written out."""

import math

import pytest
import torch

from few_shot_nas.algorithms.anil import ANIL
from few_shot_nas.algorithms.maml import MAML
from few_shot_nas.algorithms.maml_plus_plus import MAMLPlusPlus
from few_shot_nas.algorithms.proto_net import ProtoNet
from few_shot_nas.algorithms.random_search import RandomSearch
from few_shot_nas.algorithms.reptile import Reptile
from few_shot_nas.algorithms.rfs import RFS
from few_shot_nas.algorithms.settings import InnerLoop, OuterLoop
from few_shot_nas.data.flat import FlatBatch
from few_shot_nas.episode import Episode, tasks
from few_shot_nas.errors import InputError
from few_shot_nas.models import MODELS

EPISODIC = {
    "MAML": lambda net, outer: MAML(net, inner=InnerLoop(inner_lr=0.1, inner_steps=2), outer=outer),
    "MAML swept": lambda net, outer: MAML(net, inner=InnerLoop(inner_lr=0.1, engine="sweep"), outer=outer),
    "ANIL": lambda net, outer: ANIL(net, inner=InnerLoop(inner_lr=0.1), outer=outer),
    "ProtoNet": lambda net, outer: ProtoNet(net, outer=outer),
}


def conv4():
    torch.manual_seed(0)
    return MODELS["Conv4"](3, 1, 16, width=4).double()


def one_task():
    g = torch.Generator().manual_seed(1)
    y = torch.arange(3).repeat(1, 2)
    x = torch.randn(2, 1, 6, 1, 16, 16, generator=g, dtype=torch.float64)
    return next(tasks(Episode(x[0], y, x[1], y, torch.arange(1))))


def smoothed(logits, labels, share):
    """Minus sum_n q_n log p_n with q = (1 - share) * one-hot + share / N, image by image; the sum over images."""
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        log_sum = math.log(sum(math.exp(value) for value in row))
        for n, value in enumerate(row):
            total -= ((n == label) * (1 - share) + share / len(row)) * (value - log_sum)
    return total


@pytest.mark.parametrize("name", EPISODIC)
def test_the_outer_loss_of_a_task_is_that_of_smoothed_labels_and_scores_are_not(name):
    """The logits are recovered from the loss with hard labels, which is linear in the labels' distribution."""
    task, share = one_task(), 0.3
    hard = EPISODIC[name](conv4(), OuterLoop())
    per_label = []
    for wanted in range(3):
        loss = hard.task_loss(task._replace(query_y=torch.full((6,), wanted)))[0]
        per_label.append(float(loss.detach()))
    plain = float(hard.task_loss(task)[0].detach())
    soft = EPISODIC[name](conv4(), OuterLoop(label_smoothing=share))
    found, scalars = soft.task_loss(task)
    expected = (1 - share) * plain + share * sum(per_label) / 3
    assert float(found.detach()) == pytest.approx(expected, abs=1e-12)
    assert float(scalars["train/loss"].detach()) == float(found.detach()) and abs(expected - plain) > 1e-3
    with torch.no_grad():
        one, other = hard.task_logits(task), soft.task_logits(task)
    assert all(torch.equal(one[mode], other[mode]) for mode in one)


def test_the_loss_of_a_flat_batch_is_that_of_smoothed_labels():
    module = RFS(conv4(), outer=OuterLoop(label_smoothing=0.2)).eval()
    task = one_task()
    with torch.no_grad():
        logits = module.net(task.query_x)
        loss = module.task_loss(FlatBatch(task.query_x, task.query_y))[0]
    assert float(loss) == pytest.approx(smoothed(logits, task.query_y, 0.2), abs=1e-12)


def test_the_children_of_a_search_are_trained_by_smoothed_labels():
    torch.manual_seed(0)
    net = MODELS["Supernet"](3, 1, 16, channels=4, cells=1, nodes=2).double()
    search = RandomSearch(net, inner=InnerLoop(inner_lr=0.1), outer=OuterLoop(label_smoothing=0.2)).double()
    task, genotype = one_task(), net.space.decode(search.incumbent())
    loss = search.supernet_children.adapted_child(task, genotype).loss
    params = search.supernet_children.fast_weights(task, genotype, training=True, second_order=False)
    children = search.supernet_children
    logits = children.logits(task, task.query_x, genotype, params, training=True, bn_mode="transductive").detach()
    assert float(loss.detach()) == pytest.approx(smoothed(logits, task.query_y, 0.2) / 6, abs=1e-12)


def test_reptile_has_no_outer_loss_to_smooth():
    outer = OuterLoop(outer_lr=1.0, label_smoothing=0.1)
    with pytest.raises(InputError, match="Reptile: label_smoothing=0.1: it has no outer loss"):
        Reptile(conv4(), outer=outer)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0.01, 0.01, 0.01, 0.01, 0.01]),
        ("linear", [0.01, 0.008, 0.006, 0.004, 0.002]),
        ("cosine", [0.002 + 0.004 * (1 + math.cos(math.pi * step / 4)) for step in range(5)]),
    ],
)
def test_a_schedule_ends_at_the_floor(schedule, rates):
    outer = OuterLoop(outer_lr=0.01, outer_schedule=schedule, outer_lr_min=0.002, max_meta_steps=4)
    module, found = MAML(conv4(), outer=outer), []
    for module.meta_step in range(5):
        found.append(0.01 * module.schedule())
    assert found == pytest.approx(rates, abs=1e-15)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_without_a_floor_the_schedule_is_to_the_last_bit_what_it_was(schedule):
    module = MAML(conv4(), outer=OuterLoop(outer_schedule=schedule, max_meta_steps=7))
    for module.meta_step in range(8):
        done = module.meta_step / 7
        assert module.schedule() == (1.0 - done if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done)))


def test_maml_plus_plus_anneals_to_the_published_floor():
    module = MAMLPlusPlus(conv4())
    module.meta_step = module.outer.max_meta_steps
    assert module.schedule() * module.outer.outer_lr == pytest.approx(1e-5, abs=1e-15)
