"""The inner loop against closed forms of a quadratic and finite differences, in float64."""

import pytest
import torch

from few_shot_nas.meta.inner_loop import adapt

C = torch.tensor([0.7, -1.2], dtype=torch.float64)
Q = torch.tensor([0.1, 2.0], dtype=torch.float64)
LR = 0.1


def quadratic(params, step):
    return 0.5 * (params["w"] - C).square().sum()


def start():
    return torch.tensor([3.0, 0.5], dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("num_steps", [0, 1, 2, 5])
@pytest.mark.parametrize("second_order", [True, False])
def test_meta_gradient_of_a_quadratic_has_a_closed_form(num_steps, second_order):
    """0.5|w-c|^2 contracts by (1-lr)^T; second order multiplies the outer gradient w_T - q by it, FOMAML does not."""
    w0 = start()
    trajectory = adapt(quadratic, {"w": w0}, lr=lambda name, step: LR, num_steps=num_steps, second_order=second_order)
    (gradient,) = torch.autograd.grad(0.5 * (trajectory[-1]["w"] - Q).square().sum(), w0)
    factor = (1 - LR) ** num_steps
    w_t = trajectory[-1]["w"].detach()
    assert len(trajectory) == num_steps + 1
    torch.testing.assert_close(w_t, C + factor * (w0.detach() - C), rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient, (factor if second_order else 1.0) * (w_t - Q), rtol=0, atol=1e-12)


def nonlinear(params, step):
    return (torch.tanh(params["a"]) * params["b"] - (step + 1.0)).pow(4).sum()


@pytest.mark.parametrize("num_steps", [1, 3])
def test_second_order_gradient_equals_central_differences(num_steps):
    def outer(flat):
        params = {"a": flat[:2], "b": flat[2:]}
        last = adapt(nonlinear, params, lr=lambda name, step: 0.01 * (step + 1), num_steps=num_steps)[-1]
        return (last["a"] * last["b"]).sum().sin()

    point = torch.tensor([0.3, -0.4, 0.5, 0.9], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(outer(point), point)
    h = 1e-6
    basis = torch.eye(4, dtype=torch.float64) * h
    numeric = torch.stack([(outer(point.detach() + e) - outer(point.detach() - e)) / (2 * h) for e in basis])
    torch.testing.assert_close(gradient, numeric, rtol=0, atol=1e-7)


def test_first_and_second_order_take_the_same_steps_but_have_different_gradients():
    paths = {}
    for second_order in (True, False):
        params = {"a": torch.full((2,), 0.3).double().requires_grad_(), "b": torch.full((2,), 0.8).double()}
        last = adapt(nonlinear, params, lr=lambda name, step: 0.01, num_steps=2, second_order=second_order)[-1]
        (gradient,) = torch.autograd.grad(last["a"].sum(), params["a"])
        paths[second_order] = (last["a"].detach(), gradient)
    torch.testing.assert_close(paths[True][0], paths[False][0], rtol=0, atol=0)
    assert (paths[True][1] - paths[False][1]).abs().max() > 1e-3


def test_a_learned_rate_gets_minus_the_inner_product_of_outer_and_inner_gradient():
    w0, lr = start(), torch.tensor(LR, dtype=torch.float64, requires_grad=True)
    last = adapt(quadratic, {"w": w0}, lr=lambda name, step: lr, num_steps=1, second_order=False)[-1]
    (gradient,) = torch.autograd.grad(0.5 * (last["w"] - Q).square().sum(), lr)
    expected = -((last["w"] - Q) * (w0 - C)).sum().detach()
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


def test_rates_are_asked_for_by_name_and_step():
    asked = []
    params = {"a": torch.ones(2, dtype=torch.float64), "b": torch.ones(2, dtype=torch.float64)}
    adapt(nonlinear, params, lr=lambda name, step: asked.append((name, step)) or 0.0, num_steps=2)
    assert asked == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]


def test_it_works_under_no_grad_and_leaves_the_start_alone():
    w0 = start()
    with torch.no_grad():
        trajectory = adapt(quadratic, {"w": w0}, lr=lambda name, step: LR, num_steps=3, second_order=False)
    assert trajectory[0]["w"] is w0
    torch.testing.assert_close(trajectory[-1]["w"], C + 0.9**3 * (w0.detach() - C), rtol=0, atol=1e-12)
    assert w0.grad is None


def test_first_order_keeps_no_graph_through_the_support_pass():
    w0 = start()
    last = adapt(quadratic, {"w": w0}, lr=lambda name, step: LR, num_steps=2, second_order=False)[-1]["w"]
    (gradient,) = torch.autograd.grad(last.sum(), w0)
    torch.testing.assert_close(gradient, torch.ones(2, dtype=torch.float64), rtol=0, atol=0)


def test_a_negative_number_of_steps_is_refused():
    with pytest.raises(ValueError, match="num_steps >= 0, got -1"):
        adapt(quadratic, {"w": start()}, lr=lambda name, step: LR, num_steps=-1)
