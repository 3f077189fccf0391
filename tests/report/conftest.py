"""A synthetic run directory, written by hand from the documented format and not by the code that runs write it with."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

GENOTYPE = {
    "space": "darts_fewshot",
    "channels": 16,
    "cells": 2,
    "nodes": 3,
    "edges": {
        "normal": [
            {"op": "sep_conv_3x3", "src": 0, "dst": 2},
            {"op": "skip_connect", "src": 1, "dst": 2},
            {"op": "conv_1x5_5x1", "src": 0, "dst": 3},
            {"op": "dil_conv_3x3", "src": 2, "dst": 3},
            {"op": "avg_pool_3x3BN", "src": 1, "dst": 4},
            {"op": "conv_3x3", "src": 3, "dst": 4},
        ],
        "reduce": [
            {"op": "max_pool_3x3BN", "src": 0, "dst": 2},
            {"op": "conv_3x3", "src": 1, "dst": 2},
            {"op": "skip_connect", "src": 0, "dst": 3},
            {"op": "sep_conv_3x3", "src": 1, "dst": 3},
            {"op": "dil_conv_3x3", "src": 0, "dst": 4},
            {"op": "max_pool_3x3BN", "src": 1, "dst": 4},
        ],
    },
}


def _metrics(rng: np.random.Generator, steps: int, controller: bool, watched: tuple[str, ...]) -> str:
    columns = ["meta_step", "train/loss", "train/accuracy", "val/accuracy", "val/ci95", "val/loss"]
    if controller:
        columns += ["controller/reward", "controller/baseline", "controller/entropy", "controller/entropy_fraction"]
    columns += watched
    lines = [",".join(columns)]
    for step in range(10, steps + 1, 10):
        progress = 1 - math.exp(-step / (0.3 * steps))
        cells = [str(step), f"{1.6 - 1.1 * progress + 0.08 * rng.normal():.6f}"]
        cells += [f"{min(1, 0.2 + 0.55 * progress + 0.04 * rng.normal()):.6f}"]
        validated = step % (steps // 10) == 0
        cells += [f"{0.2 + 0.5 * progress:.6f}", "0.017", f"{1.62 - 1.0 * progress:.6f}"] if validated else ["", "", ""]
        if controller:
            reward = 0.2 + 0.5 * progress + 0.05 * rng.normal()
            fraction = 1 - 0.6 * progress
            cells += [f"{reward:.6f}", f"{0.18 + 0.5 * progress:.6f}", f"{29.1 * fraction:.6f}", f"{fraction:.6f}"]
        values = {"train/eval_accuracy": 0.2 + 0.7 * progress, "val/gap": 0.2 * progress, "val/support_accuracy": 0.97}
        for name in watched:
            value = values[name] if name in values else 0.2 + 0.5 * progress * int(name[-1]) / 3
            cells.append(f"{value:.6f}" if validated else "")
        lines.append(",".join(cells))
    return "\n".join(lines) + "\n"


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a run directory and gives its path.

    ``accuracy`` is the mean over episodes; the difficulty of each task is the same for every run with the same
    ``seed``, so that pairing runs makes sense. ``omit`` names files to leave out, ``results`` overrides fields,
    ``watched`` names further columns of the validations, and ``classes`` adds the classes of each task.
    """

    def make(
        name: str = "run",
        *,
        accuracy: float = 0.7,
        episodes: int = 120,
        steps: int = 1000,
        search: bool = True,
        config: dict[str, Any] | None = None,
        results: dict[str, Any] | None = None,
        omit: tuple[str, ...] = (),
        watched: tuple[str, ...] = (),
        classes: bool = False,
    ) -> Path:
        path = tmp_path / name
        path.mkdir(parents=True)
        rng = np.random.default_rng(sum(name.encode()))
        difficulty = np.random.default_rng(0).normal(size=episodes)
        rows, tested = ["task_id,bn_mode,accuracy,loss" + ",classes" * classes], {}
        named = [",{} {} {}".format(*(task % 7, 7 + task % 5, 12 + task % 4)) * classes for task in range(episodes)]
        for mode, shift in (("transductive", 0.0), ("support", -0.04)):
            chance = np.clip(accuracy + shift + 0.07 * difficulty + 0.03 * rng.normal(size=episodes), 0.05, 0.98)
            scores = rng.binomial(75, chance) / 75
            rows += [f"{task},{mode},{score},{1.2 - score}{named[task]}" for task, score in enumerate(scores.tolist())]
            half = 1.98 * scores.std(ddof=1) / math.sqrt(episodes)
            tested[mode] = {"accuracy": scores.mean(), "ci95": half, "episodes": episodes}
        content = {
            "algorithm": "MAMLENAS" if search else "MAML",
            "model_class": "Supernet" if search else "Conv4",
            "data_class": "Glyphs",
            "n_way": 5, "k_shot": 1, "n_query": 15, "seed": 0, "meta_steps": steps, "wall_seconds": 83.4,
            "regime": "inherited" if search else "scratch", "split": "test", "test": tested,
            "parameters": 31_285 if search else 111_936, "macs": 5_120_000,
            "hardware": "cpu: 2 cores", "versions": {"python": "3.11.7", "torch": "2.11.0"},
            "command": f"python training/run_experiment.py --algorithm=MAMLENAS --run_dir={name}",
        }  # fmt: skip
        if search:
            content["search"] = {"reward_calls": 4 * steps}
        flags = {"algorithm": content["algorithm"], "data_class": "Glyphs", "n_way": 5, "inner_lr": 0.4}
        files = {
            "config.yaml": "".join(f"{key}: {value}\n" for key, value in (flags | (config or {})).items()),
            "metrics.csv": _metrics(rng, steps, search, watched),
            "episodes.csv": "\n".join(rows) + "\n",
            "results.json": json.dumps(content | (results or {}), indent=2),
        }
        if search:
            files["genotype.json"] = json.dumps(GENOTYPE)
        for file, text in files.items():
            if file not in omit:
                (path / file).write_text(text, encoding="utf-8")
        return path

    return make
