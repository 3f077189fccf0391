"""MAML's meta-gradient against a plain loop of autograd.grad, and what evaluation may and may not touch."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from few_shot_nas.algorithms.maml import MAML
from few_shot_nas.algorithms.settings import InnerLoop, OuterLoop
from few_shot_nas.episode import Episode, tasks
from few_shot_nas.models.conv4 import Conv4


def make_episode(dtype=torch.float32, seed=0, tasks_in_batch=2, n_query=2):
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(3)
    return Episode(
        torch.randn(tasks_in_batch, 6, 1, 28, 28, generator=g).to(dtype),
        y.repeat(tasks_in_batch, 2),
        torch.randn(tasks_in_batch, 3 * n_query, 1, 28, 28, generator=g).to(dtype),
        y.repeat_interleave(n_query).repeat(tasks_in_batch, 1),
        torch.arange(tasks_in_batch),
    )


def make_maml(dtype=torch.float32, **inner):
    torch.manual_seed(0)
    net = Conv4(n_way=3, in_channels=1, image_size=28, width=8).to(dtype)
    return MAML(net, inner=InnerLoop(**inner), outer=OuterLoop())


def plain_meta_gradient(net, episode, *, lr, steps, first_order):
    """The textbook loop: fast weights by autograd.grad, outer gradient by autograd.grad, no code of ours."""
    own = dict(net.named_parameters())
    total = None
    for t in range(episode.support_x.shape[0]):
        fast = dict(own)
        for _ in range(steps):
            loss = F.cross_entropy(functional_call(net, fast, (episode.support_x[t],)), episode.support_y[t])
            grads = torch.autograd.grad(loss, list(fast.values()), create_graph=not first_order)
            fast = {name: value - lr * g for (name, value), g in zip(fast.items(), grads, strict=True)}
        loss = F.cross_entropy(functional_call(net, fast, (episode.query_x[t],)), episode.query_y[t])
        grads = torch.autograd.grad(loss, list(own.values()))
        total = grads if total is None else [a + b for a, b in zip(total, grads, strict=True)]
    return {name: g / episode.support_x.shape[0] for name, g in zip(own, total, strict=True)}


def meta_gradient(module, episode):
    for task in tasks(episode):
        loss, _ = module.task_loss(task)
        (loss / episode.support_x.shape[0]).backward()
    return {name: p.grad for name, p in module.net.named_parameters()}


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_meta_gradient_of_conv4_with_batch_norm_equals_a_plain_loop(first_order, steps, dtype, tolerance):
    module = make_maml(dtype, inner_lr=0.1, inner_steps=steps, first_order=first_order)
    episode = make_episode(dtype)
    expected = plain_meta_gradient(module.net, episode, lr=0.1, steps=steps, first_order=first_order)
    actual = meta_gradient(module, episode)
    assert max(float(g.abs().max()) for g in expected.values()) > 1e-2
    for name, gradient in actual.items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=tolerance, msg=name)


def test_the_two_orders_differ():
    episode = make_episode()
    second = meta_gradient(make_maml(inner_lr=0.4), episode)
    first = meta_gradient(make_maml(inner_lr=0.4, first_order=True), episode)
    assert max(float((second[name] - first[name]).abs().max()) for name in first) > 1e-3


def test_support_mode_judges_each_query_alone_and_transductive_mode_does_not():
    module = make_maml(inner_lr=0.1, inner_steps=2).eval()
    task = next(tasks(make_episode(n_query=4)))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    part = order[:5]
    alone = task._replace(query_x=task.query_x[part], query_y=task.query_y[part])
    with torch.no_grad():
        whole, some = module.task_logits(task), module.task_logits(alone)
    torch.testing.assert_close(some["support"], whole["support"][part], rtol=0, atol=1e-4)
    assert (some["transductive"] - whole["transductive"][part]).abs().max() > 1e-2


def test_evaluation_leaves_parameters_buffers_and_gradients_as_they_were():
    module = make_maml(inner_lr=0.5, inner_steps=2)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with torch.no_grad():
        module.task_logits(next(tasks(make_episode())))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())


def test_zero_evaluation_steps_score_the_unadapted_weights():
    module = make_maml(inner_lr=0.5, eval_inner_steps=0)
    task = next(tasks(make_episode()))
    with torch.no_grad():
        logits = module.task_logits(task)["transductive"]
        torch.testing.assert_close(logits, module.net(task.query_x), rtol=0, atol=0)
