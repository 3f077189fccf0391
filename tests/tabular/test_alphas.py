"""Alphas by gradient: one-hot weights are single paths, gradients by finite differences, descents by a plain loop."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from few_shot_nas.episode import Task
from few_shot_nas.errors import InputError
from few_shot_nas.forward_context import forward_context
from few_shot_nas.spaces.chain import CHAIN_OPS
from few_shot_nas.spaces.layered import LayeredBody
from few_shot_nas.spaces.supernet import Supernet
from few_shot_nas.tabular.alphas import (
    AlphaDescent,
    adapted_alphas,
    chosen_accuracy,
    layers_of,
    likeliest,
    meta_learned,
    mixture_features,
    neutral_alphas,
    query_loss,
    step_cost,
    support_loss,
)
from few_shot_nas.tabular.table_entries import prototype_entries

N_WAY = 3
SPACES = pytest.mark.parametrize("space", ["chain", "conv4_chain"])


def make_supernet(space: str, cells: int = 2) -> Supernet:
    net = Supernet(N_WAY, 1, 16, space=space, channels=3, cells=cells).double()
    stream = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=stream)
    return net


def make_task(seed: int = 2, k_shot: int = 3) -> Task:
    stream = torch.Generator().manual_seed(seed)
    labels = torch.arange(N_WAY)
    support_y, query_y = labels.repeat_interleave(k_shot), labels.repeat(4)
    images = torch.randn(len(support_y) + len(query_y), 1, 16, 16, generator=stream, dtype=torch.float64)
    return Task(images[: len(support_y)], support_y, images[len(support_y) :], query_y)


def some_alphas(net: Supernet, seed: int = 3) -> Tensor:
    return torch.randn(neutral_alphas(net).shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def body_of(net: Supernet) -> LayeredBody:
    return layers_of(net)


@SPACES
@torch.no_grad()
def test_one_hot_weights_are_the_pass_of_one_architecture(space: str) -> None:
    net, x = make_supernet(space), make_task().support_x
    opened = body_of(net).opened(x, CHAIN_OPS)
    for decisions in net.space.enumerate():
        weights = F.one_hot(torch.tensor(decisions), 5).double()
        expected = net.features(x, net.space.decode(decisions))
        mixed = body_of(net).mixed_from(opened, net.space.edge_weights({"chain": weights}))
        torch.testing.assert_close(mixed, expected, rtol=0, atol=1e-10)


@SPACES
@torch.no_grad()
def test_a_mixture_is_the_weighted_sum_of_the_ops_before_the_norm(space: str) -> None:
    net, x = make_supernet(space), make_task().support_x
    alphas = some_alphas(net)
    expected = body_of(net).begin(x)
    for layer, row in zip(body_of(net).searched(), alphas, strict=True):
        shares = [float(a.exp() / row.exp().sum()) for a in row]
        summed = torch.zeros(())
        for share, op in zip(shares, layer.ops.values(), strict=True):
            summed = summed + share * op(expected)
        expected = F.max_pool2d(F.relu(layer.norm(summed)), 2)
    torch.testing.assert_close(mixture_features(net, x)(alphas), expected.flatten(1), rtol=0, atol=1e-10)


def plain_support_loss(net: Supernet, task: Task, alphas: Tensor) -> Tensor:
    """Cross-entropy of each support image by the prototypes of the others, fitted anew for each."""
    features, y = mixture_features(net, task.support_x)(alphas), task.support_y
    losses = []
    for left_out in range(len(y)):
        others = torch.arange(len(y)) != left_out
        centres = torch.stack([features[others & (y == label)].mean(0) for label in range(N_WAY)])
        logits = -(features[left_out] - centres).pow(2).mean(1)
        losses.append(F.cross_entropy(logits, y[left_out]))
    return torch.stack(losses).mean()


@SPACES
def test_gradients_of_both_losses_are_finite_differences(space: str) -> None:
    net, task = make_supernet(space), make_task()
    start = some_alphas(net)
    for bn_mode in ("transductive", "support"):
        for loss in (support_loss(net, task, N_WAY), query_loss(net, task, AlphaDescent(N_WAY, 1, 1.0, bn_mode))):
            gradient = torch.func.grad(loss)(start)
            for place in ((0, 0), (0, 3), (1, 2), (1, 4)):
                step = torch.zeros_like(start)
                step[place] = 1e-5
                with torch.no_grad():
                    difference = (loss(start + step) - loss(start - step)) / 2e-5
                assert float(gradient[place].detach()) == pytest.approx(float(difference), abs=1e-8)
            assert float(gradient.detach().abs().max()) > 1e-3


@SPACES
def test_adapted_alphas_are_those_of_a_plain_descent_and_the_weights_stay(space: str) -> None:
    net, task = make_supernet(space), make_task()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    expected = some_alphas(net).requires_grad_()
    for _ in range(3):
        (gradient,) = torch.autograd.grad(plain_support_loss(net, task, expected), [expected])
        expected = (expected - 2.0 * gradient).detach().requires_grad_()
    found = adapted_alphas(net, task.support_set(), some_alphas(net), AlphaDescent(N_WAY, 3, 2.0))
    torch.testing.assert_close(found, expected.detach(), rtol=0, atol=1e-10)
    assert not found.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("bn_mode", ["transductive", "support"])
def test_the_query_loss_of_sharp_alphas_is_the_entry_of_a_reward_table(bn_mode: str) -> None:
    net, task, decisions = make_supernet("chain"), make_task(), (2, 4)
    alphas = 200 * F.one_hot(torch.tensor(decisions), 5).double()
    entries = prototype_entries(net, task, bn_mode, N_WAY)
    place = list(net.space.enumerate()).index(decisions)
    found = query_loss(net, task, AlphaDescent(N_WAY, 1, 1.0, bn_mode))(alphas)
    assert float(found.detach()) == pytest.approx(float(entries.query.loss[place]), abs=1e-9)
    assert entries.support is not None
    left_out = support_loss(net, task, N_WAY)(alphas)
    assert float(left_out.detach()) == pytest.approx(float(entries.support.loss[place]), abs=1e-9)


def test_a_choice_on_each_replicate_is_scored_on_the_next() -> None:
    net, loop = make_supernet("chain"), AlphaDescent(N_WAY, 2, 5.0)
    replicates = [make_task(seed) for seed in (5, 6, 7)]
    order = list(net.space.enumerate())
    expected = []
    for task, other in zip(replicates, [*replicates[1:], replicates[0]], strict=True):
        place = order.index(likeliest(adapted_alphas(net, task, neutral_alphas(net), loop)))
        expected.append(float(prototype_entries(net, other, "transductive", N_WAY).query.accuracy[place]))
    found = chosen_accuracy(net, replicates, neutral_alphas(net), loop)
    assert len(set(expected)) > 1 and found == pytest.approx(sum(expected) / 3)


def test_the_learned_start_follows_adam_on_the_query_gradient_at_the_adapted_alphas() -> None:
    net, loop = make_supernet("chain"), AlphaDescent(N_WAY, 2, 1.5)
    batches = [[make_task(10), make_task(11)], [make_task(12), make_task(13)]]
    start = some_alphas(net)
    value, mean, square = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    for step, batch in enumerate(batches, start=1):
        total = torch.zeros_like(start)
        for task in batch:
            end = value.clone()
            for _ in range(loop.steps):
                leaf = end.requires_grad_()
                (gradient,) = torch.autograd.grad(plain_support_loss(net, task, leaf), [leaf])
                end = (leaf - loop.rate * gradient).detach()
            leaf = end.requires_grad_()
            total += torch.autograd.grad(query_loss(net, task, loop)(leaf), [leaf])[0] / len(batch)
        mean, square = 0.5 * mean + 0.5 * total, 0.999 * square + 0.001 * total**2
        value = value - 0.1 * (mean / (1 - 0.5**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
    found = meta_learned(net, batches, start, loop, outer_lr=0.1)
    torch.testing.assert_close(found, value, rtol=0, atol=1e-8)
    assert not torch.equal(found, start)


def test_a_step_costs_three_passes_of_every_op() -> None:
    assert step_cost(make_supernet("chain")) == 15


def test_the_first_layer_runs_once_for_all_steps() -> None:
    net, task = make_supernet("chain"), make_task()
    runs = [0, 0]
    for index, layer in enumerate(body_of(net).searched()):
        layer.ops["conv_k3"].register_forward_hook(lambda *_, index=index: runs.__setitem__(index, runs[index] + 1))
    adapted_alphas(net, task, neutral_alphas(net), AlphaDescent(N_WAY, 4, 1.0))
    assert runs == [1, 4]


def test_statistics_of_the_support_rows_hold_for_every_layer() -> None:
    net, task = make_supernet("chain"), make_task()
    both, rows = torch.cat([task.support_x, task.query_x]), len(task.support_y)
    alphas = 200 * F.one_hot(torch.tensor((1, 2)), 5).double()
    with torch.no_grad(), forward_context(stat_rows=rows):
        expected = net.features(both, net.space.decode((1, 2)))
    torch.testing.assert_close(mixture_features(net, both, rows)(alphas), expected, rtol=0, atol=1e-10)


def test_what_cannot_be_mixed_or_adapted_is_refused() -> None:
    with pytest.raises(InputError, match="space nb201 has no first layer that many mixtures could share"):
        layers_of(Supernet(N_WAY, 1, 16, space="nb201", channels=4, cells=1))
    with pytest.raises(InputError, match="steps=0, rate=3: needed"):
        AlphaDescent(N_WAY, 0, 3.0)
    with pytest.raises(InputError, match=r"steps=2, rate=-0.5: needed"):
        AlphaDescent(N_WAY, 2, -0.5)
    assert neutral_alphas(make_supernet("chain", 1)).tolist() == [[0.0] * 5]
