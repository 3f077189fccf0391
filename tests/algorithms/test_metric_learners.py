"""ProtoNet and MatchingNet on episodes: identity features, higher-way training, inductive evaluation."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from few_shot_nas.algorithms.maml import MAML
from few_shot_nas.algorithms.matching_net import MatchingNet
from few_shot_nas.algorithms.proto_net import ProtoNet
from few_shot_nas.episode import Task
from few_shot_nas.errors import InputError
from few_shot_nas.models.conv4 import Conv4
from few_shot_nas.stats.statistics import accuracy


class Identity(nn.Module):
    """A network whose features are its input."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 5)

    def features(self, x):
        return x.flatten(1)


def gaussian_task(count, centres, seed=0):
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(centres)).repeat(count)
    noise = torch.randn(2, len(labels), 2, generator=g)
    images = (centres[labels] + noise).view(2, -1, 2, 1, 1)
    return Task(images[0], labels, images[1], labels, torch.tensor(0))


def conv_task(ways=3, shots=2, queries=4):
    g = torch.Generator().manual_seed(0)
    return Task(
        torch.randn(ways * shots, 1, 28, 28, generator=g),
        torch.arange(ways).repeat(shots),
        torch.randn(ways * queries, 1, 28, 28, generator=g),
        torch.arange(ways).repeat(queries),
        torch.tensor(0),
    )


def conv4(n_way=3):
    torch.manual_seed(0)
    return Conv4(n_way=n_way, in_channels=1, image_size=28, width=8)


def test_protonet_with_identity_features_is_the_nearest_class_mean_with_its_analytic_accuracy():
    distance, count = 2.0, 5000
    square = distance * torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    task = gaussian_task(count, square)
    logits = ProtoNet(Identity()).task_logits(task)
    means = torch.stack([task.support_x[task.support_y == c].flatten(1).mean(0) for c in range(4)])
    nearest = torch.tensor([min(range(4), key=lambda c: float((x - means[c]).norm())) for x in task.query_x.flatten(1)])
    one_axis = 0.5 * (1 + math.erf(distance / 2 / math.sqrt(2)))  # right on both axes: independent
    deviation = math.sqrt(one_axis**2 * (1 - one_axis**2) / (4 * count))
    for mode in ("transductive", "support"):
        assert float((logits[mode].argmax(1) == nearest).double().mean()) > 0.9998
        assert abs(float(accuracy(logits[mode], task.query_y)) - one_axis**2) < 4 * deviation < 0.02


def test_the_training_loss_of_protonet_equals_a_plain_loop():
    net, task = conv4(), conv_task()
    loss, scalars = ProtoNet(net).task_loss(task)
    support, query = net.features(task.support_x), net.features(task.query_x)
    total = 0.0
    for features, label in zip(query, task.query_y, strict=True):
        squared = []
        for c in range(3):
            mine = [s for s, y in zip(support, task.support_y, strict=True) if y == c]
            squared.append(sum((features - sum(mine) / len(mine)) ** 2))
        total = total + squared[label] + torch.logsumexp(-torch.stack(squared), 0)
    torch.testing.assert_close(loss, total / 12, rtol=1e-5, atol=1e-5)
    assert scalars["train/loss"] is loss


@pytest.mark.parametrize("make", [ProtoNet, lambda net: ProtoNet(net, distance="cosine"), MatchingNet])
def test_support_mode_judges_each_query_alone_whatever_the_order(make):
    task, module = conv_task(), make(conv4())
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))[:7]
    part = task._replace(query_x=task.query_x[order], query_y=task.query_y[order])
    with torch.no_grad():
        whole, some = module.task_logits(task), module.task_logits(part)
    torch.testing.assert_close(some["support"], whole["support"][order], rtol=0, atol=1e-3)
    assert (some["transductive"] - whole["transductive"][order]).abs().max() > 1e-2


def test_the_scale_of_the_cosines_is_learned_and_the_head_is_left_alone():
    module = ProtoNet(conv4(), distance="cosine")
    module.task_loss(conv_task())[0].backward()
    assert "scale" in dict(module.named_parameters()) and float(module.scale.grad.abs()) > 1e-4
    assert module.net.head.weight.grad is None
    assert ProtoNet(conv4()).scale is None


def test_tasks_may_have_more_ways_than_the_network_was_made_for():
    for module in (ProtoNet(conv4()), MatchingNet(conv4())):
        loss, _ = module.task_loss(conv_task(ways=7, shots=1))
        assert bool(torch.isfinite(loss))
        assert module.task_logits(conv_task(ways=7, shots=1))["support"].shape == (28, 7)


def test_matching_net_is_trained_by_the_log_likelihood_of_the_attention_label():
    net, task = conv4(), conv_task()
    loss, _ = MatchingNet(net, attention_scale=5.0).task_loss(task)
    support, query = net.features(task.support_x), net.features(task.query_x)
    attention = (5.0 * F.cosine_similarity(query.unsqueeze(1), support, dim=2)).softmax(1)
    likelihood = attention @ F.one_hot(task.support_y, 3).float()
    expected = -torch.stack([row[label].log() for row, label in zip(likelihood, task.query_y, strict=True)]).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)


def test_a_learner_with_a_head_refuses_training_tasks_of_another_way():
    data = SimpleNamespace(train_way=7, n_way=3)
    for module, fits in ((MAML(conv4()), False), (ProtoNet(conv4()), True), (MatchingNet(conv4()), True)):
        module._trainer = SimpleNamespace(datamodule=data)
        module.setup("test")
        if fits:
            module.setup("fit")
        else:
            with pytest.raises(InputError, match="MAML: train_way=7 given, but its head has n_way=3 outputs"):
                module.setup("fit")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ProtoNet(conv4(), distance="manhattan"), "distance=manhattan"),
        (lambda: MatchingNet(conv4(), attention_scale=0.0), "attention_scale=0.0"),
    ],
)
def test_settings_that_cannot_work_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_distance_scale_multiplies_the_logits_and_must_be_positive():
    task = gaussian_task(3, torch.eye(2))
    plain, scaled = (ProtoNet(Identity(), distance_scale=s).task_logits(task) for s in (1.0, 0.25))
    assert torch.equal(scaled["transductive"], 0.25 * plain["transductive"])
    with pytest.raises(InputError, match=r"distance_scale=-2\.0 given, it must be greater than 0"):
        ProtoNet(Identity(), distance_scale=-2.0)
