"""Two processes give the gradient, the weights and the test scores of one; where they do not, what they give."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from few_shot_nas.algorithms.reptile import mini_batches
from few_shot_nas.models.conv4 import Conv4
from few_shot_nas.seeding import generator
from few_shot_nas.spaces.mixed_supernet import MixedSupernet
from few_shot_nas.stats.statistics import mean_ci

SCRIPT = Path(__file__).with_name("run_ranks.py")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]

#: The tasks are independent of each other, so that the ranks together do what one process does.
CASES = [
    "MAML:second", "MAML:folded", "MAML:first",
    "MAMLENAS:second", "RandomSearch:first", "MAMLPlusPlus:steps", "Reptile:sgd",
    "Reptile:folded_sgd", "TNAS:first", "TNASPlusPlus:steps", "AutoMAML:first", "MetaNAS:adam",
]  # fmt: skip
#: Both ranks have the same images, and one process has them twice, which gives the same statistics.
SAME = ["DARTS:same", "DARTS:same_second"]
#: Every rank normalises by its own part of the batch.
FLAT = ["RFS:flat", "Baseline:flat"]
ALPHAS_OF_PARTS = "DARTS:flat"
#: Every rank carries Adam's moments through its own tasks.
CARRIED = "Reptile:adam"
ALL = [*CASES, *SAME, *FLAT, ALPHAS_OF_PARTS, CARRIED]


@pytest.fixture(scope="module")
def results(blobs, tmp_path_factory):
    """Run every case in this process and, in one go, on two others: most of their time is imports."""
    out, cache = tmp_path_factory.mktemp("ranks"), str(blobs.cache_dir)
    spec = importlib.util.spec_from_file_location("run_ranks", SCRIPT)
    alone = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(alone)
    for case in ALL:
        alone.run(cache, str(out), *case.split(":"), ranks=1)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [*TORCHRUN, str(SCRIPT), cache, str(out), *ALL]
    done = subprocess.run(command, env=environment, timeout=600, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def load(results, case):
    """What one process and the two ranks wrote."""
    return (torch.load(results / f"{case.replace(':', '-')}-{file}.pt") for file in ("0of1", "0of2", "1of2"))


@pytest.mark.ddp
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_equal_one_process(case, results):
    one, first, second = load(results, case)

    used = [key for key, gradient in one["gradients"].items() if gradient is not None]
    assert used and max(float(one["gradients"][key].abs().max()) for key in used) > 1e-4
    for rank in (first, second):
        assert [key for key, gradient in rank["gradients"].items() if gradient is not None] == used
        for key in used:
            torch.testing.assert_close(rank["gradients"][key], one["gradients"][key], rtol=0, atol=1e-6, msg=key)
    statistics = [key for key in one["state"] if "running" in key]
    assert bool(statistics) == ("PlusPlus" in case)
    for key in statistics:
        torch.testing.assert_close(first["state"][key], one["state"][key], rtol=0, atol=1e-6, msg=key)

    modes = 3 if statistics else 2
    assert len(one["rows"]) == modes * 7
    for mine, theirs in zip(one["rows"], first["rows"], strict=True):
        assert (mine["task_id"], mine["bn_mode"], mine["accuracy"]) == (
            theirs["task_id"], theirs["bn_mode"], theirs["accuracy"]
        )  # fmt: skip
    scores = [
        mean_ci([row["accuracy"] for row in part["rows"] if row["bn_mode"] == "support"]) for part in (one, first)
    ]
    assert scores[0] == scores[1] and scores[0].n == 7


@pytest.mark.ddp
@pytest.mark.parametrize("case", ALL)
def test_the_ranks_end_with_the_same_weights_and_the_same_rows(case, results):
    _, first, second = load(results, case)
    assert list(first["state"]) == list(second["state"])
    for key, value in first["state"].items():
        assert torch.equal(value, second["state"][key]), key
    assert first["rows"] == second["rows"]
    assert {row["task_id"] for row in first["rows"]} == set(range(7))


@pytest.mark.ddp
@pytest.mark.parametrize("case", SAME)
def test_darts_on_two_ranks_with_the_same_images_has_the_gradients_of_one_process(case, results):
    one, first, second = load(results, case)
    alphas = [key for key in one["gradients"] if ".alphas." in key]
    assert alphas and min(float(one["gradients"][key].abs().max()) for key in alphas) > 1e-6
    for rank in (first, second):
        for key, gradient in one["gradients"].items():
            torch.testing.assert_close(rank["gradients"][key], gradient, rtol=0, atol=1e-6, msg=key)


@pytest.mark.ddp
def test_alphas_of_darts_follow_the_held_out_images_of_all_ranks(results):
    """Four images and three: two held out on the first rank, one on the second, each rank normalising its own."""
    _, first, second = load(results, ALPHAS_OF_PARTS)
    torch.manual_seed(0)
    net = MixedSupernet(12, 1, 28, space="chain", channels=2, cells=2).double()
    net.load_state_dict({**net.state_dict(), **{key.removeprefix("net."): v for key, v in first["start"].items()}})
    total = torch.zeros(())
    for images, labels in (first["parts"][0], second["parts"][0]):
        total = total + F.cross_entropy(net.train()(images[1::2].double()), labels[1::2], reduction="sum") / 3
    (expected,) = torch.autograd.grad(total, [net.alphas["chain"]])
    torch.testing.assert_close(first["gradients"]["net.alphas.chain"], expected, rtol=0, atol=1e-6)


def conv4_by_hand(params, images):
    """Logits of a Conv4 in train mode, and mean and unbiased variance of what each of its BatchNorms saw."""
    statistics = []
    for block in range(4):
        conv, norm = f"net.body.{4 * block}", f"net.body.{4 * block + 1}"
        images = F.conv2d(images, params[f"{conv}.weight"], params[f"{conv}.bias"], padding=1)
        statistics.append((images.mean((0, 2, 3)), images.var((0, 2, 3))))
        images = F.batch_norm(images, None, None, params[f"{norm}.weight"], params[f"{norm}.bias"], training=True)
        images = F.max_pool2d(images.relu(), 2)
    return F.linear(images.flatten(1), params["net.head.weight"], params["net.head.bias"]), statistics


@pytest.mark.ddp
@pytest.mark.parametrize("case", FLAT)
def test_flat_learners_on_two_ranks_sum_the_gradients_of_parts_that_normalise_themselves(case, results):
    """The batch of seven images is four and three; one process normalises all seven together, and differs."""
    one, first, second = load(results, case)
    (images, labels), (front, _), (back, _) = (part["parts"][0] for part in (one, first, second))
    assert torch.equal(images, torch.cat([front, back])) and len(front) == 4

    params = {key: value.requires_grad_() for key, value in first["start"].items()}
    total, seen = torch.zeros(()), []
    for rows in (slice(0, 4), slice(4, 7)):
        logits, statistics = conv4_by_hand(params, images[rows].double())
        total = total + F.cross_entropy(logits, labels[rows], reduction="sum") / 7
        seen.append(statistics)
    expected = dict(zip(params, torch.autograd.grad(total, list(params.values())), strict=True))
    for key, gradient in expected.items():
        torch.testing.assert_close(first["gradients"][key], gradient, rtol=0, atol=1e-6, msg=key)
    assert max(float((one["gradients"][key] - g).abs().max()) for key, g in expected.items()) > 1e-4
    for block, ((mean0, var0), (mean1, var1)) in enumerate(zip(*seen, strict=True)):
        norm = f"net.body.{4 * block + 1}"
        mean, var = 0.1 * (mean0 + mean1) / 2, 0.9 + 0.1 * (var0 + var1) / 2
        torch.testing.assert_close(first["state"][f"{norm}.running_mean"], mean, rtol=0, atol=1e-6)
        torch.testing.assert_close(first["state"][f"{norm}.running_var"], var, rtol=0, atol=1e-6)


def trained_by_torch(net, start, part, optimizer):
    """Two steps of ordinary training on one task from ``start``, on Reptile's mini-batches; returns the weights."""
    support_x, support_y, query_x, query_y, task_id = part[:5]
    images, labels = torch.cat([support_x, query_x]).double(), torch.cat([support_y, query_y])
    net.load_state_dict(start)
    for chosen in mini_batches(len(images), 10, 2, generator(3, "reptile", 0, int(task_id) + 1)):
        optimizer.zero_grad()
        F.cross_entropy(net(images[chosen]), labels[chosen]).backward()
        optimizer.step()
    return {name: value.detach().clone() for name, value in net.named_parameters()}


@pytest.mark.ddp
def test_reptile_on_two_ranks_carries_moments_through_each_ranks_own_tasks_and_averages_them(results):
    """The reference is torch's Adam, one per rank; the first rank has two of the three tasks."""
    _, *ranks = load(results, CARRIED)
    assert [len(rank["parts"]) for rank in ranks] == [2, 1]
    start = {key.removeprefix("net."): value for key, value in ranks[0]["start"].items()}
    ends, moments = [], []
    for rank in ranks:
        net = Conv4(3, 1, 28, width=len(start["body.0.bias"])).double()
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-2, betas=(0.0, 0.999), eps=1e-8)
        ends += [trained_by_torch(net, start, part, optimizer) for part in rank["parts"]]
        moments.append({name: optimizer.state[p]["exp_avg_sq"] for name, p in net.named_parameters()})
    state = ranks[0]["state"]
    assert int(state["slot_updates"]) == 3  # the mean of two tasks' steps and of one's
    for name, value in start.items():
        # A bias before BatchNorm has a gradient of rounding alone, which Adam divides by itself: it is left out.
        if name.startswith("body") and name.endswith("bias") and int(name.split(".")[1]) % 4 == 0:
            continue
        expected = value - sum(end[name] for end in ends) / 3
        torch.testing.assert_close(ranks[0]["gradients"][f"net.{name}"], expected, rtol=0, atol=1e-6, msg=name)
        slot = state[f"slot1/{name.replace('.', '/')}"]
        mean = (moments[0][name] + moments[1][name]) / 2
        torch.testing.assert_close(slot, mean, rtol=1e-5, atol=1e-12, msg=name)
