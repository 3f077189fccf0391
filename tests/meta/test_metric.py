"""Prototypes, distances and attention against explicit loops, and against accuracies known in closed form."""

import math

import pytest
import torch

from few_shot_nas.meta.metric import attention_logits, cosine_logits, prototypes, squared_euclidean_logits
from few_shot_nas.stats.statistics import accuracy


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


LABELS = torch.tensor([2, 0, 1, 1, 0, 2, 2])


def test_prototypes_are_the_class_means_of_a_plain_loop():
    features = draw(7, 5)
    centres = prototypes(features, LABELS, 3)
    for c in range(3):
        rows = [features[i] for i in range(7) if LABELS[i] == c]
        torch.testing.assert_close(centres[c], sum(rows) / len(rows), rtol=0, atol=1e-14)


def test_euclidean_logits_are_minus_the_squared_distance_of_a_double_loop():
    query, centres = draw(4, 5), draw(3, 5, seed=1)
    logits = squared_euclidean_logits(query, centres)
    for q in range(4):
        for c in range(3):
            squared = sum((float(query[q, d]) - float(centres[c, d])) ** 2 for d in range(5))
            assert abs(float(logits[q, c]) + squared) < 1e-12


def test_cosine_logits_are_the_scaled_cosine_of_a_double_loop_and_ignore_lengths():
    query, centres = draw(4, 5), draw(3, 5, seed=1)
    logits = cosine_logits(query, centres, 7.0)
    for q in range(4):
        for c in range(3):
            dot = sum(float(query[q, d]) * float(centres[c, d]) for d in range(5))
            lengths = math.sqrt(float((query[q] ** 2).sum())) * math.sqrt(float((centres[c] ** 2).sum()))
            assert abs(float(logits[q, c]) - 7.0 * dot / lengths) < 1e-12
    torch.testing.assert_close(cosine_logits(3 * query, 0.1 * centres, 7.0), logits, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_attention_gives_each_class_the_softmax_mass_of_its_support_images(scale):
    query, support = draw(4, 5), draw(7, 5, seed=1)
    logits = attention_logits(query, support, LABELS, 3, scale)
    for q in range(4):
        cosines = [float(torch.cosine_similarity(query[q], support[i], dim=0)) for i in range(7)]
        weights = [math.exp(scale * value) for value in cosines]
        for c in range(3):
            mass = sum(weight for weight, label in zip(weights, LABELS.tolist(), strict=True) if label == c)
            assert abs(math.exp(float(logits[q, c])) - mass / sum(weights)) < 1e-12
    torch.testing.assert_close(logits.exp().sum(dim=1), torch.ones(4).double(), rtol=0, atol=1e-12)


def test_attention_with_one_shot_and_a_large_scale_neither_underflows_nor_differs_from_cosine_softmax():
    query, support = draw(4, 5).float(), draw(3, 5, seed=1).float()
    labels = torch.tensor([1, 2, 0])
    logits = attention_logits(query, support, labels, 3, 1000.0)
    assert bool(torch.isfinite(logits).all())
    order = labels.argsort()
    torch.testing.assert_close(logits, cosine_logits(query, support[order], 1000.0).log_softmax(1), rtol=0, atol=1e-3)


def test_rectified_attention_with_a_floor_is_that_of_a_plain_loop():
    query, support = draw(4, 5), draw(7, 5, seed=1)
    logits = attention_logits(query, support, LABELS, 3, 100.0, rectified=True, floor=1e-6)
    some_negative = False
    for q in range(4):
        cosines = [float(torch.cosine_similarity(query[q], support[i], dim=0)) for i in range(7)]
        some_negative |= min(cosines) < 0
        weights = [math.exp(100 * (max(value, 0.0) - 1)) for value in cosines]
        for c in range(3):
            mass = sum(weight for weight, label in zip(weights, LABELS.tolist(), strict=True) if label == c)
            assert abs(float(logits[q, c]) - math.log(mass / sum(weights) + 1e-6)) < 1e-9
    assert some_negative
    assert float(logits.min()) > math.log(1e-6) - 1e-6


def test_nearest_class_mean_reaches_the_analytic_accuracy_on_two_gaussian_clusters():
    count, distance = 20_000, 1.5
    centres = torch.tensor([[0.0, 0.0, 0.0], [distance, 0.0, 0.0]], dtype=torch.double)
    labels = torch.arange(2).repeat(count)
    support, query = draw(2 * count, 3) + centres[labels], draw(2 * count, 3, seed=1) + centres[labels]
    analytic = 0.5 * (1 + math.erf(distance / 2 / math.sqrt(2)))  # both points are this far from the border
    logits = squared_euclidean_logits(query, prototypes(support, labels, 2))
    deviation = math.sqrt(analytic * (1 - analytic) / (2 * count))
    assert abs(float(accuracy(logits, labels)) - analytic) < 4 * deviation < 0.01


@pytest.mark.parametrize(
    "classify",
    [
        lambda q, s, y: squared_euclidean_logits(q, prototypes(s, y, 3)),
        lambda q, s, y: cosine_logits(q, prototypes(s, y, 3)),
        lambda q, s, y: attention_logits(q, s, y, 3),
    ],
    ids=["euclidean", "cosine", "attention"],
)
def test_renaming_the_classes_renames_the_logits_and_reordering_queries_reorders_them(classify):
    query, support = draw(6, 5), draw(7, 5, seed=1)
    new_name, order = torch.tensor([2, 0, 1]), torch.tensor([3, 1, 5, 0, 4, 2])
    logits = classify(query, support, LABELS)
    torch.testing.assert_close(classify(query, support, new_name[LABELS])[:, new_name], logits, rtol=0, atol=1e-12)
    torch.testing.assert_close(classify(query[order], support, LABELS), logits[order], rtol=0, atol=1e-12)


def test_distances_and_attention_have_the_derivatives_that_finite_differences_have():
    query, support = draw(2, 3).requires_grad_(), draw(7, 3, seed=1).requires_grad_()
    scale = torch.tensor(2.0, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda q, s: squared_euclidean_logits(q, prototypes(s, LABELS, 3)), (query, support)
    )
    assert torch.autograd.gradcheck(
        lambda q, s, f: cosine_logits(q, prototypes(s, LABELS, 3), f), (query, support, scale)
    )
    assert torch.autograd.gradcheck(lambda q, s, f: attention_logits(q, s, LABELS, 3, f), (query, support, scale))
