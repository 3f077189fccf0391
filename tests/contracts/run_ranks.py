"""Run one meta-step and one uneven test of algorithms and write what came out; called by test_ddp.py, which
starts it on 2 ranks too.

Usage: run_ranks.py CACHE OUT ALGORITHM:VARIANT ... ; a variant is a key of INNER.
"""

import importlib.util
import os
import sys
from pathlib import Path

import pytorch_lightning as pl
import torch

from few_shot_nas.algorithms import ALGORITHMS
from few_shot_nas.algorithms.settings import InnerLoop, OuterLoop
from few_shot_nas.data.episodic import EpisodicDataModule
from few_shot_nas.data.flat import FlatBatch, FlatDataModule
from few_shot_nas.models import MODELS
from few_shot_nas.runtime.gradients import world
from few_shot_nas.runtime.strategy import NAME

spec = importlib.util.spec_from_file_location("contract_fixtures", Path(__file__).with_name("conftest.py"))
fixtures = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fixtures)

INNER = {
    "second": {"inner": InnerLoop()},
    "folded": {"inner": InnerLoop(inner_lr=0.1, inner_steps=2, engine="folded")},
    "first": {"inner": InnerLoop(first_order=True)},
    "steps": {"inner": InnerLoop(inner_lr=0.1, inner_steps=2)},
    "sgd": {"inner": InnerLoop(inner_lr=0.1, inner_steps=2, eval_inner_steps=3, first_order=True)},
    "folded_sgd": {
        "inner": InnerLoop(inner_lr=0.1, inner_steps=2, eval_inner_steps=3, first_order=True, engine="folded")
    },
    "adam": {
        "inner": InnerLoop(1e-2, inner_steps=2, eval_inner_steps=3, first_order=True, inner_optimizer="adam")
    },
    "flat": {},
    "same": {},
    "same_second": {"order": "second"},
}


def data_module(name: str, cache: str) -> EpisodicDataModule:
    """Three tasks, or seven images, in a meta-step: two ranks get unequal parts; AutoMAML halves what a rank has."""
    common = {"n_way": 3, "n_query": 5, "max_meta_steps": 1, "val_episodes": 3, "test_episodes": 7}
    if ALGORITHMS[name].data_kind == "flat":
        return FlatDataModule(fixtures.Blobs(cache), flat_batch_size=7, **common)
    return EpisodicDataModule(fixtures.Blobs(cache), meta_batch_size=4 if name == "AutoMAML" else 3, **common)


def same_batch(ranks: int) -> FlatBatch:
    """Four images for every rank, and for a single process the same four twice: normalised by the same statistics."""
    images = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    repeats = 1 if ranks > 1 else 2
    return FlatBatch(images.repeat(repeats, 1, 1, 1), torch.tensor([0, 1, 2, 0]).repeat(repeats))


def run(cache: str, out: str, name: str, variant: str, ranks: int) -> None:
    torch.manual_seed(0)
    algorithm = ALGORITHMS[name]
    net = MODELS[algorithm.default_model](3, 1, 28, **fixtures.SMALL.get(algorithm.default_model, {}))
    small = {key: value for key, value in fixtures.SMALL_SETTINGS.get(name, {}).items() if key == "alphas"}
    outer = OuterLoop(max_meta_steps=1, bn_mode="running" if name == "DARTS" else "transductive")
    module = algorithm(net.double(), outer=outer, seed=3, **{**small, **INNER[variant]}).double()
    seen, start, parts = dict.fromkeys(dict(module.named_parameters())), {}, []
    check, task_loss, update = module.clip_gradient, module.task_loss, module.update

    def keep_gradients():
        """Of searches with two steps in an update, each step has the gradients of its own parameters."""
        seen.update({key: p.grad.clone() for key, p in module.named_parameters() if p.grad is not None})
        for key, p in module.named_parameters():
            start.setdefault(key, p.detach().clone())
        return check()

    def keep_alphas(optimizer):
        seen.update({key: p.grad.clone() for key, p in module.named_parameters() if p.grad is not None})
        start.update({key: p.detach().clone() for key, p in module.named_parameters()})
        return step_alphas(optimizer)

    def keep_batch(batch):
        batch = same_batch(ranks) if variant.startswith("same") else batch
        parts.append(tuple(batch))
        return update(batch)

    def keep_part(part):
        parts.append(tuple(part))
        return task_loss(part)

    module.clip_gradient, module.task_loss = keep_gradients, keep_part
    if name == "DARTS":
        step_alphas, module._step_alphas, module.update = module._step_alphas, keep_alphas, keep_batch
    trainer = pl.Trainer(
        accelerator="cpu", devices=ranks, strategy=NAME if ranks > 1 else "auto", max_epochs=-1, inference_mode=False,
        use_distributed_sampler=False, reload_dataloaders_every_n_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, precision="64-true",
    )  # fmt: skip
    data = data_module(name, cache)
    trainer.fit(module, datamodule=data)
    # Before the test, whose start copies rank 0's state to every rank.
    state = {key: value.clone() for key, value in module.state_dict().items()}
    trainer.test(module, datamodule=data, verbose=False)
    kept = {"gradients": seen, "rows": module.test_rows, "state": state, "start": start, "parts": parts}
    torch.save(kept, f"{out}/{name}-{variant}-{world()[0]}of{ranks}.pt")


if __name__ == "__main__":
    for case in sys.argv[3:]:
        run(*sys.argv[1:3], *case.split(":"), int(os.environ["WORLD_SIZE"]))
