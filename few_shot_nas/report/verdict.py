"""What a search learned, in one plain sentence, from numbers that mean little by themselves."""

import math
from collections.abc import Sequence

import numpy as np

from few_shot_nas.report.run import Run
from few_shot_nas.search.collapse import FAR_APART, LEFT_UNIFORM

#: Below this share of the uniform entropy a search prefers some architectures clearly.
DECIDED = 0.5
#: An entropy that has fallen by less than this share since the start has not moved.
MOVED = 0.02
#: Below this divergence in nats, over all decisions together, a task does not move the policy.
MOVES_POLICY = 1e-3


def last_tenth(values: Sequence[float] | np.ndarray) -> float:
    """Return the mean of the last tenth of a series, at least of its last value.

    >>> last_tenth([1.0, 0.5])
    0.5
    """
    return float(np.mean(values[-max(1, len(values) // 10) :]))


def entropy_verdict(who: str, fractions: Sequence[float] | np.ndarray) -> str:
    """Say what an entropy over time means.

    Thresholds: a search that ends at LEFT_UNIFORM (95 %) of the uniform entropy or above, or whose entropy has fallen
    by less than MOVED (2 points), has learned nothing to speak of; one that ends below DECIDED (50 %) prefers some
    architectures clearly. Without two values there is nothing to say about a fall.

    Args:
        who: subject of the sentence.
        fractions: entropy over that of uniform choices, from the first row to the last; at least one.

    >>> entropy_verdict("The controller", [1.0, 0.999])
    'The controller learned nothing: it ends at 99.9 % of the entropy of uniform choices.'
    """
    first, last = float(fractions[0]), last_tenth(fractions)
    now = f"{100 * last:.1f} % of the entropy of uniform choices"
    if not math.isfinite(last):
        return f"{who} is broken: its entropy is no number."
    if last >= LEFT_UNIFORM:
        return f"{who} learned nothing: it ends at {now}."
    if first - last < MOVED and len(fractions) > 1:
        return f"{who} learned nothing: it began at {100 * first:.1f} % and ends at {now}."
    fell = f"from {100 * first:.1f} to {now}"
    if last < DECIDED:
        return f"{who} learned to prefer some architectures clearly: {fell}."
    return f"{who} learned a little and is still undecided: {fell}."


def adaptation_verdict(divergences: Sequence[float] | np.ndarray) -> str:
    """Say whether a task moves the policy; if it never does by MOVES_POLICY (0.001 nats), the inner step does nothing.

    A policy that has decided can hardly be moved any more, so both the most that it was moved by and the end are named.

    Args:
        divergences: KL of the adapted policy from the meta-learned one over time, in nats; at least one.

    >>> adaptation_verdict([1e-5])
    'The inner step does nothing: a task moves the policy by 1e-05 nats.'
    """
    last = last_tenth(divergences)
    largest = float(np.max(divergences))
    if largest < MOVES_POLICY:
        return f"The inner step does nothing: a task moves the policy by {last:.2g} nats."
    return f"The inner step adapts the policy: a task moves it by up to {largest:.2g} nats, by {last:.2g} at the end."


def far_apart_verdict(learned: Sequence[float] | np.ndarray, adapted: Sequence[float] | np.ndarray) -> str | None:
    """Say that alphas are so far apart that their softmax is a single op; None where they are not.

    Args:
        learned: largest difference of the alphas of an edge over time.
        adapted: the same after the inner loop on a task, the mean over tasks; empty where alphas are not adapted.

    >>> far_apart_verdict([0.1, 0.2], [0.3, 2e5])
    'A task drives the alphas apart by 2e+05: it keeps one op of every edge and learns nothing of others.'
    """
    if len(adapted) and last_tenth(adapted) > FAR_APART:
        apart = f"{last_tenth(adapted):.2g}"
        return f"A task drives the alphas apart by {apart}: it keeps one op of every edge and learns nothing of others."
    if len(learned) and last_tenth(learned) > FAR_APART:
        return f"The alphas have diverged: they are {last_tenth(learned):.2g} apart, and learn nothing any more."
    return None


def verdicts(run: Run) -> list[str]:
    """Return what is to be said of a run's controller or alphas; empty for a run without either."""
    said = []
    for who, column in (
        ("The controller", "controller/entropy_fraction"),
        ("The gradient on the alphas", "alphas/entropy_fraction"),
    ):
        _, fractions = run.series(column)
        if fractions.size:
            said.append(entropy_verdict(who, fractions))
    far = far_apart_verdict(run.series("alphas/spread")[1], run.series("alphas/adapted_spread")[1])
    if far is not None:
        said.append(far)
    _, divergences = run.series("controller/kl_adapt")
    if divergences.size:
        said.append(adaptation_verdict(divergences))
    return said
