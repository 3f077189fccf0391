"""What every architecture policy must do, exactly, on a space small enough to enumerate."""

import itertools
import math

import pytest
import torch
from torch.func import functional_call, grad

from few_shot_nas.controllers import CONTROLLERS
from few_shot_nas.errors import InputError

SIZES, KINDS = (3, 2, 1, 3), ("op", "inputs", "op", "op")
ALL = [torch.tensor(a) for a in itertools.product(*(range(size) for size in SIZES))]
everyone = pytest.mark.parametrize("name", CONTROLLERS)


def make(name, spread=1.0, sizes=SIZES, kinds=KINDS, **flags):
    """A policy in float64, far from uniform."""
    policy = CONTROLLERS[name](sizes, kinds, **flags).double()
    stream = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=stream, dtype=torch.double) * spread)
    return policy


def contexts(dim):
    return {} if dim is None else {"context": torch.linspace(-1, 2, dim, dtype=torch.double)}


@everyone
@pytest.mark.parametrize("dim", [None, 3])
@pytest.mark.parametrize("flags", [{}, {"tanh_constant": None}, {"tanh_constant": 1.5, "temperature": 5.0}])
def test_probabilities_sum_to_one_and_stay_below_p_max(name, dim, flags):
    policy = make(name, embedding_dim=dim, **flags)
    p = [float(policy.log_prob(a, **contexts(dim)).detach().exp()) for a in ALL]
    assert abs(math.fsum(p) - 1) < 1e-12
    assert max(p) <= policy.p_max() + 1e-12
    assert max(p) > 1.5 / len(ALL)


@everyone
@pytest.mark.parametrize("dim", [None, 3])
def test_what_is_sampled_replays_to_the_same_numbers_and_parts_sum_to_wholes(name, dim):
    policy = make(name, embedding_dim=dim)
    for seed in range(10):
        rollout = policy.sample(torch.Generator().manual_seed(seed), **contexts(dim))
        again = policy(rollout.decisions, **contexts(dim))
        assert all(torch.equal(one, other) for one, other in zip(rollout, again, strict=True))
        assert rollout.decisions.shape == rollout.log_probs.shape == rollout.entropies.shape == (len(SIZES),)
        torch.testing.assert_close(rollout.log_probs.sum(), rollout.log_prob, rtol=0, atol=1e-14)
        torch.testing.assert_close(rollout.entropies.sum(), rollout.entropy, rtol=0, atol=1e-14)
        assert torch.equal(rollout.log_prob, policy.log_prob(rollout.decisions, **contexts(dim)))
        assert torch.equal(rollout.entropy, policy.entropy(rollout.decisions, **contexts(dim)))


@everyone
def test_each_log_prob_and_entropy_is_that_of_the_conditional_distribution(name):
    policy = make(name)
    p = {tuple(a.tolist()): float(policy.log_prob(a).detach().exp()) for a in ALL}

    def mass(prefix):
        return math.fsum(value for a, value in p.items() if a[: len(prefix)] == prefix)

    for a in ((0, 0, 0, 0), (2, 1, 0, 1)):
        rollout = policy(torch.tensor(a))
        for step, size in enumerate(SIZES):
            conditional = [mass((*a[:step], choice)) / mass(a[:step]) for choice in range(size)]
            entropy = -math.fsum(q * math.log(q) for q in conditional)
            assert float(rollout.log_probs[step].detach()) == pytest.approx(math.log(conditional[a[step]]), abs=1e-12)
            assert float(rollout.entropies[step].detach()) == pytest.approx(entropy, abs=1e-12)


@everyone
def test_mean_entropy_of_rollouts_is_the_entropy_of_the_policy_and_at_most_the_uniform_one(name):
    policy = make(name)
    log_p = torch.stack([policy.log_prob(a) for a in ALL]).detach()
    entropies = torch.stack([policy.entropy(a) for a in ALL]).detach()
    whole = -(log_p.exp() * log_p).sum()
    torch.testing.assert_close((log_p.exp() * entropies).sum(), whole, rtol=0, atol=1e-12)
    assert float(whole) < policy.max_entropy() == pytest.approx(math.log(len(ALL)), abs=1e-12)


@everyone
def test_the_initial_policy_is_nearly_uniform(name):
    torch.manual_seed(0)
    policy = CONTROLLERS[name]((7,) * 6, ("op",) * 6)
    rollout = policy.sample(torch.Generator().manual_seed(0))
    assert float(rollout.entropy.detach()) / policy.max_entropy() == pytest.approx(1, abs=1e-3)


@everyone
def test_greedy_takes_the_likeliest_choice_given_the_choices_before(name):
    policy = make(name)
    p = {tuple(a.tolist()): float(policy.log_prob(a).detach()) for a in ALL}
    taken = tuple(policy.greedy().tolist())
    for step, size in enumerate(SIZES):
        masses = [
            math.fsum(math.exp(v) for a, v in p.items() if a[: step + 1] == (*taken[:step], choice))
            for choice in range(size)
        ]
        assert masses[taken[step]] == max(masses)


@everyone
def test_sampling_uses_the_given_generator_and_nothing_else(name):
    policy, before = make(name, spread=0.1), torch.get_rng_state()
    draws = []
    for _ in range(2):
        stream = torch.Generator().manual_seed(3)
        draws.append([tuple(policy.sample(stream).decisions.tolist()) for _ in range(12)])
    assert draws[0] == draws[1] and len(set(draws[0])) > 1
    assert torch.equal(torch.get_rng_state(), before)


@everyone
def test_a_step_can_be_differentiated_through_and_leaves_the_controller_alone(name):
    """G10: cloning is pure; the clone's gradient reaches theta; the same numbers by autograd and by torch.func."""
    policy, a, b = make(name, spread=0.5), ALL[4], ALL[11]
    before = {key: value.clone() for key, value in policy.state_dict().items()}
    params = dict(policy.named_parameters())

    def log_prob(params, decisions):
        return functional_call(policy, params, (decisions,)).log_prob

    def outer(params):
        inner = grad(log_prob)(params, a)
        return log_prob({key: p + 0.3 * inner[key] for key, p in params.items()}, b)

    by_func = grad(outer)({key: p.detach() for key, p in params.items()})
    inner = torch.autograd.grad(log_prob(params, a), list(params.values()), create_graph=True)
    clone = {key: p + 0.3 * g for (key, p), g in zip(params.items(), inner, strict=True)}
    assert list(clone) == list(before)
    for key, expected in zip(params, torch.autograd.grad(log_prob(clone, b), list(params.values())), strict=True):
        torch.testing.assert_close(by_func[key], expected, rtol=0, atol=1e-12)
        assert expected.any()
    assert all(torch.equal(value, before[key]) for key, value in policy.state_dict().items())


@everyone
def test_a_task_embedding_moves_the_policy_and_gets_a_gradient(name):
    policy = make(name, embedding_dim=2)
    one, other = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.double)
    a = ALL[5]
    assert abs(float((policy.log_prob(a, one) - policy.log_prob(a, other)).detach())) > 1e-3
    embedding = one.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(policy.log_prob(a, embedding), embedding)
    assert gradient.any()
    assert policy.greedy(one).tolist() == policy(greedy=True, context=one).decisions.tolist()


@everyone
def test_a_zero_task_embedding_changes_nothing(name):
    with_task, without = make(name, embedding_dim=2), make(name)
    with_task.load_state_dict(without.state_dict(), strict=False)
    a, zero = ALL[5], torch.zeros(2, dtype=torch.double)
    assert torch.equal(with_task.log_prob(a, zero), without.log_prob(a))


@everyone
@pytest.mark.parametrize(("dim", "given"), [(None, 2), (2, None), (2, 3)])
def test_a_task_embedding_that_does_not_fit_is_refused(name, dim, given):
    context = None if given is None else torch.zeros(given, dtype=torch.double)
    with pytest.raises(ValueError, match=f"{name} controller with embedding_dim={dim} got context"):
        make(name, embedding_dim=dim).log_prob(ALL[0], context)


@everyone
@pytest.mark.parametrize(("flag", "value"), [("tanh_constant", 0.0), ("temperature", -1.0), ("embedding_dim", 0)])
def test_flags_that_are_not_positive_are_refused(name, flag, value):
    with pytest.raises(InputError, match=f"{name} controller: {flag}={value}"):
        make(name, **{flag: value})


@everyone
@pytest.mark.parametrize("decisions", [torch.zeros(3, dtype=torch.int64), torch.zeros(4), torch.tensor([0, 2, 0, 0])])
def test_impossible_decisions_are_refused(name, decisions):
    with pytest.raises(ValueError, match="decision"):
        make(name).log_prob(decisions)


@everyone
def test_a_decision_with_one_choice_is_certain_and_its_log_prob_is_finite(name):
    """B4: choices that a decision lacks have no probability, and what is left stays finite without a bound."""
    policy = make(name, spread=30.0, tanh_constant=None)
    rollout = policy.sample(torch.Generator().manual_seed(0))
    assert (float(rollout.log_probs[2].detach()), float(rollout.entropies[2].detach())) == (0.0, 0.0)
    assert all(bool(torch.isfinite(policy.log_prob(a))) for a in ALL)


@everyone
def test_marginals_are_those_of_all_architectures(name):
    policy = make(name, spread=0.5)
    p = {tuple(a.tolist()): float(policy.log_prob(a).detach().exp()) for a in ALL}
    paths = 1 if name == "Factorised" else 500
    found = policy.marginals(torch.Generator().manual_seed(0), paths)
    for step, (size, values) in enumerate(zip(SIZES, found, strict=True)):
        exact = [math.fsum(value for a, value in p.items() if a[step] == choice) for choice in range(size)]
        # Independent decisions and the first one have no sampling error; conditionals in [0, 1] at most 0.5 / sqrt(n).
        tolerance = 1e-12 if step == 0 or paths == 1 else 4 * 0.5 / math.sqrt(paths)
        assert values.tolist() == pytest.approx(exact, abs=tolerance)
        assert float(values.sum()) == pytest.approx(1, abs=1e-12) and not values.requires_grad


@everyone
def test_marginals_of_a_policy_that_needs_a_task_are_refused(name):
    with pytest.raises(ValueError, match="embedding_dim=3 got context None"):
        make(name, embedding_dim=3).marginals(torch.Generator(), 1)
