"""The LSTM policy, exactly, on spaces small enough to enumerate."""

import itertools
import math

import pytest
import torch
from torch.func import functional_call, grad, jvp

from few_shot_nas.controllers import CONTROLLERS
from few_shot_nas.controllers.lstm import LSTMController
from few_shot_nas.errors import InputError

SIZES, KINDS = (3, 2, 3, 1, 2), ("op", "inputs", "op", "inputs", "op")


def make(sizes=SIZES, kinds=KINDS, spread=1.0, **flags):
    """A policy in float64; a large spread makes it far from uniform."""
    torch.manual_seed(0)
    policy = LSTMController(sizes, kinds, **{"hidden": 5, **flags}).double()
    if spread:
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.double) * spread)
    return policy


def architectures(sizes=SIZES):
    return [torch.tensor(a) for a in itertools.product(*(range(size) for size in sizes))]


def probability(policy, architecture):
    return float(policy.log_prob(torch.as_tensor(architecture)).detach().exp())


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


FLAGS = [
    {},
    {"tanh_constant": None},
    {"tanh_constant": 1.5, "temperature": 5.0},
    {"tanh_constant": None, "temperature": 0.5},
]


@pytest.mark.parametrize("flags", FLAGS)
def test_probabilities_of_all_architectures_sum_to_one(flags):
    policy = make(**flags)
    total = math.fsum(probability(policy, a) for a in architectures())
    assert abs(total - 1) < 1e-12


@pytest.mark.parametrize("flags", FLAGS)
def test_sampled_log_prob_and_entropy_equal_their_replay(flags):
    policy = make(**flags)
    for seed in range(20):
        rollout = policy.sample(generator(seed))
        assert rollout.decisions.dtype == torch.int64
        assert rollout.decisions.shape == (len(SIZES),)
        assert torch.equal(rollout.log_prob, policy.log_prob(rollout.decisions))
        assert torch.equal(rollout.entropy, policy.entropy(rollout.decisions))
        assert rollout.log_prob.shape == rollout.entropy.shape == ()


def test_expected_entropy_of_rollouts_is_the_entropy_of_the_policy():
    policy = make()
    log_p = torch.stack([policy.log_prob(a) for a in architectures()])
    entropies = torch.stack([policy.entropy(a) for a in architectures()])
    assert torch.allclose((log_p.exp() * entropies).sum(), -(log_p.exp() * log_p).sum(), atol=1e-12)


def test_entropy_met_on_the_way_is_the_sum_of_conditional_entropies():
    policy = make()
    log_p = {tuple(a.tolist()): float(policy.log_prob(a).detach()) for a in architectures()}

    def mass(prefix):
        return math.fsum(math.exp(v) for a, v in log_p.items() if a[: len(prefix)] == prefix)

    for a in ((0, 0, 0, 0, 0), (2, 1, 1, 0, 1)):
        expected = 0.0
        for step, size in enumerate(SIZES):
            conditional = [mass((*a[:step], choice)) / mass(a[:step]) for choice in range(size)]
            expected -= math.fsum(p * math.log(p) for p in conditional)
        assert abs(float(policy.entropy(torch.tensor(a)).detach()) - expected) < 1e-12


def test_a_rollout_equals_the_cell_written_out_with_plain_numbers():
    policy = make(sizes=(2, 3), kinds=("a", "b"), hidden=3, tanh_constant=1.5, temperature=2.0)
    cell, h, c = policy.cell.tolist(), [0.0] * 3, [0.0] * 3
    x, expected = policy.start[0].tolist(), 0.0

    def sigmoid(z):
        return 1 / (1 + math.exp(-z))

    for kind, choice in (("a", 1), ("b", 2)):
        inputs = x + h
        gates = [sum(inputs[row] * cell[row][column] for row in range(6)) for column in range(12)]
        i, f, o, g = (gates[3 * part : 3 * part + 3] for part in range(4))
        c = [sigmoid(f[k]) * c[k] + sigmoid(i[k]) * math.tanh(g[k]) for k in range(3)]
        h = [sigmoid(o[k]) * math.tanh(c[k]) for k in range(3)]
        rows = policy.output[kind].weight.tolist()
        logits = [1.5 * math.tanh(sum(w * v for w, v in zip(row, h, strict=True)) / 2.0) for row in rows]
        expected += logits[choice] - math.log(math.fsum(map(math.exp, logits)))
        x = policy.embedding[kind].weight[choice].tolist()
    assert abs(float(policy.log_prob(torch.tensor([1, 2])).detach()) - expected) < 1e-12


def test_later_decisions_depend_on_earlier_ones():
    policy = make(sizes=(2, 2), kinds=("op", "op"))
    p = [[probability(policy, [i, j]) for j in range(2)] for i in range(2)]
    assert abs(p[0][0] / (p[0][0] + p[0][1]) - p[1][0] / (p[1][0] + p[1][1])) > 1e-3


def test_sampling_frequencies_follow_the_probabilities():
    policy = make(sizes=(3, 2), kinds=("op", "inputs"))
    stream, draws = generator(), 2000
    counts = {tuple(a.tolist()): 0 for a in architectures((3, 2))}
    with torch.no_grad():
        for _ in range(draws):
            counts[tuple(policy.sample(stream).decisions.tolist())] += 1
        for a, count in counts.items():
            p = probability(policy, a)
            assert abs(count - draws * p) <= 5 * (draws * p * (1 - p)) ** 0.5


def test_sampling_uses_the_given_generator_and_nothing_else():
    policy, state = make(), torch.get_rng_state()
    torch.manual_seed(1)
    first = [policy.sample(stream).decisions for stream in [generator(3)] for _ in range(10)]
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = [policy.sample(stream).decisions for stream in [generator(3)] for _ in range(10)]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert len({tuple(a.tolist()) for a in first}) > 1
    assert torch.equal(torch.get_rng_state(), before)
    torch.set_rng_state(state)


def test_greedy_takes_the_likeliest_choice_given_the_choices_before():
    policy = make()
    taken = policy.greedy()
    for step, size in enumerate(SIZES):
        prefix = taken[:step].tolist()
        masses = []
        for choice in range(size):
            tails = itertools.product(*(range(s) for s in SIZES[step + 1 :]))
            masses.append(math.fsum(probability(policy, [*prefix, choice, *t]) for t in tails))
        assert masses[taken[step]] == max(masses)


def test_choices_that_a_decision_lacks_are_never_sampled_and_get_no_gradient():
    policy = make(sizes=(2, 2), kinds=("op", "op"))
    wide = make(sizes=(2, 5), kinds=("op", "op"))
    assert wide.output["op"].weight.shape == (5, 5)
    padded = LSTMController((2, 2, 5), ("op", "op", "op"), hidden=5).double()
    stream = generator()
    with torch.no_grad():
        padded.output["op"].weight[2:].fill_(100.0)
        for _ in range(200):
            drawn = padded.sample(stream).decisions
            assert (drawn < torch.tensor([2, 2, 5])).all()
    short = LSTMController((2, 5), ("op", "op"), hidden=5).double()
    loss = short.log_prob(torch.tensor([1, 4])) - short.log_prob(torch.tensor([0, 4]))
    (gradient,) = torch.autograd.grad(loss, short.embedding["op"].weight)
    assert gradient[:2].any()
    assert not gradient[2:].any()
    assert abs(sum(probability(policy, a) for a in architectures((2, 2))) - 1) < 1e-12


def test_a_decision_with_one_choice_has_probability_one_and_no_entropy():
    policy = make(sizes=(1, 1), kinds=("inputs", "op"))
    rollout = policy.sample(generator())
    assert rollout.decisions.tolist() == [0, 0]
    assert (rollout.log_prob.item(), rollout.entropy.item()) == (0.0, 0.0)


def test_embedding_rows_of_choices_not_taken_get_exactly_zero_gradient():
    policy = make(sizes=(4, 4, 4), kinds=("op", "op", "op"))
    (gradient,) = torch.autograd.grad(policy.log_prob(torch.tensor([1, 3, 0])), policy.embedding["op"].weight)
    # The last choice is not fed back, so it counts as not taken.
    assert [bool(row.any()) for row in gradient] == [False, True, False, True]


def test_every_other_parameter_gets_a_gradient():
    policy = make()
    gradients = torch.autograd.grad(policy.log_prob(torch.tensor([2, 1, 0, 0, 1])), list(policy.parameters()))
    assert all(gradient.any() for gradient in gradients)


def test_the_initial_policy_is_nearly_uniform():
    policy = make(sizes=(7,) * 6, kinds=("op",) * 6, spread=0.0, hidden=64)
    rollout = policy.sample(generator())
    assert abs(float(rollout.entropy.detach()) / policy.max_entropy() - 1) < 1e-3
    assert abs(float(rollout.log_prob.detach()) + policy.max_entropy()) < 0.3
    assert all(parameter.abs().max() <= 0.1 for parameter in policy.parameters())


def test_max_entropy_is_the_logarithm_of_the_number_of_architectures():
    assert make().max_entropy() == pytest.approx(math.log(3 * 2 * 3 * 1 * 2), abs=1e-12)


def test_p_max_is_the_product_of_the_largest_probabilities_per_decision():
    up, down = math.exp(1.5), math.exp(-1.5)
    expected = up / (up + 2 * down) * up / (up + down)
    assert make(sizes=(3, 2), kinds=("a", "b"), tanh_constant=1.5).p_max() == pytest.approx(expected, rel=1e-12)
    assert make(sizes=(4,), kinds=("a",), tanh_constant=1.5).p_max() == pytest.approx(0.870, abs=1e-3)
    assert make(tanh_constant=None).p_max() == 1.0
    assert make(tanh_constant=1000.0).p_max() == 1.0


def test_p_max_is_never_exceeded_and_is_approached():
    for spread in (1.0, 30.0):
        policy = make(sizes=(3, 2), kinds=("a", "b"), tanh_constant=1.0, spread=spread)
        assert max(probability(policy, a) for a in architectures((3, 2))) <= policy.p_max() + 1e-12
    policy = make(sizes=(3,), kinds=("a",), tanh_constant=1.0)
    with torch.no_grad():
        policy.cell.fill_(1.0)
        policy.start.fill_(1.0)
        policy.output["a"].weight.copy_(torch.tensor([[50.0], [-50.0], [-50.0]]).expand(3, 5))
    assert probability(policy, [0]) == pytest.approx(policy.p_max(), rel=1e-9)


def test_functional_call_with_other_parameters_is_the_policy_that_has_them():
    policy, other = make(), make(spread=0.5)
    a = torch.tensor([1, 0, 2, 0, 1])
    rollout = functional_call(policy, dict(other.named_parameters()), (a,))
    assert torch.equal(rollout.log_prob, other.log_prob(a))
    sampled = functional_call(policy, dict(other.named_parameters()), (), {"generator": generator(5)})
    assert torch.equal(sampled.decisions, other.sample(generator(5)).decisions)
    assert torch.equal(functional_call(policy, dict(other.named_parameters()), (), {"greedy": True})[0], other.greedy())


@pytest.mark.parametrize("flags", [{}, {"tanh_constant": None, "temperature": 2.0}])
def test_first_and_second_derivatives_agree_with_finite_differences(flags):
    policy = make(sizes=(3, 2, 3), kinds=("op", "inputs", "op"), hidden=2, spread=0.5, **flags)
    names = [name for name, _ in policy.named_parameters()]
    values = tuple(parameter.detach().clone().requires_grad_() for parameter in policy.parameters())

    def both(*values):
        rollout = functional_call(policy, dict(zip(names, values, strict=True)), (torch.tensor([2, 0, 1]),))
        return rollout.log_prob, rollout.entropy

    assert torch.autograd.gradcheck(both, values)
    assert torch.autograd.gradgradcheck(both, values)


def test_a_policy_gradient_step_can_be_differentiated_through_by_autograd_and_by_func():
    policy, a, b = make(spread=0.5), torch.tensor([1, 0, 2, 0, 1]), torch.tensor([2, 1, 0, 0, 0])
    params = {name: parameter.detach() for name, parameter in policy.named_parameters()}

    def log_prob(params, decisions):
        return functional_call(policy, params, (decisions,)).log_prob

    def outer(params):
        inner = grad(log_prob)(params, a)
        return log_prob({name: p + 0.3 * inner[name] for name, p in params.items()}, b)

    by_func = grad(outer)(params)
    leaves = {name: p.clone().requires_grad_() for name, p in params.items()}
    inner = torch.autograd.grad(log_prob(leaves, a), list(leaves.values()), create_graph=True)
    stepped = {name: p + 0.3 * g for (name, p), g in zip(leaves.items(), inner, strict=True)}
    by_autograd = torch.autograd.grad(log_prob(stepped, b), list(leaves.values()))
    for name, expected in zip(leaves, by_autograd, strict=True):
        assert torch.allclose(by_func[name], expected, atol=1e-12)
    along = {name: torch.ones_like(p) for name, p in params.items()}
    _, slope = jvp(outer, (params,), (along,))
    assert torch.allclose(slope, sum(g.sum() for g in by_autograd), atol=1e-10)


def test_sampling_inside_a_func_transform_draws_the_same_architecture():
    policy = make()
    params = {name: parameter.detach() for name, parameter in policy.named_parameters()}

    def surrogate(params):
        rollout = functional_call(policy, params, (), {"generator": generator(9)})
        return rollout.log_prob, rollout.decisions

    gradient, decisions = grad(surrogate, has_aux=True)(params)
    assert torch.equal(decisions, policy.sample(generator(9)).decisions)
    expected = torch.autograd.grad(policy.log_prob(decisions), list(policy.parameters()))
    assert all(torch.allclose(gradient[n], e, atol=1e-12) for n, e in zip(gradient, expected, strict=True))


@pytest.mark.parametrize("how", [{}, {"decisions": torch.zeros(5, dtype=torch.int64), "greedy": True}])
def test_exactly_one_way_of_deciding_must_be_given(how):
    with pytest.raises(ValueError, match="exactly one of decisions, generator and greedy"):
        make()(**how)


@pytest.mark.parametrize(
    ("decisions", "named"),
    [
        (torch.zeros(4, dtype=torch.int64), r"int64 \[5\], got torch.int64 \[4\]"),
        (torch.zeros(5), r"got torch.float32 \[5\]"),
        (torch.tensor([0, 2, 0, 0, 0]), r"decision 1 is 2, it must lie in 0..1"),
        (torch.tensor([-1, 0, 0, 0, 0]), r"decision 0 is -1"),
    ],
)
def test_impossible_decisions_are_refused(decisions, named):
    with pytest.raises(ValueError, match=named):
        make().log_prob(decisions)


@pytest.mark.parametrize(
    ("flag", "value"), [("hidden", 0), ("tanh_constant", 0.0), ("tanh_constant", math.nan), ("temperature", -1.0)]
)
def test_flags_that_are_not_positive_are_refused(flag, value):
    with pytest.raises(InputError, match=f"{flag}={value}"):
        make(**{flag: value})


def test_sizes_and_kinds_must_match():
    with pytest.raises(ValueError, match="2 decision sizes and 1 kinds"):
        LSTMController((2, 2), ("op",))


def test_the_table_lists_it():
    assert CONTROLLERS["LSTM"] is LSTMController
