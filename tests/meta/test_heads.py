"""Closed-form heads against explicit loops, scikit-learn's Ridge, and refits without one image, in float64."""

from typing import get_args, get_type_hints

import pytest
import torch
from sklearn.linear_model import Ridge

from few_shot_nas.algorithms.settings import Scoring
from few_shot_nas.errors import InputError
from few_shot_nas.meta.heads import (
    HEADS,
    RIDGE_LAMBDA,
    RIDGE_SCALE,
    prototype_left_out,
    prototype_logits,
    ridge_logits,
)


def make_features(n_way=4, shots=3, width=7, queries=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n_way).repeat(shots)[torch.randperm(n_way * shots, generator=g)]
    support = torch.randn(len(labels), width, generator=g, dtype=torch.double) + labels[:, None]
    return support, labels, torch.randn(queries, width, generator=g, dtype=torch.double)


def test_prototype_logits_are_mean_squared_differences_to_the_class_means():
    support, labels, query = make_features()
    logits = prototype_logits(support, labels, query, 4)
    for q in range(len(query)):
        for n in range(4):
            centre = torch.stack([x for x, y in zip(support, labels, strict=True) if y == n]).mean(0)
            expected = -sum((float(a) - float(b)) ** 2 for a, b in zip(query[q], centre, strict=True)) / 7
            assert float(logits[q, n]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("shots", "width"), [(1, 40), (5, 6)])
def test_ridge_logits_are_scikit_learns_with_few_and_with_many_features(shots, width):
    support, labels, query = make_features(shots=shots, width=width)
    unit = width**-0.5
    model = Ridge(alpha=RIDGE_LAMBDA, fit_intercept=False, solver="cholesky")
    model.fit(support.numpy() * unit, torch.nn.functional.one_hot(labels, 4).double().numpy())
    expected = RIDGE_SCALE * torch.from_numpy(model.predict(query.numpy() * unit))
    torch.testing.assert_close(ridge_logits(support, labels, query, 4), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("shots", [2, 5])
def test_left_out_logits_are_those_of_a_refit_without_the_image(name, shots):
    support, labels, _ = make_features(shots=shots)
    logits = HEADS[name].left_out(support, labels, 4)
    for i in range(len(support)):
        rest = torch.arange(len(support)) != i
        refit = HEADS[name].logits(support[rest], labels[rest], support[i : i + 1], 4)
        torch.testing.assert_close(logits[i : i + 1], refit, rtol=0, atol=1e-10)


def test_many_feature_extractors_at_once_get_the_prototype_logits_of_each():
    drawn = [make_features(seed=seed) for seed in range(3)]
    support, query = (torch.stack([parts[place] for parts in drawn]) for place in (0, 2))
    labels = drawn[0][1]
    both = prototype_logits(support, labels, query, 4), prototype_left_out(support, labels, 4)
    assert [logits.shape for logits in both] == [(3, 5, 4), (3, 12, 4)]
    for row in range(3):
        alone = (
            prototype_logits(support[row], labels, query[row], 4),
            prototype_left_out(support[row], labels, 4),
        )
        for logits, expected in zip(both, alone, strict=True):
            torch.testing.assert_close(logits[row], expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", HEADS)
def test_heads_do_not_depend_on_the_order_of_the_support_set_and_follow_its_labels(name):
    support, labels, query = make_features()
    logits = HEADS[name].logits(support, labels, query, 4)
    order, renamed = torch.tensor([5, 3, 0, 11, 1, 2, 4, 7, 6, 8, 10, 9]), torch.tensor([2, 0, 3, 1])
    other = HEADS[name].logits(support[order], renamed[labels[order]], query, 4)
    torch.testing.assert_close(other[:, renamed], logits, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", HEADS)
def test_heads_are_differentiable_in_support_and_query(name):
    support, labels, query = make_features(n_way=2, shots=2, width=3, queries=2)
    inputs = (support.requires_grad_(), query.requires_grad_())
    assert torch.autograd.gradcheck(lambda s, q: HEADS[name].logits(s, labels, q, 2), inputs)
    assert torch.autograd.gradcheck(lambda s: HEADS[name].left_out(s, labels, 2), inputs[:1])


def test_autocast_leaves_the_linear_system_alone():
    support, labels, query = (value.float() if value.is_floating_point() else value for value in make_features())
    plain = ridge_logits(support, labels, query, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ridge_logits(support, labels, query, 4), plain)


def test_the_flag_offers_exactly_the_heads_and_refuses_others():
    assert get_args(get_type_hints(Scoring)["head"]) == ("linear", *HEADS)
    with pytest.raises(InputError, match="cosine"):
        Scoring(head="cosine")
