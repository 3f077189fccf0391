"""Expectations by enumeration, for the tests of the estimators and the table in docs/estimators.md.

``python -m tests.meta.exact`` prints the table.
"""

import itertools

import torch
from torch.func import functional_call

from few_shot_nas.controllers.lstm import LSTMController
from few_shot_nas.meta.estimators import ESTIMATORS, Estimator, dice
from few_shot_nas.meta.functional import trainable
from few_shot_nas.meta.policy_gradient import leave_one_out

ARCHS = list(itertools.product(range(3), repeat=2))
SEED = 0
#: Random problems that the table averages over.
PROBLEMS = 5


def factorised(params, architectures):
    """Independent softmax per decision: params["logits"] is ``[decisions, ops]``."""
    log_p = params["logits"].log_softmax(1)
    choices = torch.as_tensor(architectures)
    return torch.stack([log_p[step][choices[:, step]] for step in range(log_p.shape[0])], dim=1)


def autoregressive(params, architectures):
    """Two decisions, the second with its own softmax for every outcome of the first."""
    choices = torch.as_tensor(architectures)
    first = params["first"].log_softmax(0)[choices[:, 0]]
    second = params["second"].log_softmax(1)[choices[:, 0], choices[:, 1]]
    return torch.stack([first, second], dim=1)


def random_params(seed=SEED, conditional=False, decisions=2):
    stream = torch.Generator().manual_seed(seed)
    shapes = {"first": (3,), "second": (3, 3)} if conditional else {"logits": (decisions, 3)}
    return {
        name: torch.randn(shape, generator=stream, dtype=torch.double).mul(0.5).requires_grad_()
        for name, shape in shapes.items()
    }


def random_rewards(seed=SEED, count=9):
    return torch.rand(count, generator=torch.Generator().manual_seed(100 + seed), dtype=torch.double)


def gradient(value, params):
    """The gradient with respect to all parameters as one vector."""
    parts = torch.autograd.grad(value, list(params.values()), allow_unused=True, retain_graph=True)
    return torch.cat([
        (torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(params.values(), parts, strict=True)
    ])  # fmt: skip


def no_baseline(rewards):
    return rewards


def leave_one_out_advantages(rewards):
    return rewards - leave_one_out(rewards)


def clone_by_hand(policy, params, tried, advantages, alpha):
    inner = (advantages * policy(params, tried).sum(1)).mean()
    grads = torch.autograd.grad(inner, list(params.values()), create_graph=True)
    return {name: p + alpha * g for (name, p), g in zip(params.items(), grads, strict=True)}


def objective(policy, params, rewards, outer_rewards, alpha, count=1, advantages=no_baseline):
    """J_I as one differentiable expression: sum over all count-tuples of their probability times V(theta')."""
    log_p = policy(params, ARCHS).sum(1)
    total = 0.0
    for tried in itertools.product(range(len(ARCHS)), repeat=count):
        index = list(tried)
        clone = clone_by_hand(policy, params, [ARCHS[i] for i in index], advantages(rewards[index]), alpha)
        value = (policy(clone, ARCHS).sum(1).exp() * outer_rewards).sum()
        total = total + log_p[index].sum().exp() * value
    return total


def objective_ii(policy, params, rewards, outer_rewards, alpha):
    """J_II: V at theta plus alpha times the exact gradient of the expected inner reward."""
    expected = (policy(params, ARCHS).sum(1).exp() * rewards).sum()
    grads = torch.autograd.grad(expected, list(params.values()), create_graph=True)
    clone = {name: p + alpha * g for (name, p), g in zip(params.items(), grads, strict=True)}
    return (policy(clone, ARCHS).sum(1).exp() * outer_rewards).sum()


def outcomes(estimator, policy, params, rewards, outer_rewards, alpha, count=1, advantages=no_baseline,
             outer_baseline=None, tried_baseline=None, outer_count=1):  # fmt: skip
    """Yield (probability, surrogate loss) of everything that can be drawn.

    Baselines are functions: of (inner rewards, outer rewards) for the outer samples, of the inner ones for the others.
    """
    for tried in itertools.product(range(len(ARCHS)), repeat=count):
        index = list(tried)
        inner = [ARCHS[i] for i in index]
        clone = estimator.adapt(policy, params, inner, advantages(rewards[index]), lr=alpha)
        own, after = policy(params, inner), policy(clone, ARCHS)
        tried_value = 0.0 if tried_baseline is None else tried_baseline(rewards[index])
        for chosen in itertools.product(range(len(ARCHS)), repeat=outer_count):
            picked = list(chosen)
            value = 0.0 if outer_baseline is None else outer_baseline(rewards[index], outer_rewards[picked])
            loss = estimator.loss(after[picked], outer_rewards[picked], value, own, tried_value)
            yield float((own.sum() + after[picked].sum()).detach().exp()), loss


def expected_gradient(*args, **kwargs):
    """Expectation of the estimate: minus the gradient of the surrogate, averaged over all outcomes."""
    params = args[2]
    return -gradient(sum(p * loss for p, loss in outcomes(*args, **kwargs)), params)


def signal_to_noise(*args, **kwargs):
    """``|E g|^2 / tr Var g`` of one task's estimate."""
    params = args[2]
    total, square = 0.0, 0.0
    for p, loss in outcomes(*args, **kwargs):
        parts = torch.autograd.grad(loss, list(params.values()), retain_graph=True)
        g = torch.cat([part.flatten() for part in parts])
        total, square = total + p * g, square + p * float(g @ g)
    signal = float(total @ total)
    return signal / (square - signal)


def relative_error(estimate, exact):
    return float((estimate - exact).norm() / exact.norm())


class DoubleCounted(Estimator):
    """What Estimator refuses: DiCE in the inner step and the score correction."""

    def __post_init__(self):
        pass


TABLE = {**ESTIMATORS, "dice_inner + correction (refused)": DoubleCounted("J_I", dice, correction="score")}
del TABLE["loaded_dice"]  # the same as dice_inner at lambda 1 and as lvc at lambda 0


def errors(seed):
    """Relative errors of one random problem: estimator -> (no inner baseline, exact baseline, the same at alpha 4)."""
    params, rewards = random_params(seed), random_rewards(seed)
    mean = float((factorised(params, ARCHS).sum(1).exp() * rewards).sum().detach())
    columns = []
    for alpha, b in ((1.0, 0.0), (1.0, mean), (4.0, mean)):

        def centred(r, b=b):
            return r - b

        exact = gradient(objective(factorised, params, rewards, rewards, alpha, advantages=centred), params)
        columns.append([
            relative_error(
                expected_gradient(estimator, factorised, params, rewards, rewards, alpha, advantages=centred), exact
            )
            for estimator in TABLE.values()
        ])  # fmt: skip
    return dict(zip(TABLE, zip(*columns, strict=True), strict=True))


def error_table(problems=PROBLEMS):
    """Mean relative errors over the random problems 0 .. problems - 1."""
    every = [errors(seed) for seed in range(problems)]
    return {name: [sum(e[name][i] for e in every) / problems for i in range(3)] for name in TABLE}


def noise_table():
    """Signal-to-noise of one task's estimate on problem 0, alpha = 1: (what) -> number."""
    params, rewards = random_params(), random_rewards()
    mean = float((factorised(params, ARCHS).sum(1).exp() * rewards).sum().detach())

    def snr(name, **options):
        return signal_to_noise(ESTIMATORS[name], factorised, params, rewards, rewards, 1.0, **options)

    def constant(inner, outer):
        return mean

    one = {"advantages": lambda r: r - mean, "tried_baseline": lambda r: mean}
    two = {
        "count": 2, "advantages": leave_one_out_advantages, "tried_baseline": leave_one_out,
        "outer_baseline": lambda inner, outer: inner.mean(),
    }  # fmt: skip
    return {
        "fomaml, K = 1, no outer baseline": snr("fomaml", **one),
        "fomaml, K = 1, exact outer baseline": snr("fomaml", outer_baseline=constant, **one),
        "naive, K = 1, exact outer baseline": snr("naive", outer_baseline=constant, **one),
        "emaml, K = 1, exact baselines": snr("emaml", outer_baseline=constant, **one),
        "fomaml = naive, K = 2, LOO inside, per task outside": snr("fomaml", **two),
        "emaml = fo_emaml, K = 2, LOO inside, per task outside": snr("emaml", **two),
    }


def lstm_table():
    """Relative errors at alpha 1, 10 and 30, and signal-to-noise at 10, of a fresh LSTMController of 64 units; K = 1.

    Rewards of problem 0, exact baselines everywhere.
    """
    torch.manual_seed(SEED)
    net = LSTMController((3, 3), ("op", "op")).double()

    def policy(params, architectures):
        return torch.stack([functional_call(net, params, (torch.tensor(a),)).log_probs for a in architectures])

    params, rewards = trainable(net), random_rewards()
    mean = float((policy(params, ARCHS).sum(1).exp() * rewards).sum().detach())
    options = {
        "advantages": lambda r: r - mean, "outer_baseline": lambda inner, outer: mean,
        "tried_baseline": lambda r: mean,
    }  # fmt: skip
    rows = {f"LSTM, {name}": [] for name in ("fomaml", "naive", "emaml")}
    for alpha in (1.0, 10.0, 30.0):
        exact = gradient(
            objective(policy, params, rewards, rewards, alpha, advantages=options["advantages"]), params
        )
        for name, row in rows.items():
            estimate = expected_gradient(ESTIMATORS[name[6:]], policy, params, rewards, rewards, alpha, **options)
            row.append(relative_error(estimate, exact))
    for name, row in rows.items():
        row.append(signal_to_noise(ESTIMATORS[name[6:]], policy, params, rewards, rewards, 10.0, **options))
    return rows


if __name__ == "__main__":
    for estimator_name, row in error_table().items():
        print("| {} | {:.2g} | {:.2g} | {:.2g} |".format(estimator_name, *row))
    for setting, value in noise_table().items():
        print(f"| {setting} | {value:.3f} |")
    for estimator_name, row in lstm_table().items():
        print("| {} | {:.2g} | {:.2g} | {:.2g} | {:.3f} |".format(estimator_name, *row))
