"""A source of a few tiny images, a Trainer set up as the command line does it, and small arguments for every class."""

from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from few_shot_nas.algorithms import ALGORITHMS
from few_shot_nas.algorithms.alpha_search import AlphaLoop
from few_shot_nas.algorithms.pruning_search import Pruning
from few_shot_nas.algorithms.settings import InnerLoop, OuterLoop
from few_shot_nas.data.episodic import EpisodicDataModule
from few_shot_nas.data.flat import FlatDataModule
from few_shot_nas.data.source import Source, SplitPlan
from few_shot_nas.models import MODELS
from few_shot_nas.runtime.checkpoint import MetaCheckpoint

CLASSES = {"train": 12, "val": 6, "test": 7}
DATA_MODULES = {"episodes": EpisodicDataModule, "flat": FlatDataModule}
#: Settings of algorithms whose published ones are too slow to run in every test.
SMALL_SETTINGS = {
    "Reptile": {"inner": InnerLoop(1e-3, 3, eval_inner_steps=5, first_order=True, inner_optimizer="adam")},
    "MetaNAS": {
        "inner": InnerLoop(1e-3, 2, eval_inner_steps=2, first_order=True, inner_optimizer="adam"),
        "alphas": AlphaLoop(alpha_inner_lr=1e-3, alpha_lr=0.6, decode_episodes=2),
    },
    "TNAS": {
        "inner": InnerLoop(0.01, 2, eval_inner_steps=2, first_order=True),
        "alphas": AlphaLoop(decode_episodes=2),
    },
    "TNASPlusPlus": {
        "inner": InnerLoop(0.01, 2, eval_inner_steps=2, first_order=True),
        "alphas": AlphaLoop(decode_episodes=2),
    },
    "MetaNTKNAS": {"pruning": Pruning(repeats=1, regions_crops=50)},
    "TENAS": {"pruning": Pruning(repeats=1, regions_crops=50), "kernel_batch": 4},
}
#: Networks of algorithms that the small one of their default model does not suit.
SMALL_NETS = {name: {"channels": 4, "cells": 2, "nodes": 1} for name in ("MetaNTKNAS", "TENAS")}
#: Flags that make a model small enough to run in every test.
SMALL = {
    "Conv4": {"width": 4},
    "Supernet": {"channels": 4, "cells": 1, "nodes": 2},
    "MixedSupernet": {"space": "chain", "channels": 2, "cells": 2},
    "PairMixedSupernet": {"channels": 2, "cells": 1, "nodes": 2},
}


class Blobs(Source):
    """Classes are bright squares at different places, with noise; 28x28, 8 images a class."""

    name = "Blobs"
    in_channels = 1
    mean = (0.2,)
    std = (0.3,)

    def __init__(self, cache_dir: str) -> None:
        super().__init__("nowhere", cache_dir, 28)

    def split_names(self):
        return tuple(CLASSES)

    def settings(self):
        return {}

    def input_files(self):
        return []

    def plan(self):
        return {
            split: SplitPlan(
                tuple(f"{split}{index}" for index in range(count)), (8,) * count, (28, 28, 1), self._draw(split, count)
            )
            for split, count in CLASSES.items()
        }

    def _draw(self, split, count):
        rng = np.random.default_rng(len(split))
        for _ in range(count):
            top, left = rng.integers(0, 20, 2)
            for _ in range(8):
                image = rng.integers(0, 60, (28, 28, 1))
                image[top : top + 8, left : left + 8] += rng.integers(100, 190)
                yield image.astype(np.uint8)


@pytest.fixture(scope="session")
def blobs(tmp_path_factory):
    source = Blobs(str(tmp_path_factory.mktemp("cache")))
    source.prepare()
    return source


def build_module(name, max_meta_steps=6, **changes):
    """An algorithm on its default model, the same every time."""
    torch.manual_seed(0)
    algorithm = ALGORITHMS[name]
    net = MODELS[algorithm.default_model](3, 1, 28, **SMALL_NETS.get(name, SMALL.get(algorithm.default_model, {})))
    outer = OuterLoop(max_meta_steps=max_meta_steps, log_every=1, outer_lr=1e-2)
    return algorithm(net, outer=outer, seed=3, **{**SMALL_SETTINGS.get(name, {}), **changes})


def build_data(source, kind, max_meta_steps=6, **changes):
    """The data module of that kind on a few classes."""
    settings = {"n_way": 3, "k_shot": 1, "n_query": 5, "meta_batch_size": 2, "val_every": 4, "val_episodes": 3}
    settings |= {"test_episodes": 5, "seed": 3, **changes}
    return DATA_MODULES[kind](source, max_meta_steps=max_meta_steps, **settings)


def build_trainer(folder, save_every=3):
    """A Trainer, and its callback that writes checkpoints into the folder."""
    checkpoint = MetaCheckpoint(str(folder), save_every=save_every)
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_epochs=-1, inference_mode=False, use_distributed_sampler=False,
        reload_dataloaders_every_n_epochs=1, logger=False, callbacks=[checkpoint], enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    return trainer, checkpoint


@pytest.fixture
def make_module():
    """Build an algorithm by name."""
    return build_module


@pytest.fixture
def make_data(blobs, request):
    """Build the data module that the algorithm of the test's parameter ``name`` is trained on."""
    algorithm = ALGORITHMS.get(request.node.callspec.params.get("name") if hasattr(request.node, "callspec") else None)
    return partial(build_data, blobs, algorithm.data_kind if algorithm else "episodes")


@pytest.fixture
def make_trainer(tmp_path):
    """Return (trainer, checkpoint callback) writing into a folder of that name."""
    return lambda name="run", save_every=3: build_trainer(tmp_path / name, save_every)


class Whole(NamedTuple):
    """A run of six meta-steps that nothing interrupted, for many tests to look at and none to change."""

    module: Any
    start: dict[str, torch.Tensor]
    losses: list[float | None]
    checkpoint: MetaCheckpoint
    data: Any


@pytest.fixture(scope="module")
def whole(blobs, tmp_path_factory):
    """Return the whole run of an algorithm; it is made once."""

    @cache
    def run(name):
        module, losses = build_module(name), []
        start = {key: value.clone() for key, value in module.state_dict().items()}
        module.log_row = lambda row: losses.append(row.get("train/loss"))
        trainer, checkpoint = build_trainer(tmp_path_factory.mktemp(name))
        data = build_data(blobs, ALGORITHMS[name].data_kind)
        trainer.fit(module, datamodule=data)
        return Whole(module, start, losses, checkpoint, data)

    return run
