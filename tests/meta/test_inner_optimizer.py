"""Adam in the inner loop: equal to torch's, differentiable, and finite where the textbook's second order is not."""

import pytest
import torch
import torch.nn.functional as F

from few_shot_nas.meta.functional import call, trainable
from few_shot_nas.meta.inner_loop import adapt, descend
from few_shot_nas.meta.inner_optimizer import Adam
from few_shot_nas.models.conv4 import Conv4


def bowl(params, step):
    return ((params["w"] - 1.0).pow(4) * (step + 1)).sum()


@pytest.mark.parametrize("beta1", [0.0, 0.9])
def test_the_steps_are_those_of_torch_adam(beta1):
    start = torch.tensor([3.0, -0.5], dtype=torch.float64)
    rule = Adam(beta1=beta1, root_eps=0.0, eps=1e-8)
    trajectory = adapt(bowl, {"w": start}, lr=lambda name, step: 0.1, num_steps=5, second_order=False, rule=rule)
    theirs = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([theirs], lr=0.1, betas=(beta1, 0.999), eps=1e-8)
    for step in range(5):
        optimizer.zero_grad()
        bowl({"w": theirs}, step).backward()
        optimizer.step()
        torch.testing.assert_close(trajectory[step + 1]["w"], theirs.detach(), rtol=0, atol=1e-12)


def test_slots_that_are_carried_on_make_two_descents_one():
    start = {"w": torch.tensor([3.0, -0.5], dtype=torch.float64)}
    settings = {"lr": lambda name, step: 0.1, "second_order": False, "rule": Adam()}
    still = lambda params, step: bowl(params, 0)  # noqa: E731
    whole = descend(still, start, num_steps=5, **settings)
    first = descend(still, start, num_steps=2, **settings)
    second = descend(still, first.trajectory[-1], num_steps=3, slots=first.slots, **settings)
    assert torch.equal(whole.trajectory[-1]["w"], second.trajectory[-1]["w"])
    assert second.slots.updates == 5


@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_the_second_order_through_adam_equals_central_differences(num_steps):
    def outer(point):
        last = adapt(bowl, {"w": point}, lr=lambda name, step: 0.05, num_steps=num_steps, rule=Adam())[-1]["w"]
        return (last.sin() * torch.tensor([1.0, 2.0], dtype=torch.float64)).sum()

    point = torch.tensor([2.0, -0.4], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(outer(point), point)
    basis = torch.eye(2, dtype=torch.float64) * 1e-6
    numeric = torch.stack([(outer(point.detach() + e) - outer(point.detach() - e)) / 2e-6 for e in basis])
    torch.testing.assert_close(gradient, numeric, rtol=0, atol=1e-8)


@pytest.mark.parametrize("num_steps", [5, 10])
def test_zero_gradients_break_the_textbook_form_and_not_ours(num_steps):
    """The second entry does not enter the loss: its gradient is zero at every step."""

    def gradient(rule):
        point = torch.tensor([2.0, 7.0], requires_grad=True)
        loss = lambda params, step: params["w"][0].square() + 0.0 * params["w"][1].square()  # noqa: E731
        last = adapt(loss, {"w": point}, lr=lambda name, step: 0.1, num_steps=num_steps, rule=rule)[-1]["w"]
        return torch.autograd.grad(last.sum(), point)[0]

    assert not gradient(Adam(root_eps=0.0, eps=1e-8)).isfinite().all()
    ours = gradient(Adam())
    assert ours.isfinite().all() and ours[1] == 1.0


@pytest.mark.parametrize("num_steps", [5, 10])
def test_the_second_order_through_conv4_with_batch_norm_stays_finite(num_steps):
    """Convolutions' biases before BatchNorm have a gradient of zero up to rounding; dead ReLUs an exact zero."""
    torch.manual_seed(0)
    net = Conv4(n_way=3, in_channels=1, image_size=16, width=4)
    with torch.no_grad():
        net.body[9].weight[0].zero_()
        net.body[9].bias[0].fill_(-10.0)
    x, y = torch.randn(6, 1, 16, 16), torch.arange(3).repeat(2)
    loss = lambda params, step: F.cross_entropy(call(net, params, x), y)  # noqa: E731
    last = adapt(loss, trainable(net), lr=lambda name, step: 0.01, num_steps=num_steps, rule=Adam())[-1]
    loss(last, 0).backward()
    gradients = [p.grad for p in net.parameters()]
    assert all(bool(g.isfinite().all()) for g in gradients)
    assert max(float(g.abs().max()) for g in gradients) < 1e3
