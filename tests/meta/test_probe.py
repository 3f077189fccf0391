"""Heads fitted per task: the optimum of logistic regression, and SGD against torch's own optimiser and tape."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from few_shot_nas.meta.probe import (
    CosineHead, HeadSGD, LinearHead, cosine_scale, fit_cosine, fit_linear, logistic_regression, unit,
)  # fmt: skip

HOW = HeadSGD(lr=0.1, momentum=0.9, dampening=0.9, weight_decay=1e-2, epochs=3, batch_size=4)


def clusters(n_way, shots, dim=6, spread=1.0, seed=0):
    """Gaussian clusters in double precision: features and shuffled labels."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n_way).repeat(shots)[torch.randperm(n_way * shots, generator=g)]
    centres = torch.randn(n_way, dim, generator=g, dtype=torch.double)
    return centres[labels] + spread * torch.randn(len(labels), dim, generator=g, dtype=torch.double), labels


def direction_of(features):
    return features / features.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("n_way", [2, 3, 5])
@pytest.mark.parametrize("c", [0.1, 1.0, 10.0])
def test_logistic_regression_is_at_the_optimum_of_the_multinomial_objective(n_way, c):
    features, labels = clusters(n_way, 6)
    head = logistic_regression(features, labels, c=c)
    z = direction_of(features)
    residual = (z @ head.weight.T + head.bias).softmax(1) - F.one_hot(labels, n_way)
    assert float((head.weight + c * residual.T @ z).abs().max()) < 1e-4
    assert float(residual.sum(0).abs().max()) < 1e-4
    assert float(head.weight.abs().max()) > 1e-2, "an optimum that is not zero"


def test_with_the_features_spelled_out_it_is_scikit_learns_classifier():
    features, labels = clusters(5, 5)
    query, _ = clusters(5, 40, seed=0, spread=2.0)
    model = LogisticRegression(C=1.0, max_iter=1000).fit(direction_of(features).numpy(), labels.numpy())
    logits = logistic_regression(features, labels).logits(direction_of(query))
    expected = torch.from_numpy(model.predict_proba(direction_of(query).numpy()))
    torch.testing.assert_close(logits.softmax(1), expected, rtol=0, atol=1e-3)
    assert logits.argmax(1).tolist() == model.predict(direction_of(query).numpy()).tolist()


def test_logistic_regression_ignores_feature_lengths_and_renames_its_rows_with_the_classes():
    features, labels = clusters(4, 5)
    head = logistic_regression(features, labels)
    lengths = torch.rand(20, 1, dtype=torch.double, generator=torch.Generator().manual_seed(1)) + 0.1
    scaled = logistic_regression(100 * lengths * features, labels)
    new_name = torch.tensor([2, 3, 1, 0])
    renamed = logistic_regression(features, new_name[labels])
    torch.testing.assert_close(scaled.weight, head.weight, rtol=0, atol=1e-5)
    torch.testing.assert_close(renamed.weight[new_name], head.weight, rtol=0, atol=1e-5)
    torch.testing.assert_close(renamed.bias[new_name], head.bias, rtol=0, atol=1e-5)


def plain_sgd(features, labels, start, logits_of, n_way, seed):
    """The same batches through torch.optim.SGD and autograd; the caller's generator has drawn the start already."""
    params = [tensor.clone().requires_grad_() for tensor in start]
    optimizer = torch.optim.SGD(params, lr=0.1, momentum=0.9, dampening=0.9, weight_decay=1e-2)
    for _ in range(3):
        order = torch.randperm(len(labels), generator=seed)
        for first in range(0, len(labels), 4):
            rows = order[first : first + 4]
            optimizer.zero_grad()
            F.cross_entropy(logits_of(features[rows], *params), labels[rows]).backward()
            optimizer.step()
    return [tensor.detach() for tensor in params]


def started(n_way, dim, bias):
    """A generator that has drawn the start, and the start."""
    g = torch.Generator().manual_seed(7)
    drawn = [(2 * torch.rand(n_way, dim, generator=g) - 1) * dim**-0.5]
    drawn += [(2 * torch.rand(n_way, generator=g) - 1) * dim**-0.5] if bias else []
    return g, [tensor.double() for tensor in drawn]


def test_the_linear_head_takes_the_steps_of_torch_sgd():
    features, labels = clusters(3, 5)
    g, start = started(3, 6, bias=True)
    weight, bias = plain_sgd(features, labels, start, lambda x, w, b: x @ w.T + b, 3, g)
    head = fit_linear(features, labels, 3, HOW, torch.Generator().manual_seed(7))
    torch.testing.assert_close(head.weight, weight, rtol=0, atol=1e-12)
    torch.testing.assert_close(head.bias, bias, rtol=0, atol=1e-12)
    assert (head.weight - start[0]).abs().max() > 0.1


def test_the_cosine_head_takes_the_steps_of_torch_sgd_on_directions_and_lengths():
    features, labels = clusters(3, 5)
    g, (start,) = started(3, 6, bias=False)

    def logits_of(x, v, length):
        x = x / (x.norm(dim=1, keepdim=True) + 1e-5)
        return 2.0 * x @ (length * v / v.norm(dim=1, keepdim=True)).T

    wanted = plain_sgd(features, labels, [start, start.norm(dim=1, keepdim=True)], logits_of, 3, g)
    head = fit_cosine(features, labels, 3, HOW, torch.Generator().manual_seed(7))
    torch.testing.assert_close(head.direction, wanted[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(head.length, wanted[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(head.logits(features), logits_of(features, *wanted), rtol=0, atol=1e-12)
    assert (head.length - start.norm(dim=1, keepdim=True)).abs().max() > 0.01


def test_cosine_logits_are_scale_times_length_times_cosine_of_a_double_loop():
    features, _ = clusters(3, 2)
    head = CosineHead(torch.randn(3, 6, dtype=torch.double), torch.tensor([[0.5], [1.0], [2.0]]).double(), 10.0)
    logits = head.logits(features)
    for q in range(6):
        for c in range(3):
            cosine = float(F.cosine_similarity(features[q], head.direction[c], dim=0))
            assert abs(float(logits[q, c]) - 10.0 * float(head.length[c]) * cosine) < 1e-3
    assert torch.allclose(unit(1e6 * features).norm(dim=1), torch.ones(6).double())
    assert (cosine_scale(200), cosine_scale(201)) == (2.0, 10.0)


@pytest.mark.parametrize("fit", [fit_linear, fit_cosine])
def test_a_fitted_head_is_a_function_of_its_stream_and_separates_separable_classes(fit):
    features, labels = clusters(4, 5, dim=20, spread=0.2)
    features = features.float()
    how = HOW._replace(epochs=50)
    heads = [fit(features, labels, 4, how, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(heads[0][0], heads[1][0]) and not torch.equal(heads[0][0], heads[2][0])
    assert heads[0].logits(features).argmax(1).tolist() == labels.tolist()


def test_features_with_a_tape_are_constants():
    features, labels = clusters(3, 5)
    features.requires_grad_()
    for head in (
        fit_linear(features, labels, 3, HOW, torch.Generator()),
        fit_cosine(features, labels, 3, HOW, torch.Generator()),
        logistic_regression(features, labels),
    ):
        assert not any(tensor.requires_grad for tensor in head if isinstance(tensor, torch.Tensor))
    assert isinstance(logistic_regression(features, labels), LinearHead)
