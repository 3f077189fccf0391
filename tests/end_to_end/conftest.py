"""A cache of the built-in images that all end-to-end runs of a session share, and flags for the smallest real run."""

import pytest

from few_shot_nas.data.sources import SOURCES


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    SOURCES["Glyphs"](cache_dir=str(folder)).prepare()
    return str(folder)


@pytest.fixture
def flags(cache):
    """Return the flags of a tiny run of an algorithm into a folder."""

    def make(algorithm, run_dir, max_meta_steps=8, **changes):
        settings = {
            "algorithm": algorithm, "run_dir": run_dir, "max_meta_steps": max_meta_steps, "cache_dir": cache,
            "val_every": 3, "val_episodes": 2, "test_episodes": 3, "n_way": 3, "n_query": 4, "meta_batch_size": 2,
            "log_every": 1, "save_every": 2, "seed": 1,
        }  # fmt: skip
        if algorithm == "MAML":
            settings["width"] = 4
        else:
            settings |= {"channels": 4, "cells": 1, "nodes": 2, "derive_candidates": 2, "derive_episodes": 2}
        return [f"--{name}={value}" for name, value in {**settings, **changes}.items()]

    return make
