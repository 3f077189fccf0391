"""Sentences about a search. Truth: the thresholds that the docstrings name."""

import pytest

from few_shot_nas.report.verdict import (
    adaptation_verdict,
    entropy_verdict,
    far_apart_verdict,
    last_tenth,
    verdicts,
)


@pytest.mark.parametrize(
    ("fractions", "said"),
    [
        ([1.0, 0.95], "learned nothing: it ends at 95.0 %"),
        ([0.97, 0.15], "clearly: from 97.0 to 15.0 %"),
        ([1.0, 0.94], "still undecided: from 100.0 to 94.0 %"),
        ([1.0, 0.5], "still undecided"),
        ([0.8, 0.79], "learned nothing: it began at 80.0 %"),
        ([0.4], "clearly"),
        ([float("nan")], "no number"),
    ],
)
def test_the_entropy_is_put_into_words_by_its_end_and_its_fall(fractions, said):
    assert said in entropy_verdict("It", fractions)


@pytest.mark.parametrize(("divergence", "said"), [(1e-5, "does nothing"), (9.9e-4, "does nothing"), (1e-3, "adapts")])
def test_an_inner_step_is_judged_by_its_divergence(divergence, said):
    assert said in adaptation_verdict([divergence])


def test_a_policy_that_has_decided_is_told_from_one_that_never_moved():
    said = adaptation_verdict([0.5, 2.0, 0.1, *[1e-4] * 20])
    assert "by up to 2 nats, by 0.0001 at the end" in said


def test_one_noisy_last_value_does_not_decide():
    assert last_tenth([1.0] * 18 + [0.9, 0.7]) == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("learned", "adapted", "said"),
    [([1.0], [2.0, 101.0], "A task drives the alphas apart by 1e+02"), ([101.0], [], "have diverged: they are 1e+02"),
     ([100.0], [100.0], None), ([1.0], [], None)],
)  # fmt: skip
def test_alphas_whose_softmax_is_a_single_op_are_told(learned, adapted, said):
    found = far_apart_verdict(learned, adapted)
    assert found is None if said is None else said in found


def test_a_run_without_a_search_is_not_judged(make_run):
    from few_shot_nas.report import load_run

    assert verdicts(load_run(make_run("plain", search=False))) == []
    assert ["clearly" in each for each in verdicts(load_run(make_run("search")))] == [True]
