"""The captured CUDA graph: the same numbers as unrolling, no waiting for the device, and whole runs."""

import pytest
import torch

from few_shot_nas.algorithms.maml import MAML
from few_shot_nas.algorithms.settings import InnerLoop
from few_shot_nas.episode import Episode
from few_shot_nas.models.conv4 import Conv4
from tests.algorithms.test_engines import LEARNERS, NETWORKS, close, make, make_batch, meta_gradient

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def full_precision_everywhere():
    """Without TF32, whose ten bits would hide a fault."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def on_gpu(batch):
    return Episode(*(value.to("cuda") for value in batch[:5]))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("engine", ["folded", "graph"])
def test_on_a_gpu_every_engine_gives_the_gradient_of_unrolling_on_the_cpu(engine, learner, network):
    batch = make_batch(network)
    expected, scalars = meta_gradient(make(learner, network), batch)
    module = make(learner, network, engine=engine).to("cuda")
    for _ in range(2):  # captured, and replayed
        found, own = meta_gradient(module, on_gpu(batch))
    close({name: value.cpu() for name, value in found.items()}, expected, 1e-8)
    torch.testing.assert_close(own.cpu(), scalars, rtol=0, atol=1e-8)


@pytest.mark.parametrize("first_order", [False, True])
def test_the_graph_follows_parameters_and_episodes(first_order):
    module = make("MAML", "pool", engine="graph", first_order=first_order).to("cuda")
    reference = make("MAML", "pool", first_order=first_order)
    for shift in range(4):
        batch = make_batch("pool")
        batch = batch._replace(support_x=batch.support_x.roll(shift, 0), query_x=batch.query_x + 0.1 * shift)
        expected, _ = meta_gradient(reference, batch)
        found, _ = meta_gradient(module, on_gpu(batch))
        close({name: value.cpu() for name, value in found.items()}, expected, 1e-8)
        with torch.no_grad():
            for one, other in zip(module.parameters(), reference.parameters(), strict=True):
                one.mul_(0.95)
                other.mul_(0.95)


def test_a_replayed_step_does_not_wait_for_the_device():
    torch.manual_seed(0)
    module = MAML(Conv4(5, 3, 42, width=8), inner=InnerLoop(inner_lr=0.1, inner_steps=2, engine="graph")).to("cuda")
    labels = torch.arange(5).expand(4, 5).to("cuda")
    images = torch.randn(4, 5, 3, 42, 42, device="cuda")
    batch = Episode(images, labels, images.clone(), labels)
    optimizer = module.make_optimizer(module.parameter_groups())

    def step():
        module.zero_grad(set_to_none=True)
        loss, scalars = module.task_loss(batch)
        loss.backward()
        module.clip_gradient()
        optimizer.step()
        return scalars

    step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        scalars = step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert 0 < float(scalars["train/loss"]) < 100
