"""Averaging gradients over tasks, on one process and on two."""

import json
import multiprocessing
import os

import pytest
import torch
from torch import nn

from few_shot_nas.runtime.gradients import average_buffers, average_gradients, gather_rows, world


def test_one_process_divides_by_the_number_of_tasks_and_leaves_unused_gradients_none():
    used, unused = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3))
    used.grad = torch.tensor([4.0, 8.0])
    means = average_gradients([used, unused], 4, torch.tensor([2.0, 6.0]))
    assert used.grad.tolist() == [1.0, 2.0] and unused.grad is None and means.tolist() == [0.5, 1.5]
    norm = nn.BatchNorm2d(2)
    average_buffers(norm)
    assert norm.running_mean.tolist() == [0.0, 0.0]
    assert world() == (0, 1) and gather_rows([{"a": 1}]) == [{"a": 1}]


def average_on(rank, folder):
    """What rank 0 or 1 of two has after its gradients, buffers and rows met the other's."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    shared, mine, nobody = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    shared.grad = torch.tensor([1.0, 2.0]) if rank == 0 else torch.tensor([5.0, 4.0])
    if rank == 1:
        mine.grad = torch.tensor([3.0, 9.0])
    means = average_gradients([shared, mine, nobody], 1 if rank == 0 else 2, torch.tensor([3.0 * (rank + 1)]))
    rows = gather_rows([{"rank": rank}] * (rank + 1) if rank else [])
    norm = nn.BatchNorm2d(2)
    norm.running_mean += rank + 1
    average_buffers(norm)
    rows += [norm.running_mean.tolist(), norm.running_var.tolist(), int(norm.num_batches_tracked)]
    found = [shared.grad.tolist(), mine.grad.tolist(), nobody.grad, means.tolist(), rows, world()]
    (folder / f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


@pytest.mark.ddp
def test_two_processes_average_over_all_tasks_whoever_used_a_parameter(tmp_path):
    # Forked: they need not import torch again, which takes longer than all else here.
    ranks = [multiprocessing.get_context("fork").Process(target=average_on, args=(rank, tmp_path)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    assert [process.exitcode for process in ranks] == [0, 0]
    rows = [{"rank": 1}, {"rank": 1}, [1.5, 1.5], [1.0, 1.0], 0]
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found == [[2.0, 2.0], [1.0, 3.0], None, [3.0], rows, [rank, 2]]
