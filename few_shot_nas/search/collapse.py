"""Notice a search that has collapsed: to ops without weights, or to a policy that no longer explores."""

from collections.abc import Sequence

from few_shot_nas.spaces.space import SearchSpace

#: Columns of metrics.csv that the alarm is judged by, one row per validation.
WEIGHTLESS = "controller/weightless_fraction"
GREEDY_ENTROPY = "controller/greedy_entropy_fraction"
MAX_WEIGHTLESS = 0.7
MIN_ENTROPY_FRACTION = 0.1
#: A policy that has at least this share of the uniform policy's entropy has not learned: its greedy path is arbitrary.
LEFT_UNIFORM = 0.95
#: A difference of two alphas at which the softmax gives the smaller one no weight in float32, and no gradient.
FAR_APART = 100.0


def weightless_fraction(space: SearchSpace, decisions: Sequence[int]) -> float:
    """Return which part of an architecture's op decisions chose skip, pool or none.

    Decisions about inputs and ENAS' skip connections are not ops and do not count.

    Returns:
        A fraction; 0 for a space without ops.
    """
    ops = [
        str(decision.choices[choice])
        for decision, choice in zip(space.decisions, decisions, strict=True)
        if decision.kind == "op"
    ]
    weightless = sum(op == "none" or "skip" in op or "pool" in op for op in ops)
    return weightless / len(ops) if ops else 0.0


def collapse_warning(weightless: float, entropy_fraction: float, *, ending: bool = False) -> str | None:
    """Return what to tell the user, or None while all is well.

    Weight-sharing searches are known to end in architectures of skips alone, and policies to lock onto the ops that
    were trained first. Limits: more than 70 % of the greedy architecture's ops without weights; less than 10 % of the
    entropy of the uniform policy. While the policy has more than 95 % of that entropy, its greedy architecture is an
    accident of the first weights and says nothing.

    Args:
        weightless: see :func:`weightless_fraction`, of the greedy architecture.
        entropy_fraction: entropy of the policy divided by that of the uniform one.
        ending: the search ends here; that its policy has settled is then what was asked of it.
    """
    if weightless > MAX_WEIGHTLESS and entropy_fraction < LEFT_UNIFORM:
        return (
            f"the search may have collapsed: {weightless:.0%} of the greedy architecture's ops are skip, pool or none; "
            "train the shared weights longer before the controller (warm-up), or raise entropy_weight"
        )
    if entropy_fraction < MIN_ENTROPY_FRACTION and not ending:
        return (
            f"the search may have collapsed: the policy's entropy is {entropy_fraction:.1%} of its maximum, so it "
            "hardly explores any more; lower controller_lr, or raise entropy_weight"
        )
    return None
