"""A folder of small photographs that all end-to-end runs of a session share, and flags for the smallest real run."""

import pytest

from tests.training.photos import write_classes


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Fifteen classes of eight photographs, which the source divides into splits."""
    folder = tmp_path_factory.mktemp("photos")
    write_classes(folder / "photos", {f"class{hue}": hue / 15 for hue in range(15)}, 8, (16, 16))
    return folder


@pytest.fixture(scope="session")
def flags(photos):
    """Return the flags of a tiny run of an algorithm into a folder."""

    def make(algorithm, run_dir, max_meta_steps=8, **changes):
        settings = {
            "algorithm": algorithm, "run_dir": run_dir, "max_meta_steps": max_meta_steps, "data_class": "ImageFolder",
            "data_dir": photos / "photos", "cache_dir": photos / "cache", "image_size": 16, "val_every": 3,
            "val_episodes": 2, "test_episodes": 3, "n_way": 3, "n_query": 4, "meta_batch_size": 2, "log_every": 1,
            "save_every": 2, "seed": 1,
        }  # fmt: skip
        if algorithm == "MAML":
            settings["width"] = 4
        else:
            settings |= {"channels": 4, "cells": 1, "nodes": 2, "derive_candidates": 2, "derive_episodes": 2}
        return [f"--{name}={value}" for name, value in {**settings, **changes}.items()]

    return make
