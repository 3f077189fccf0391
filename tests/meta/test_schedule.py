"""SGDR against PyTorch's own cosine annealing with warm restarts."""

import pytest
import torch

from few_shot_nas.meta.schedule import cosine_with_restarts


@pytest.mark.parametrize(("first", "factor"), [(10, 2), (7, 1), (1, 3)])
def test_rates_are_those_of_pytorchs_scheduler(first, factor):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.05)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, first, factor, eta_min=0.0005)
    for step in range(80):
        assert 0.05 * cosine_with_restarts(step, first, factor, 0.01) == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()


def test_enas_restarts_after_10_30_70_and_150_epochs():
    restarts = [step for step in range(310) if cosine_with_restarts(step, 10, 2, 0.01) == 1.0]
    assert restarts == [0, 10, 30, 70, 150]
