"""The published controller: parameter counts, entropies, and its wiring written out with plain loops."""

import itertools
import math

import pytest
import torch
from torch.func import functional_call, grad

from few_shot_nas.controllers import CONTROLLERS
from few_shot_nas.controllers.enas import ENASController
from few_shot_nas.errors import InputError
from few_shot_nas.meta.skip_prior import skip_prior_kl
from few_shot_nas.spaces import SPACES
from few_shot_nas.spaces.enas_macro import EnasMacro
from few_shot_nas.spaces.enas_micro import EnasMicro


def policy_of(space, **flags):
    torch.manual_seed(0)
    decisions = space.decisions
    return ENASController([len(d.choices) for d in decisions], [d.kind for d in decisions], **flags)


def spread(policy, size=0.7):
    stream = torch.Generator().manual_seed(7)
    policy = policy.double()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=stream, dtype=torch.double) * size)
    return policy


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


PUBLISHED = [
    (EnasMacro(cells=12), {}, 41_856, 78, 12 * math.log(6) + 66 * math.log(2), 67.2),
    (EnasMicro(nodes=5), {"tanh_constant": 1.1, "op_tanh_reduce": 2.5}, 41_733, 40,
     2 * sum(2 * (math.log(i) + math.log(5)) for i in range(2, 7)), 58.5),
]  # fmt: skip


@pytest.mark.parametrize(("space", "flags", "parameters", "length", "nats", "rounded"), PUBLISHED)
def test_parameters_decisions_and_initial_entropy_are_those_published(space, flags, parameters, length, nats, rounded):
    policy = policy_of(space, **flags)
    assert sum(p.numel() for p in policy.parameters()) == parameters
    assert len(policy.kinds) == length
    assert policy.max_entropy() == pytest.approx(nats) and abs(nats - rounded) < 0.05
    rollout = policy.sample(stream())
    assert float(rollout.entropy.detach()) == pytest.approx(nats, abs=1e-2)
    # KL to uniform of each distribution on the way = log n - entropy; also of the whole, summed.
    gaps = torch.tensor([math.log(n) for n in policy.decision_sizes]) - rollout.entropies.detach()
    assert float(gaps.max()) < 1e-3 and float(gaps.sum()) < 1e-2


def test_p_max_is_the_product_of_what_the_bounds_allow():
    """0.801 per op and 0.953 per skip (macro); 0.376 per op (micro), which therefore cannot leave uniform sampling."""
    op, skip, micro = (1 / (1 + (n - 1) * math.exp(-2 * c)) for n, c in ((6, 1.5), (2, 1.5), (5, 0.44)))
    assert (round(op, 3), round(skip, 3), round(micro, 3)) == (0.801, 0.953, 0.376)
    assert policy_of(EnasMacro(cells=12)).p_max() == pytest.approx(op**12 * skip**66)
    index = math.prod((1 / (1 + (n - 1) * math.exp(-2.2))) ** 4 for n in range(2, 7))
    assert policy_of(EnasMicro(nodes=5), **PUBLISHED[1][1]).p_max() == pytest.approx(micro**20 * index)


def test_no_architecture_is_likelier_than_p_max():
    policy = spread(policy_of(EnasMicro(nodes=1, cells=1), **PUBLISHED[1][1]), 20.0)
    p = [float(policy.log_prob(torch.tensor(a)).detach().exp()) for a in itertools.product(*map(range, (2, 2, 5, 5)))]
    assert max(p) <= policy.p_max() + 1e-12 and sum(p) == pytest.approx(1, abs=1e-12)


class Plain:
    """The LSTM and the attention with nothing but matrices."""

    def __init__(self, policy, c, reduce=1.0, heat=1.0):
        self.p, self.c, self.reduce, self.heat = policy, c, reduce, heat
        self.h = self.m = torch.zeros(policy.hidden, dtype=torch.double)
        self.total = 0.0

    def step(self, x):
        n = self.p.hidden
        z = torch.cat([x, self.h]) @ self.p.cell
        self.m = z[n : 2 * n].sigmoid() * self.m + z[:n].sigmoid() * z[3 * n :].tanh()
        self.h = z[2 * n : 3 * n].sigmoid() * self.m.tanh()

    def choose(self, logits, choice, c):
        self.total = self.total + (c * (logits / self.heat).tanh()).log_softmax(0)[choice]

    def op(self, choice):
        logits = self.p.output["op"].weight @ self.h
        if "op" in self.p.bias:
            logits = logits + self.p.bias["op"]
        self.choose(logits, choice, self.c / self.reduce)

    def attend(self, keys):
        return torch.stack([(key + self.h @ self.p.query).tanh() @ self.p.score[:, 0] for key in keys])


def test_the_macro_walk_equals_a_plain_loop():
    policy = spread(policy_of(EnasMacro(cells=4), hidden=5, temperature=2.0))
    ops, skips = (3, 0, 5, 1), ((), (1,), (0, 0), (1, 0, 1))
    plain, start = Plain(policy, 1.5, heat=2.0), policy.start[0]
    x, anchors, keys = start, [], []
    for layer in range(4):
        plain.step(x)
        plain.op(ops[layer])
        plain.step(policy.embedding["op"].weight[ops[layer]])
        if layer:
            for q, skip in zip(plain.attend(keys), skips[layer], strict=True):
                plain.choose(torch.stack([-q, q]), skip, 1.5)
            chosen = [a for a, skip in zip(anchors, skips[layer], strict=True) if skip]
            x = sum(chosen, torch.zeros_like(start)) / (1 + len(chosen))
        else:
            x = start
        anchors.append(plain.h)
        keys.append(plain.h @ policy.key)
    decisions = torch.tensor([d for op, own in zip(ops, skips, strict=True) for d in (op, *own)])
    torch.testing.assert_close(policy.log_prob(decisions), plain.total, rtol=0, atol=1e-12)


def test_the_micro_walk_equals_a_plain_loop():
    policy = spread(policy_of(EnasMicro(nodes=2), hidden=5, tanh_constant=1.1, op_tanh_reduce=2.5, temperature=3.0))
    cells = (((1, 0, 4, 2), (2, 1, 0, 3)), ((0, 0, 1, 1), (2, 0, 4, 0)))
    plain, start = Plain(policy, 1.1, reduce=2.5, heat=3.0), policy.start[0]
    for cell in cells:
        anchors, keys = [], []
        for _ in range(2):
            plain.step(start)
            anchors.append(torch.zeros_like(start))
            keys.append(plain.h @ policy.key)
        x = start
        for first, second, *ops in cell:
            for index in (first, second):
                plain.step(x)
                plain.choose(plain.attend(keys), index, 1.1)
                x = anchors[index]
            for op in ops:
                plain.step(x)
                plain.op(op)
                x = policy.embedding["op"].weight[op]
            plain.step(x)
            anchors.append(plain.h)
            keys.append(plain.h @ policy.key)
            x = start
    decisions = torch.tensor([d for cell in cells for block in cell for d in block])
    torch.testing.assert_close(policy.log_prob(decisions), plain.total, rtol=0, atol=1e-12)


@pytest.mark.parametrize("space", [EnasMacro(cells=3), EnasMicro(cells=1, nodes=1)])
def test_probabilities_sum_to_one_and_samples_replay(space):
    policy = spread(policy_of(space, hidden=4))
    total = sum(float(policy.log_prob(torch.tensor(a)).detach().exp()) for a in space.enumerate())
    assert total == pytest.approx(1, abs=1e-10)
    for seed in range(5):
        rollout = policy.sample(stream(seed))
        again = policy(rollout.decisions)
        assert all(torch.equal(one, other) for one, other in zip(rollout, again, strict=True))


@pytest.mark.parametrize("space", [EnasMacro(cells=3), EnasMicro(nodes=2)])
def test_a_policy_step_can_be_differentiated_through_and_reaches_every_parameter(space):
    policy = spread(policy_of(space, hidden=4, op_tanh_reduce=1.5))
    a, b = policy.sample(stream(0)).decisions, policy.sample(stream(1)).decisions
    params = dict(policy.named_parameters())

    def log_prob(params, decisions):
        return functional_call(policy, params, (decisions,)).log_prob

    def outer(params):
        inner = grad(log_prob)(params, a)
        return log_prob({key: p + 0.3 * inner[key] for key, p in params.items()}, b)

    by_func = grad(outer)({key: p.detach() for key, p in params.items()})
    along = {key: torch.randn(p.shape, generator=stream(2), dtype=p.dtype) for key, p in params.items()}
    plus, minus = ({key: p.detach() + sign * 1e-5 * along[key] for key, p in params.items()} for sign in (1, -1))
    slope = float((outer(plus) - outer(minus)).detach()) / 2e-5
    assert slope == pytest.approx(float(sum((by_func[key] * along[key]).sum() for key in along)), abs=1e-7)
    assert all(value.any() for value in by_func.values())


@pytest.mark.parametrize("name", SPACES)
def test_every_space_has_a_policy_near_uniform(name):
    space = SPACES[name]()
    rollout = policy_of(space).sample(stream())
    assert space.decode(rollout.decisions.tolist())
    assert float(rollout.entropy.detach()) == pytest.approx(math.log(space.size()), rel=1e-3)


@pytest.mark.parametrize(
    ("sizes", "kinds", "named"),
    [
        ((6, 2, 2), ("op", "skip", "skip"), "decision 0 of kind op"),
        ((6, 6, 3), ("op", "op", "skip"), "decision 2 of kind skip with 3 choices"),
        ((3, 5), ("index", "op"), "decision 0 of kind index with 3 choices"),
        ((2, 5, 4, 5), ("index", "op", "index", "op"), "decision 2 of kind index with 4 choices"),
        ((2, 5, 2), ("index", "op", "skip"), "skip and index"),
    ],
)
def test_decisions_out_of_order_are_refused(sizes, kinds, named):
    with pytest.raises(InputError, match=named):
        ENASController(sizes, kinds)


def test_a_bound_that_would_grow_is_refused():
    with pytest.raises(InputError, match="op_tanh_reduce=0.5"):
        ENASController((3,), ("op",), op_tanh_reduce=0.5)


def test_the_skip_prior_is_a_sum_over_bits_and_a_mean_over_layers():
    kinds = ("op", "op", "skip", "op", "skip", "skip")
    p = torch.tensor([0.5, 0.5, 0.7, 0.5, 0.2, 0.9], dtype=torch.double)
    decisions = torch.tensor([3, 1, 1, 2, 0, 1])  # the second skip says no with probability 0.2, so yes with 0.8

    def kl(yes):
        return yes * math.log(yes / 0.4) + (1 - yes) * math.log((1 - yes) / 0.6)

    value = float(skip_prior_kl(p.log(), decisions, kinds, 0.4))
    assert value == pytest.approx((kl(0.7) + kl(0.8) + kl(0.9)) / 2, abs=1e-12)
    assert float(skip_prior_kl(p.log(), decisions, ("op",) * 6, 0.4)) == 0


def test_steps_on_the_skip_prior_alone_bring_the_skip_rate_to_its_target():
    policy = policy_of(EnasMacro(cells=4), hidden=16)
    optimizer = torch.optim.Adam(policy.parameters(), 1e-2)
    draws = stream()
    for _ in range(100):
        optimizer.zero_grad()
        rollout = policy.sample(draws)
        skip_prior_kl(rollout.log_probs, rollout.decisions, policy.kinds, 0.4).backward()
        optimizer.step()
    rollout = policy.sample(draws)
    skips = [place for place, kind in enumerate(policy.kinds) if kind == "skip"]
    p = rollout.log_probs.detach().exp()[skips]
    yes = torch.where(rollout.decisions[skips].bool(), p, 1 - p)
    assert float((yes - 0.4).abs().max()) < 0.02


def test_it_is_in_the_table():
    assert CONTROLLERS["ENAS"] is ENASController
