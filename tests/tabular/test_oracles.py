"""Rules that choose per task, against tables whose best rule is known and against a plain loop."""

import numpy as np
import pytest

from few_shot_nas.errors import InputError
from few_shot_nas.tabular.oracles import (
    Gain,
    Rule,
    by_source,
    first_to_last,
    gain_of,
    low_rank,
    own_reward,
    per_source,
    random_halves,
    regression,
    shrunk,
)
from few_shot_nas.tabular.table_analysis import interaction_share, variance_components


def noisy(truth: np.ndarray, noise: float, seed: int, replicates: int = 2) -> np.ndarray:
    """Return replicates ``[A, T, R]`` of true scores ``[A, T]``, with a draw that all architectures share."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(1, truth.shape[1], replicates))
    return truth[:, :, None] + shared + noise * rng.normal(size=(*truth.shape, replicates))


def test_the_best_architecture_of_each_source_gains_what_was_put_there() -> None:
    source = np.random.default_rng(0).integers(3, size=900)
    truth = np.zeros((12, 900))
    for s, architecture in enumerate((2, 5, 7)):
        truth[architecture, source == s] = 0.3
    gain = cross_fitted(noisy(truth, 0.1, 1), per_source(noisy(truth, 0.1, 1), source))
    # Whichever of the three is fixed is right for a third of the tasks.
    expected = 0.3 * (1 - max(np.bincount(source)) / 900)
    assert gain.mean.mean == pytest.approx(expected, abs=0.01)
    parts = by_source(gain, source)
    assert sorted(part.mean for part in parts.values())[1:] == pytest.approx([0.3, 0.3], abs=0.05)
    assert sum(part.n for part in parts.values()) == 900


def test_no_rule_gains_where_tasks_only_differ_by_noise() -> None:
    truth = np.repeat(np.linspace(0, 1, 10)[:, None], 400, axis=1)
    score = noisy(truth, 0.5, 2)
    source = np.random.default_rng(3).integers(3, size=400)
    features = np.random.default_rng(4).normal(size=(400, 5))
    rules = [own_reward(score), shrunk(score), per_source(score, source)]
    for rule in (*rules, low_rank(score, score, 1), regression(score, features)):
        gain = cross_fitted(score, rule, splits=5)
        assert gain.mean.mean < 0.02
        assert gain.low <= gain.mean.mean <= gain.high


def cross_fitted(score: np.ndarray, rule: Rule, splits: int = 10, seed: int = 0) -> Gain:
    return gain_of(score, rule, random_halves(score.shape[1], splits=splits, seed=seed))


def rank_one() -> tuple[np.ndarray, np.ndarray, float]:
    """Return scores ``loading_a * kind_t`` with much noise in each, ``kind``, and the gain of who knows the kind."""
    rng = np.random.default_rng(5)
    loading, kind = np.linspace(-0.5, 0.5, 60), rng.choice([-1.0, 1.0], size=800)
    truth = np.outer(loading, kind)
    return noisy(truth, 1.0, 6), kind, float(truth.max(0).mean() - truth.mean(1).max())


def test_a_low_rank_rule_finds_what_noise_hides_architecture_by_architecture() -> None:
    score, _, best = rank_one()
    found = cross_fitted(score, low_rank(score, score, 1), splits=4).mean.mean
    one_by_one = cross_fitted(score, shrunk(score), splits=4).mean.mean
    assert one_by_one < 0.5 * best
    assert 0.9 * best < found < 1.1 * best


def test_a_rule_learned_from_features_needs_no_reward_of_the_task() -> None:
    score, kind, best = rank_one()
    features = np.stack([kind, np.random.default_rng(7).normal(size=len(kind))], axis=1)
    assert cross_fitted(score, regression(score, features), splits=4).mean.mean == pytest.approx(best, rel=0.1)


def test_the_gain_is_that_of_a_plain_loop() -> None:
    rng = np.random.default_rng(8)
    score, clue, source = rng.random((4, 9, 3)), rng.random((4, 9, 3)), np.arange(9) % 2
    for rule, choose_by in ((own_reward(clue), None), (per_source(score, source), source)):
        found = cross_fitted(score, rule, splits=2, seed=3)
        cuts = np.random.default_rng(3)
        totals = np.zeros(9)
        for _ in range(2):
            order = cuts.permutation(9).tolist()
            for own, other in ((order[4:], order[:4]), (order[:4], order[4:])):
                fixed = max(range(4), key=lambda a: sum(score[a, t].mean() for t in other))
                for t in own:
                    for r in range(3):
                        rest = [score[:, t, q] for q in range(3) if q != r]
                        if choose_by is None:
                            best = int(clue[:, t, r].argmax())
                        else:
                            same = [o for o in other if source[o] == source[t]]
                            best = max(range(4), key=lambda a: sum(score[a, o].mean() for o in same))
                        totals[t] += sum(x[best] - x[fixed] for x in rest) / len(rest) / 3 / 2
        np.testing.assert_allclose(found.per_task, totals, atol=1e-12)


def test_what_was_learned_on_the_first_tasks_is_scored_on_the_last() -> None:
    source = np.arange(60) % 2
    truth = np.zeros((3, 60))
    truth[0, source == 0] = truth[1, source == 1] = 1.0
    truth[:, 40:] = truth[[2, 1, 0], 40:]  # source 0 changes its mind
    score = noisy(truth, 0.0, 11)
    gain = gain_of(score, per_source(score, source), first_to_last(40, 20))
    assert gain.tasks.tolist() == list(range(40, 60))
    fixed = int(score[:, :40].mean((1, 2)).argmax())
    wanted = {0: 0.0 - truth[fixed, 40], 1: 1.0 - truth[fixed, 41]}
    assert {s: part.mean for s, part in by_source(gain, source).items()} == pytest.approx(wanted)


def test_shrinkage_is_the_share_of_the_components() -> None:
    score = noisy(np.random.default_rng(9).normal(size=(6, 50)), 0.7, 10)
    parts = variance_components(score, bootstrap=1)
    signal, noise = parts["interaction"].value, parts["noise"].value
    assert interaction_share(score) == pytest.approx(signal / (signal + noise))
    assert interaction_share(score - score.mean((1, 2), keepdims=True)) == pytest.approx(signal / (signal + noise))


def test_rewards_of_one_replicate_are_refused() -> None:
    with pytest.raises(InputError, match="2 x 2 x 2"):
        cross_fitted(np.zeros((3, 4, 1)), own_reward(np.zeros((3, 4, 1))))
