"""Ranking candidates by a known reward."""

import pytest
import torch

from few_shot_nas.episode import Task
from few_shot_nas.errors import InputError
from few_shot_nas.search.derivation import Derivation, derive, rank
from few_shot_nas.spaces import SPACES

EPISODES = [Task(*torch.zeros(4, 1), torch.tensor(i)) for i in range(3)]


def test_the_best_mean_comes_first_ties_keep_their_order_and_each_candidate_is_scored_once():
    calls = []

    def reward(decisions, episode):
        calls.append((decisions, int(episode.task_id)))
        return float(decisions[0] // 2) + 0.1 * int(episode.task_id)

    ranking = rank([(1,), (4,), (0,), (5,), (4,)], EPISODES, reward)
    assert [entry.decisions for entry in ranking] == [(4,), (5,), (1,), (0,)]
    assert ranking[0].reward.mean == pytest.approx(2.1) and ranking[0].reward.n == 3
    assert len(calls) == 4 * 3 == len(set(calls))


def test_processes_share_the_candidates_and_all_get_the_whole_ranking():
    candidates = [(3,), (1,), (2,), (1,), (0,), (4,)]

    def reward(decisions, episode):
        return float(decisions[0] in (2, 4)) + 0.1 * int(episode.task_id)

    scored = []
    for index in range(2):  # what each process would send
        rank(candidates, EPISODES, reward, place=(index, 2), gather=lambda mine: scored.append(mine) or mine)
    assert [[entry.decisions for entry in mine] for mine in scored] == [[(3,), (2,), (4,)], [(1,), (0,)]]
    whole = rank(candidates, EPISODES, reward)
    assert rank(candidates, EPISODES, reward, place=(1, 2), gather=lambda mine: [*scored[0], *mine]) == whole
    assert [entry.decisions for entry in whole] == [(2,), (4,), (3,), (1,), (0,)]


def test_the_winner_is_found_at_the_price_of_search_and_ranking():
    space = SPACES["chain"](channels=4, cells=1, nodes=1)
    ranking = rank([(1,), (3,)], EPISODES, lambda decisions, episode: float(decisions[0]))
    found = derive(space, ranking, spent=7)
    assert found.genotype == space.decode((3,))
    assert found.cost == {"reward_calls": 7 + 6, "reward_calls_search": 7, "reward_calls_derive": 6}
    assert [(c["decisions"], c["reward"]) for c in found.facts["candidates"]] == [([3], 3.0), ([1], 1.0)]


def test_a_derivation_without_candidates_or_episodes_is_refused():
    with pytest.raises(InputError, match="derive_candidates=0 must be at least 1"):
        Derivation(derive_candidates=0)
    with pytest.raises(InputError, match="derive_episodes=-1 must be at least 1"):
        Derivation(derive_episodes=-1)


@pytest.mark.parametrize(("candidates", "episodes"), [([], EPISODES), ([(1,)], [])])
def test_nothing_to_rank_is_an_error(candidates, episodes):
    with pytest.raises(ValueError, match=f"got {len(candidates)} and {len(episodes)}"):
        rank(candidates, episodes, lambda decisions, episode: 0.0)
