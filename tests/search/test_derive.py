"""Ranking candidates by a known reward."""

import pytest
import torch

from few_shot_nas.episode import Episode
from few_shot_nas.search.derive import rank

EPISODES = [Episode(*torch.zeros(4, 1), torch.tensor(i)) for i in range(3)]


def test_the_best_mean_comes_first_ties_keep_their_order_and_each_candidate_is_scored_once():
    calls = []

    def reward(decisions, episode):
        calls.append((decisions, int(episode.task_id)))
        return float(decisions[0] // 2) + 0.1 * int(episode.task_id)

    ranking = rank([(1,), (4,), (0,), (5,), (4,)], EPISODES, reward)
    assert [entry.decisions for entry in ranking] == [(4,), (5,), (1,), (0,)]
    assert ranking[0].reward.mean == pytest.approx(2.1) and ranking[0].reward.n == 3
    assert len(calls) == 4 * 3 == len(set(calls))


@pytest.mark.parametrize(("candidates", "episodes"), [([], EPISODES), ([(1,)], [])])
def test_nothing_to_rank_is_an_error(candidates, episodes):
    with pytest.raises(ValueError, match=f"got {len(candidates)} and {len(episodes)}"):
        rank(candidates, episodes, lambda decisions, episode: 0.0)
