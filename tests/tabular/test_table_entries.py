"""A column of the reward table is what plain forward passes give, architecture by architecture."""

import pytest
import torch
import torch.nn.functional as F

from few_shot_nas.episode import Task
from few_shot_nas.forward_context import forward_context
from few_shot_nas.spaces import SPACES
from few_shot_nas.spaces.supernet import Supernet
from few_shot_nas.tabular.prefix_tree import every_architecture
from few_shot_nas.tabular.table_entries import prototype_entries

N_WAY = 3


def make_supernet(space: str, cells: int) -> Supernet:
    torch.manual_seed(1)
    net = Supernet(N_WAY, 1, 16, space=space, channels=4, cells=cells).double()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return net


def make_task(k_shot: int) -> Task:
    stream = torch.Generator().manual_seed(2)
    labels = torch.arange(N_WAY)
    support_y, query_y = labels.repeat_interleave(k_shot), labels.repeat(4)
    images = torch.randn(len(support_y) + len(query_y), 1, 16, 16, generator=stream, dtype=torch.float64)
    return Task(images[: len(support_y)], support_y, images[len(support_y) :], query_y)


def plain_features(net: Supernet, task: Task, bn_mode: str, decisions: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    genotype = net.space.decode(decisions)
    if bn_mode == "transductive":
        return net.features(task.support_x, genotype), net.features(task.query_x, genotype)
    rows = len(task.support_y)
    with forward_context(stat_rows=rows):
        both = net.features(torch.cat([task.support_x, task.query_x]), genotype)
    return both[:rows], both[rows:]


def plain_scores(
    support: torch.Tensor, support_y: torch.Tensor, x: torch.Tensor, y: torch.Tensor
) -> tuple[float, float]:
    centres = torch.stack([support[support_y == label].mean(0) for label in range(N_WAY)])
    logits = -torch.stack([((row - centres) ** 2).sum(1) for row in x]) / x.shape[1]
    return float((logits.argmax(1) == y).double().mean()), float(F.cross_entropy(logits, y))


def plain_leave_one_out(support: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    found = []
    for left_out in range(len(y)):
        others = torch.arange(len(y)) != left_out
        found.append(plain_scores(support[others], y[others], support[~others], y[~others]))
    return sum(a for a, _ in found) / len(y), sum(b for _, b in found) / len(y)


@pytest.mark.parametrize("bn_mode", ["transductive", "support"])
@pytest.mark.parametrize(("space", "cells"), [("chain", 2), ("conv4_chain", 2)])
@torch.no_grad()
def test_every_entry_equals_a_plain_forward_of_its_architecture(space: str, cells: int, bn_mode: str) -> None:
    net, task = make_supernet(space, cells), make_task(k_shot=3)
    query, support = prototype_entries(net, task, bn_mode, N_WAY)
    assert support is not None and query.loss.shape == (25,)
    for row, decisions in enumerate(net.space.enumerate()):
        s, q = plain_features(net, task, bn_mode, decisions)
        accuracy, loss = plain_scores(s, task.support_y, q, task.query_y)
        assert float(query.loss[row]) == pytest.approx(loss, abs=1e-9, rel=1e-9)
        assert float(query.accuracy[row]) == pytest.approx(accuracy)
        accuracy, loss = plain_leave_one_out(s, task.support_y)
        assert float(support.loss[row]) == pytest.approx(loss, abs=1e-9, rel=1e-9)
        assert float(support.accuracy[row]) == pytest.approx(accuracy)


def test_one_shot_has_no_leave_one_out_score() -> None:
    assert prototype_entries(make_supernet("chain", 1), make_task(k_shot=1), "transductive", N_WAY).support is None


def test_scores_do_not_depend_on_how_many_are_computed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    net, task = make_supernet("chain", 2), make_task(k_shot=2)
    whole = prototype_entries(net, task, "transductive", N_WAY)
    monkeypatch.setattr("few_shot_nas.tabular.table_entries._ELEMENTS", 7 * 18 * N_WAY * net.feature_dim)
    parts = prototype_entries(net, task, "transductive", N_WAY)
    assert torch.equal(whole.query.loss, parts.query.loss)
    assert whole.support is not None and parts.support is not None
    assert torch.equal(whole.support.loss, parts.support.loss)


def test_each_shared_layer_runs_once() -> None:
    net = make_supernet("chain", 3)
    runs = [0, 0, 0]
    for index, layer in enumerate(net.body.layers):  # type: ignore[union-attr, arg-type]
        layer.register_forward_hook(lambda *_, index=index: runs.__setitem__(index, runs[index] + 1))
    assert len(list(every_architecture(net, make_task(1).support_x))) == 125
    assert runs == [5, 25, 125]


def test_a_body_without_layers_runs_each_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    net = make_supernet("nb201", 1)
    some = [tuple(net.space.sample(torch.Generator().manual_seed(seed))) for seed in range(3)]
    monkeypatch.setattr(SPACES["nb201"], "enumerate", lambda self: iter(some))
    x = make_task(1).support_x
    leaves = list(every_architecture(net, x))
    assert [leaf.decisions for leaf in leaves] == some
    for leaf in leaves:
        torch.testing.assert_close(leaf.features, net.features(x, net.space.decode(leaf.decisions)), rtol=0, atol=0)
