"""Confusions of classes over tasks. Truth: a plain loop over single answers."""

from collections import Counter

import pytest
import torch

from few_shot_nas.stats.confusion import class_confusion, confusion


def test_counts_of_random_tasks_are_those_of_a_loop_over_their_queries():
    generator = torch.Generator().manual_seed(0)
    right, queries, wrong, met = Counter(), Counter(), Counter(), Counter()
    tasks = []
    for _ in range(20):
        classes = torch.randperm(6, generator=generator)[:3].tolist()
        labels = torch.arange(3).repeat(4)[torch.randperm(12, generator=generator)]
        logits = torch.randn(12, 3, generator=generator)
        tasks.append((classes, confusion(logits, labels)))
        for label, row in zip(labels.tolist(), logits.tolist(), strict=True):
            truth, answer = classes[label], classes[row.index(max(row))]
            queries[truth] += 1
            right[truth] += truth == answer
            wrong[truth, answer] += truth != answer
            met.update((truth, other) for other in classes if other != truth)
    scores, pairs = class_confusion(tasks)
    assert {s.number: (s.right, s.queries) for s in scores} == {c: (right[c], queries[c]) for c in queries}
    assert {(p.truth, p.answer): (p.answered, p.queries) for p in pairs} == {
        pair: (count, met[pair]) for pair, count in wrong.items() if count and pair[0] != pair[1]
    }
    shares = [s.right / s.queries for s in scores]
    assert shares == sorted(shares)
    assert [p.answered for p in pairs] == sorted((p.answered for p in pairs), reverse=True)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_answers_that_are_no_numbers_are_counted_as_accuracy_counts_them(bad):
    from few_shot_nas.stats.statistics import accuracy

    logits, labels = torch.full((4, 2), bad), torch.tensor([0, 1, 1, 0])
    counts = confusion(logits, labels)
    assert sum(counts) == 4 and (counts[0] + counts[3]) / 4 == float(accuracy(logits, labels))
