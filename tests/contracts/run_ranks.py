"""Run one meta-step and one uneven test of algorithms and write what came out; started by test_ddp.py on 1 or 2 ranks.

Usage: run_ranks.py CACHE OUT ALGORITHM:ORDER ...
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
from few_shot_nas.models import MODELS
from few_shot_nas.runtime.gradients import world
from few_shot_nas.runtime.strategy import NAME

spec = importlib.util.spec_from_file_location("contract_fixtures", Path(__file__).with_name("conftest.py"))
fixtures = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fixtures)


def run(cache: str, out: str, name: str, order: str) -> None:
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    torch.manual_seed(0)
    algorithm = ALGORITHMS[name]
    net = MODELS[algorithm.default_model](3, 1, 28, **fixtures.SMALL.get(algorithm.default_model, {}))
    module = algorithm(
        net.double(), inner=InnerLoop(first_order=order == "first"), outer=OuterLoop(max_meta_steps=1), seed=3
    ).double()
    seen = {}
    check = module._check_and_clip

    def keep_gradients():
        seen.update({key: p.grad for key, p in module.named_parameters()})
        seen.update({key: None if g is None else g.clone() for key, g in seen.items()})
        check()

    module._check_and_clip = keep_gradients
    data = EpisodicDataModule(
        fixtures.Blobs(cache), n_way=3, n_query=5, meta_batch_size=3, max_meta_steps=1, val_episodes=3, test_episodes=7
    )
    trainer = pl.Trainer(
        accelerator="cpu", devices=ranks, strategy=NAME if ranks > 1 else "auto", max_epochs=-1, inference_mode=False,
        use_distributed_sampler=False, reload_dataloaders_every_n_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, precision="64-true",
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    state = {key: value.clone() for key, value in module.state_dict().items()}
    torch.save(
        {"gradients": seen, "rows": module.test_rows, "state": state}, f"{out}/{name}-{order}-{world()[0]}of{ranks}.pt"
    )


if __name__ == "__main__":
    for case in sys.argv[3:]:
        run(*sys.argv[1:3], *case.split(":"))
