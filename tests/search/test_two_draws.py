"""The two phases of a task are disjoint, balanced draws of its images."""

import pytest
import torch

from few_shot_nas.episode import Task
from few_shot_nas.errors import InputError
from few_shot_nas.search.two_draws import two_draws


def make_task(n_way=3, k_shot=2, n_query=7, seed=0):
    """Every image carries its own number, so that draws can be compared."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n_way)
    order = torch.randperm(n_way * n_query, generator=g)
    number = torch.arange(n_way * (k_shot + n_query), dtype=torch.float32).view(-1, 1, 1, 1)
    split = n_way * k_shot
    return Task(
        number[:split], labels.repeat(k_shot), number[split:][order], labels.repeat(n_query)[order], torch.tensor(4)
    )


@pytest.mark.parametrize("n_query", [4, 7, 8])
def test_phases_share_no_image_and_keep_every_label(n_query):
    task = make_task(n_query=n_query)
    label = dict(zip(task.query_x.flatten().tolist(), task.query_y.tolist(), strict=True))
    label |= dict(zip(task.support_x.flatten().tolist(), task.support_y.tolist(), strict=True))
    first, second = two_draws(task)
    drawn = torch.cat([part.flatten() for phase in (first, second) for part in (phase.support_x, phase.query_x)])
    assert sorted(drawn.tolist()) == sorted(label)
    for phase in (first, second):
        for images, labels in ((phase.support_x, phase.support_y), (phase.query_x, phase.query_y)):
            assert [label[number] for number in images.flatten().tolist()] == labels.tolist()
        assert torch.bincount(phase.support_y).tolist() == [2, 2, 2]
        assert len(set(torch.bincount(phase.query_y).tolist())) == 1


def test_the_odd_query_goes_to_the_first_phase():
    first, second = two_draws(make_task(n_query=7))
    assert first.query_y.shape[0] == 9 and second.query_y.shape[0] == 6


def test_too_few_queries_are_refused_with_the_number_needed():
    with pytest.raises(InputError, match="n_query=3 is too small for k_shot=2, at least 4"):
        two_draws(make_task(n_query=3))
