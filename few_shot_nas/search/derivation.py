"""Derive one architecture: candidates compete by their mean reward on the same episodes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from few_shot_nas.episode import Task
from few_shot_nas.ranges import Count
from few_shot_nas.search.search_result import SearchResult
from few_shot_nas.settings import Settings
from few_shot_nas.spaces.space import SearchSpace
from few_shot_nas.stats.statistics import MeanCI, mean_ci

Decisions = tuple[int, ...]
#: (architecture, task) -> its reward there.
TaskReward = Callable[[Decisions, Task], float]


class Ranked(NamedTuple):
    """One candidate and its mean reward over the episodes, a fraction."""

    decisions: Decisions
    reward: MeanCI


Gather = Callable[[list[Ranked]], list[Ranked]]


@dataclass(frozen=True)
class Derivation(Settings):
    """How a search by rewards ends.

    Attributes:
        derive_candidates: architectures that compete at the end of the search.
        derive_episodes: validation episodes on which they compete; the derivation spends
            ``derive_candidates * derive_episodes`` reward calls.
    """

    derive_candidates: Count = 10
    derive_episodes: Count = 20


def rank(
    candidates: Sequence[Decisions],
    episodes: Sequence[Task],
    reward: TaskReward,
    *,
    place: tuple[int, int] = (0, 1),
    gather: Gather = list,
) -> list[Ranked]:
    """Score every candidate on every episode and sort, best first.

    Common episodes remove the difference between tasks from the comparison. Ties keep the order of ``candidates``.
    A reward that is not a number comes last, whatever the others are.

    Args:
        candidates: architectures as decisions; equal ones are scored once.
        episodes: tasks.
        reward: the score of one architecture on one task, higher is better.
        place: (index, number) of the processes that share the candidates; this one scores every number-th of them.
        gather: takes the entries of this process and returns the entries of all processes.

    Returns:
        One entry per distinct candidate, in every process; ``len(result) * len(episodes)`` reward calls were spent.

    Raises:
        ValueError: if there is no candidate or no episode.
    """
    if not candidates or not episodes:
        raise ValueError(f"rank() needs candidates and episodes, got {len(candidates)} and {len(episodes)}")
    distinct = list(dict.fromkeys(candidates))
    index, processes = place
    scored = [
        Ranked(decisions, mean_ci([reward(decisions, episode) for episode in episodes]))
        for decisions in distinct[index::processes]
    ]
    order = {decisions: position for position, decisions in enumerate(distinct)}

    def place_of(ranked: Ranked) -> tuple[bool, float, int]:
        mean = ranked.reward.mean
        return (not math.isfinite(mean), -mean if math.isfinite(mean) else 0.0, order[ranked.decisions])

    return sorted(gather(scored), key=place_of)


def derive(space: SearchSpace, ranking: Sequence[Ranked], *, spent: int) -> SearchResult:
    """Return the winner of a ranking, and the reward calls of its search and of the ranking.

    Its facts name the ``candidates``, best first: decisions, mean reward and half-width of its 95 % t-interval, None
    for what is no number.

    Args:
        space: the space of the candidates.
        ranking: what :func:`rank` returned.
        spent: reward calls of the search before the derivation.
    """
    calls = sum(ranked.reward.n for ranked in ranking)
    cost = {"reward_calls": spent + calls, "reward_calls_search": spent, "reward_calls_derive": calls}
    candidates = [
        {
            "decisions": list(ranked.decisions),
            "reward": ranked.reward.mean if math.isfinite(ranked.reward.mean) else None,
            "ci95": ranked.reward.ci95 if math.isfinite(ranked.reward.ci95) else None,
        }
        for ranked in ranking
    ]
    return SearchResult(space.decode(ranking[0].decisions), cost, {"candidates": candidates})
