"""The policy of independent softmaxes."""

import math

import pytest
import torch

from few_shot_nas.controllers.factorised import FactorisedController


def test_the_probability_is_the_product_of_softmaxes():
    policy = FactorisedController((2, 3), ("a", "b"), tanh_constant=None).double()
    with torch.no_grad():
        policy.logits.copy_(torch.tensor([0.0, math.log(3.0), 0.0, math.log(2.0), math.log(5.0)], dtype=torch.double))
    assert float(policy.log_prob(torch.tensor([1, 2])).detach().exp()) == pytest.approx(3 / 4 * 5 / 8, abs=1e-12)


def test_temperature_and_bound_act_on_the_logits():
    policy = FactorisedController((2,), ("a",), tanh_constant=1.5, temperature=2.0).double()
    with torch.no_grad():
        policy.logits.copy_(torch.tensor([0.0, 3.0]))
    expected = 1 / (1 + math.exp(-1.5 * math.tanh(1.5)))
    assert float(policy.log_prob(torch.tensor([1])).detach().exp()) == pytest.approx(expected, abs=1e-12)


def test_it_starts_exactly_uniform():
    policy = FactorisedController((2, 3), ("a", "a"))
    assert float(policy.sample(torch.Generator()).log_prob.detach()) == pytest.approx(-math.log(6), abs=1e-6)


def test_no_decision_depends_on_another():
    policy = FactorisedController((2, 3), ("a", "b")).double()
    with torch.no_grad():
        policy.logits.copy_(torch.tensor([0.3, -0.4, 1.0, 0.2, -0.7]))
    second = [policy(torch.tensor([first, 2])).log_probs[1] for first in (0, 1)]
    assert torch.equal(*second)
