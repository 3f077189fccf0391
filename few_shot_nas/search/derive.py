"""Pick one architecture from candidates by their mean reward on the same episodes."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from few_shot_nas.episode import Episode
from few_shot_nas.stats.statistics import MeanCI, mean_ci

Decisions = tuple[int, ...]
Reward = Callable[[Decisions, Episode], float]


class Ranked(NamedTuple):
    """One candidate and its mean reward over the episodes, a fraction."""

    decisions: Decisions
    reward: MeanCI


def rank(candidates: Sequence[Decisions], episodes: Sequence[Episode], reward: Reward) -> list[Ranked]:
    """Score every candidate on every episode and sort, best first.

    Common episodes remove the difference between tasks from the comparison. Ties keep the order of ``candidates``.

    Args:
        candidates: architectures as decisions; equal ones are scored once.
        episodes: single tasks, without the meta-batch axis.
        reward: the score of one architecture on one task, higher is better.

    Returns:
        One entry per distinct candidate; ``len(result) * len(episodes)`` reward calls were spent.

    Raises:
        ValueError: if there is no candidate or no episode.
    """
    if not candidates or not episodes:
        raise ValueError(f"rank() needs candidates and episodes, got {len(candidates)} and {len(episodes)}")
    scored = [
        Ranked(decisions, mean_ci([reward(decisions, episode) for episode in episodes]))
        for decisions in dict.fromkeys(candidates)
    ]
    return sorted(scored, key=lambda ranked: -ranked.reward.mean)
