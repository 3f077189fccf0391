"""A task whose inner loop gives no numbers: every search by gradient leaves the step out, counts it, and goes on."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from few_shot_nas.algorithms.auto_maml import AutoMAML
from few_shot_nas.algorithms.darts import DARTS
from few_shot_nas.algorithms.meta_nas import MetaNAS
from few_shot_nas.algorithms.settings import InnerLoop, OuterLoop
from few_shot_nas.algorithms.tnas import TNAS
from few_shot_nas.algorithms.tnas_plus_plus import TNASPlusPlus
from few_shot_nas.spaces.pair_mixed_supernet import PairMixedSupernet
from tests.algorithms.alpha_nets import SIZES, make_net, meta_batch, one_update, tasks_of

SLOW = pytest.mark.slow  # its inner loop has no fewer steps
SKIP = OuterLoop(outer_lr=0.01, on_nonfinite="skip")
INNER = InnerLoop(0.05, 2, first_order=True)


def pair_net():
    torch.manual_seed(0)
    return PairMixedSupernet(3, 1, 12, **SIZES).double()


MAKE = {
    "TNAS": lambda: TNAS(make_net(), inner=INNER, outer=SKIP),
    "TNASPlusPlus": lambda: TNASPlusPlus(make_net(), inner=INNER, outer=SKIP).double(),
    "AutoMAML": lambda: AutoMAML(make_net(), inner=INNER, outer=SKIP),
    "MetaNAS": lambda: MetaNAS(pair_net(), outer=SKIP),
    "DARTS": lambda: DARTS(make_net(), outer=replace(SKIP, bn_mode="running")),
}


def batch_of(name, spoiled):
    """Four tasks, or eight images; ``spoiled`` tasks or images are no numbers."""
    if name == "DARTS":
        draw = torch.Generator().manual_seed(0)
        images = torch.randn(8, 1, 12, 12, generator=draw, dtype=torch.float64)
        images[spoiled] = torch.nan
        return SimpleNamespace(images=images, labels=torch.randint(3, (8,), generator=draw))
    batch = meta_batch(tasks_of(4))
    batch.support_x[spoiled] = torch.nan
    return batch


@pytest.mark.parametrize("spoiled", [[0], [1], [0, 1]], ids=["first", "second", "both"])
@pytest.mark.parametrize("name", ["TNAS", "TNASPlusPlus", "AutoMAML", "DARTS", pytest.param("MetaNAS", marks=SLOW)])
def test_a_step_with_a_task_of_no_numbers_is_counted_once_and_leaves_the_search_finite(name, spoiled):
    module = MAKE[name]()
    start = {key: value.detach().clone() for key, value in module.net.named_parameters()}
    after = one_update(module, batch_of(name, spoiled))
    assert module.skipped_steps == 1
    assert all(bool(value.isfinite().all()) for value in after.values())
    halved = name in ("AutoMAML", "DARTS") and len(spoiled) == 1  # the other half moved its own parameters
    moved = [key for key, value in after.items() if not torch.equal(value, start[key])]
    assert bool(moved) == halved
    fine = one_update(module, batch_of(name, []))
    assert module.skipped_steps == 1
    assert any(not torch.equal(value, after[key]) for key, value in fine.items())
