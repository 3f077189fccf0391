"""What benchmarks/collect.py keeps of a run, and the table that is rendered from it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import tables
from benchmarks.collect import single_run


def test_a_learning_curve_has_the_training_accuracy_since_the_validation_before(
    make_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_run(config={"image_size": 42}, results={"legs": [1, 2]})
    lines = ["10,0.3,", "20,0.5,", "20,,0.44", "30,0.6,", "40,,0.5", "50,,0.55"]
    (path / "metrics.csv").write_text("\n".join(["meta_step,train/accuracy,val/accuracy", *lines]) + "\n")
    kept = single_run(path)
    assert kept["learning_curve"] == [[20, 0.44, pytest.approx(0.4)], [40, 0.5, 0.6], [50, 0.55, None]]
    assert "legs" not in kept and kept["algorithm"] == "MAMLENAS"
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "x.json").write_text(json.dumps(kept))
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    assert tables.curves_table(("x",))[2] == "| `x` | 42x42 | 20: 44.0 (40.0), 40: 50.0 (60.0), 50: 55.0 |"
