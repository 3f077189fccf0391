"""Which classes are answered right, and which are taken for which, summed over tasks of different classes."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class ClassScore(NamedTuple):
    """How often a class was answered right.

    Attributes:
        number: the class.
        right: queries of the class that were answered by it.
        queries: queries of the class.
    """

    number: int
    right: int
    queries: int


class ConfusedPair(NamedTuple):
    """How often a class was taken for another one.

    Attributes:
        truth: the class.
        answer: the other class.
        answered: queries of ``truth`` that were answered by ``answer``.
        queries: queries of ``truth`` in tasks that had ``answer`` as a choice.
    """

    truth: int
    answer: int
    answered: int
    queries: int


def confusion(logits: Tensor, labels: Tensor) -> list[int]:
    """Return how often each label was answered by each other, row by row: entry ``truth * N + answer``.

    Args:
        logits: ``[Q, N]``; ties go to the lowest class, as in ``accuracy``.
        labels: ``[Q]`` in 0..N-1.

    >>> confusion(torch.tensor([[2.0, 1.0], [2.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 1, 1]))
    [1, 0, 1, 1]
    """
    ways = logits.shape[-1]
    return torch.bincount(labels * ways + logits.argmax(dim=-1), minlength=ways * ways).tolist()


def class_confusion(
    tasks: Iterable[tuple[Sequence[int], Sequence[int]]],
) -> tuple[list[ClassScore], list[ConfusedPair]]:
    """Sum confusions of tasks up by their classes.

    Args:
        tasks: of each task the class of every label, and its :func:`confusion`.

    Returns:
        The classes, that with the smallest share of right answers first; the pairs with at least one wrong answer,
        that with the most wrong answers first, of equally many the one that had fewer queries. Ties keep the order of
        the numbers.

    >>> class_confusion([([7, 3], [2, 0, 1, 1])])
    ([ClassScore(number=3, right=1, queries=2), ClassScore(number=7, right=2, queries=2)], \
[ConfusedPair(truth=3, answer=7, answered=1, queries=2)])
    """
    right: dict[int, int] = {}
    queries: dict[int, int] = {}
    met: dict[tuple[int, int], list[int]] = {}
    for classes, counts in tasks:
        table = np.asarray(counts).reshape(len(classes), len(classes))
        asked = table.sum(axis=1)
        for row, truth in enumerate(classes):
            right[truth] = right.get(truth, 0) + int(table[row, row])
            queries[truth] = queries.get(truth, 0) + int(asked[row])
            for column, answer in enumerate(classes):
                if column != row:
                    pair = met.setdefault((truth, answer), [0, 0])
                    pair[0] += int(table[row, column])
                    pair[1] += int(asked[row])
    scores = [ClassScore(number, right[number], queries[number]) for number in sorted(queries) if queries[number]]
    pairs = [ConfusedPair(*pair, *counts) for pair, counts in sorted(met.items()) if counts[0]]
    return (
        sorted(scores, key=lambda score: score.right / score.queries),
        sorted(pairs, key=lambda pair: (-pair.answered, pair.queries)),
    )
