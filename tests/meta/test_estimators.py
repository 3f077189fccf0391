"""Every estimator against exact gradients of its objective, by enumeration in float64 (G1 to G5, G7)."""

import itertools
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.func import functional_call

from few_shot_nas.controllers import CONTROLLERS
from few_shot_nas.errors import InputError
from few_shot_nas.meta.estimators import (
    ESTIMATORS,
    Estimator,
    dice,
    loaded_dice,
    loaded_dice_estimator,
    lvc,
    magic_box,
    plain,
)
from few_shot_nas.meta.functional import trainable
from few_shot_nas.meta.policy_gradient import leave_one_out
from tests.meta.exact import (
    ARCHS,
    autoregressive,
    clone_by_hand,
    error_table,
    expected_gradient,
    factorised,
    gradient,
    leave_one_out_advantages,
    lstm_table,
    no_baseline,
    noise_table,
    objective,
    objective_ii,
    random_params,
    random_rewards,
    relative_error,
)

REWARDS, OUTER = random_rewards(1), random_rewards(2)
POLICIES = {"factorised": (factorised, False), "autoregressive": (autoregressive, True)}
policies = pytest.mark.parametrize("policy", POLICIES)


def problem(policy):
    function, conditional = POLICIES[policy]
    return function, random_params(3, conditional)


def close(actual, expected, tolerance=1e-10):
    assert float(expected.norm()) > 1e-3
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


# ---- first derivatives ----------------------------------------------------------------------------------------------


@policies
@pytest.mark.parametrize("name", ["emaml", "dice_full"])
@pytest.mark.parametrize(("count", "advantages"), [(1, no_baseline), (2, leave_one_out_advantages)])
def test_emaml_and_dice_over_the_full_graph_are_unbiased_for_j_i(policy, name, count, advantages):
    function, params = problem(policy)
    settings = {"alpha": 1.5, "count": count, "advantages": advantages}
    exact = gradient(objective(function, params, REWARDS, OUTER, **settings), params)
    close(expected_gradient(ESTIMATORS[name], function, params, REWARDS, OUTER, **settings), exact)


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_emaml_is_unbiased_for_j_i_with_every_controller(controller):
    torch.manual_seed(0)
    flags = {"hidden": 3} if controller == "LSTM" else {}
    net = CONTROLLERS[controller]((3, 3), ("op", "op"), **flags).double()
    stream = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=stream, dtype=torch.double))

    def policy(params, archs):
        return torch.stack([functional_call(net, params, (torch.tensor(a),)).log_probs for a in archs])

    params = trainable(net)
    exact = gradient(objective(policy, params, REWARDS, OUTER, 1.5), params)
    close(expected_gradient(ESTIMATORS["emaml"], policy, params, REWARDS, OUTER, 1.5), exact)
    assert relative_error(expected_gradient(ESTIMATORS["naive"], policy, params, REWARDS, OUTER, 1.5), exact) > 0.01


@policies
def test_naive_misses_exactly_the_effect_of_theta_on_what_is_tried(policy):
    function, params = problem(policy)
    exact = gradient(objective(function, params, REWARDS, OUTER, 1.5, count=2), params)
    naive = expected_gradient(ESTIMATORS["naive"], function, params, REWARDS, OUTER, 1.5, count=2)
    missing = torch.zeros_like(exact)
    for tried in itertools.product(range(9), repeat=2):
        archs = [ARCHS[i] for i in tried]
        own = function(params, archs).sum()
        clone = clone_by_hand(function, params, archs, REWARDS[list(tried)], 1.5)
        value = float((function(clone, ARCHS).sum(1).exp() * OUTER).sum().detach())
        missing += float(own.detach().exp()) * value * gradient(own, params)
    close(exact - naive, missing)


def test_the_exact_objective_agrees_with_finite_differences():
    params = random_params(3, conditional=True)
    exact = gradient(objective(autoregressive, params, REWARDS, OUTER, 1.5), params)
    slopes = []
    for name, value in params.items():
        for place in range(value.numel()):
            ends = []
            for shift in (1e-5, -1e-5):
                moved = {key: p.detach().clone() for key, p in params.items()}
                moved[name].view(-1)[place] += shift
                moved = {key: p.requires_grad_() for key, p in moved.items()}
                ends.append(float(objective(autoregressive, moved, REWARDS, OUTER, 1.5).detach()))
            slopes.append((ends[0] - ends[1]) / 2e-5)
    torch.testing.assert_close(torch.tensor(slopes, dtype=torch.double), exact, rtol=0, atol=1e-6)


def test_first_order_is_the_gradient_at_the_clone_applied_to_theta():
    params = random_params(3, conditional=True)
    tried, chosen = [ARCHS[4], ARCHS[2]], [ARCHS[7]]
    advantages, reward = torch.tensor([0.3, -0.3], dtype=torch.double), torch.tensor([0.8], dtype=torch.double)
    loss = ESTIMATORS["fomaml"].task_loss(
        autoregressive, params, (tried, advantages), (chosen, reward), lr=1.5, baseline=0.2
    )
    clone = clone_by_hand(autoregressive, params, tried, advantages, 1.5)
    leaves = {name: value.detach().requires_grad_() for name, value in clone.items()}
    close(-gradient(loss, params), 0.6 * gradient(autoregressive(leaves, chosen).sum(), leaves), 1e-14)


def test_with_leave_one_out_and_independent_decisions_second_order_adds_nothing():
    params = random_params(3)
    settings = {"alpha": 1.5, "count": 2, "advantages": leave_one_out_advantages}
    both = [
        [expected_gradient(ESTIMATORS[name], factorised, params, REWARDS, OUTER, **settings) for name in pair]
        for pair in (("naive", "fomaml"), ("emaml", "fo_emaml"))
    ]
    for second_order, first_order in both:
        close(first_order, second_order, 1e-14)
    params = random_params(3, conditional=True)
    naive, fomaml = (
        expected_gradient(ESTIMATORS[name], autoregressive, params, REWARDS, OUTER, **settings)
        for name in ("naive", "fomaml")
    )
    assert relative_error(fomaml, naive) > 1e-3


def test_dice_in_the_inner_step_comes_closer_to_j_ii_with_more_inner_samples():
    params = random_params(3)
    mean = float((factorised(params, ARCHS).sum(1).exp() * REWARDS).sum().detach())
    exact = gradient(objective_ii(factorised, params, REWARDS, OUTER, 1.0), params)
    errors = [
        relative_error(
            expected_gradient(
                ESTIMATORS["dice_inner"], factorised, params, REWARDS, OUTER, 1.0, count=count,
                advantages=lambda r: r - mean,
            ),
            exact,
        )
        for count in (1, 2)
    ]  # fmt: skip
    assert errors[1] < 0.7 * errors[0]


# ---- second derivatives ---------------------------------------------------------------------------------------------


def hessian(surrogate, policy, advantages, params):
    """Hessian of minus the expected surrogate, probabilities held as numbers."""
    log_probs = policy(params, ARCHS)
    p = log_probs.sum(1).exp().detach()
    total = -sum(p[i] * surrogate(log_probs[i : i + 1], advantages[i : i + 1]) for i in range(9))
    return second_derivative(total, params)


def second_derivative(value, params):
    grads = torch.autograd.grad(value, list(params.values()), create_graph=True)
    flat = torch.cat([g.flatten() for g in grads])
    return torch.stack([gradient(g, params) if g.requires_grad else torch.zeros_like(flat) for g in flat])


def true_hessian(policy, rewards, params):
    return second_derivative((policy(params, ARCHS).sum(1).exp() * rewards).sum(), params)


@policies
def test_dice_has_the_hessian_of_the_expected_reward_with_and_without_a_baseline(policy):
    function, params = problem(policy)
    exact = true_hessian(function, REWARDS, params)
    for baseline in (0.0, 0.4):
        close(hessian(dice, function, REWARDS - baseline, params), exact)
        close(hessian(partial(loaded_dice, lam=1.0), function, REWARDS - baseline, params), exact)


@policies
def test_lvc_lacks_exactly_the_products_of_different_decisions(policy):
    function, params = problem(policy)
    cross = torch.zeros_like(true_hessian(function, REWARDS, params))
    for i, arch in enumerate(ARCHS):
        log_probs = function(params, [arch])[0]
        s = [gradient(value, params) for value in log_probs]
        p = float(log_probs.sum().detach().exp())
        cross += p * REWARDS[i] * (torch.outer(s[0], s[1]) + torch.outer(s[1], s[0]))
    close(hessian(lvc, function, REWARDS, params), true_hessian(function, REWARDS, params) - cross)
    close(
        hessian(partial(loaded_dice, lam=0.0), function, REWARDS, params),
        hessian(lvc, function, REWARDS, params),
        1e-14,
    )


def test_lvc_is_exact_for_additive_rewards_of_independent_decisions():
    params = random_params(3)
    additive = torch.tensor([[0.1, 0.5, 0.3][a] + [0.4, 0.0, 0.2][b] for a, b in ARCHS], dtype=torch.double)
    mean = (factorised(params, ARCHS).sum(1).exp() * additive).sum().detach()
    close(hessian(lvc, factorised, additive - mean, params), true_hessian(factorised, additive, params), 1e-14)


def test_the_plain_surrogate_has_no_curvature_for_independent_decisions_and_centred_rewards():
    params = random_params(3)
    mean = (factorised(params, ARCHS).sum(1).exp() * REWARDS).sum().detach()
    assert float(hessian(plain, factorised, REWARDS - mean, params).abs().max()) < 1e-14


@policies
def test_loaded_dice_takes_a_baseline_per_decision_that_depends_on_the_decisions_before(policy):
    function, params = problem(policy)
    per_decision = torch.tensor([[0.3, [0.7, -0.2, 0.5][a]] for a, _ in ARCHS], dtype=torch.double)
    advantages = REWARDS.unsqueeze(1) - per_decision
    close(hessian(partial(loaded_dice, lam=1.0), function, advantages, params), true_hessian(function, REWARDS, params))


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_loaded_dice_equals_its_published_loop_and_has_the_plain_first_derivative(lam):
    log_probs = torch.tensor([[-0.5, -1.0, -0.2]], dtype=torch.double, requires_grad=True)
    advantages = torch.tensor([0.7], dtype=torch.double)
    w, total = 0.0, 0.0
    for t in range(3):
        w = lam * w + log_probs[0, t]
        v = w - log_probs[0, t]
        total = total + (torch.exp(w - w.detach()) - torch.exp(v - torch.as_tensor(v).detach())) * 0.7
    ours = -loaded_dice(log_probs, advantages, lam)
    torch.testing.assert_close(ours, total, rtol=0, atol=1e-14)
    params = {"l": log_probs}
    torch.testing.assert_close(second_derivative(ours, params), second_derivative(total, params), rtol=0, atol=1e-14)
    torch.testing.assert_close(
        gradient(ours, params), gradient(-plain(log_probs, advantages), params), rtol=0, atol=1e-14
    )


def test_dice_over_the_full_graph_has_the_hessian_of_j_i_too():
    params = random_params(3)
    exact = second_derivative(objective(factorised, params, REWARDS, OUTER, 1.5), params)
    total = 0.0
    for i, arch in enumerate(ARCHS):
        clone = clone_by_hand(factorised, params, [arch], REWARDS[i : i + 1], 1.5)
        own, after = factorised(params, [arch]), factorised(clone, ARCHS)
        p = (own.sum() + after.sum(1)).exp().detach()
        for j in range(9):
            total = total - p[j] * ESTIMATORS["dice_full"].loss(after[j : j + 1], OUTER[j : j + 1], 0.4, own, 0.3)
    close(second_derivative(total, params), exact)


def test_the_magic_box_is_one_with_the_derivatives_of_exp():
    x = torch.tensor(0.7, dtype=torch.double, requires_grad=True)
    box = magic_box(2 * x)
    (first,) = torch.autograd.grad(box, x, create_graph=True)
    (second,) = torch.autograd.grad(first, x)
    assert (box.item(), first.item(), second.item()) == (1.0, 2.0, 4.0)


# ---- the table of docs/estimators.md --------------------------------------------------------------------------------


def test_the_table_of_the_documentation_is_what_enumeration_gives():
    text = (Path(__file__).parents[2] / "docs" / "estimators.md").read_text()
    documented = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and all(cell.replace("e-", "").replace(".", "").isdigit() for cell in cells[1:]):
            documented[cells[0]] = [float(cell) for cell in cells[1:]]
    table, noise, lstm = error_table(), noise_table(), lstm_table()
    assert set(documented) == {*table, *noise, *lstm}
    for name, row in {**table, **{key: [value] for key, value in noise.items()}, **lstm}.items():
        if name in ("emaml", "dice_full", "LSTM, emaml"):
            assert max(row[:3]) < 1e-8 and max(documented[name][:3]) < 1e-8
        else:
            assert row == pytest.approx(documented[name], rel=0.06), name
    # Second order pays for an LSTM, whose Hessian depends on the architecture, and costs no signal.
    assert all(naive < 0.1 * first for naive, first in zip(lstm["LSTM, naive"], lstm["LSTM, fomaml"][:3], strict=False))

    no_baseline_errors = {name: row[0] for name, row in table.items()}
    assert no_baseline_errors["naive"] > 3 * no_baseline_errors["fomaml"]
    assert no_baseline_errors["dice_inner + correction (refused)"] > 3 * no_baseline_errors["dice_inner"]
    with_baseline = {name: row[1] for name, row in table.items()}
    assert with_baseline["dice_inner"] < with_baseline["lvc"] < with_baseline["fomaml"]
    assert with_baseline["naive"] < 0.3 * no_baseline_errors["naive"]
    assert with_baseline["dice_inner + correction (refused)"] > 3 * with_baseline["dice_inner"]


# ---- user mistakes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("surrogate", [dice, lvc, partial(loaded_dice, lam=0.5)])
@pytest.mark.parametrize("correction", ["score", "dice"])
def test_a_correction_on_top_of_dice_in_the_inner_step_is_refused(surrogate, correction):
    with pytest.raises(InputError, match=f"the {correction} correction next to (dice|lvc|loaded_dice) in the inner"):
        Estimator("J_I", surrogate, correction=correction)


@pytest.mark.parametrize("lam", [-0.1, 1.1])
def test_a_lambda_outside_its_range_is_refused(lam):
    with pytest.raises(InputError, match=f"dice_lambda={lam}"):
        loaded_dice_estimator(lam)


def test_a_correction_needs_what_was_tried():
    with pytest.raises(ValueError, match="the score correction needs"):
        ESTIMATORS["emaml"].loss(torch.zeros(1, 2), torch.zeros(1), 0.0)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_zero_advantages_give_a_zero_gradient(name):
    """G8: where reward equals baseline everywhere there is nothing to learn."""
    params, half = random_params(3), torch.full((2,), 0.5, dtype=torch.double)
    loss = ESTIMATORS[name].task_loss(
        factorised, params, (ARCHS[:2], half - leave_one_out(half)), (ARCHS[3:5], half), lr=1.5, baseline=0.5,
        tried_baseline=leave_one_out(half),
    )  # fmt: skip
    assert not gradient(loss, params).any()
