"""Which children train the shared weights when no policy chooses them."""

from collections.abc import Sequence

import torch

from few_shot_nas.search.derivation import Decisions
from few_shot_nas.spaces.limits import Limits
from few_shot_nas.spaces.space import Decision


def fair_paths(decisions: Sequence[Decision], generator: torch.Generator) -> list[Decisions]:
    """Draw a group of architectures in which every choice of a decision occurs equally often.

    Strict fairness (Chu et al. 2019, arXiv:1907.01845). There are as many architectures as the widest decision has
    choices, and each decision goes through a random permutation of its choices. A narrower decision starts its
    permutation again. Where the numbers do not divide, the first choices of a permutation occur once more than others.

    Args:
        decisions: the decisions of a space.
        generator: the only source of randomness.
    """
    count = max(len(decision.choices) for decision in decisions)
    orders = [torch.randperm(len(decision.choices), generator=generator).tolist() for decision in decisions]
    return [tuple(order[place % len(order)] for order in orders) for place in range(count)]


def uniform_paths(limits: Limits, generator: torch.Generator, *, fair: bool) -> list[Decisions]:
    """Draw the children of one step: a uniform architecture (Guo et al. 2020, arXiv:1904.00420) or a fair group.

    Args:
        limits: of a space; a fair group keeps no limits, because every choice has its turn in it.
        generator: the only source of randomness.
        fair: whether a group is drawn.
    """
    space = limits.space
    return fair_paths(space.decisions, generator) if fair else [limits.sample(lambda: space.sample(generator))]
