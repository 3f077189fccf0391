"""Loading a run directory: what is optional, and which message names what is wrong. Truth: files written by hand."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from few_shot_nas.errors import InputError
from few_shot_nas.report import load_run

MakeRun = Callable[..., Path]


def test_blank_cells_are_left_out_of_a_series(make_run: MakeRun) -> None:
    path = make_run()
    (path / "metrics.csv").write_text("meta_step,train/loss,val/accuracy\n1,1.5,\n2,1.25,0.5\n3,,0.75\n")
    run = load_run(path)
    np.testing.assert_array_equal(run.series("train/loss"), [[1, 2], [1.5, 1.25]])
    np.testing.assert_array_equal(run.series("val/accuracy"), [[2, 3], [0.5, 0.75]])
    assert run.series("controller/reward")[0].size == 0


def test_episodes_are_ordered_by_task_id_whatever_the_file_does(make_run: MakeRun) -> None:
    path = make_run(results={"test": {}})
    (path / "episodes.csv").write_text(
        "task_id,bn_mode,accuracy,loss\n7,support,0.5,1.0\n2,transductive,0.75,\n3,support,0.25,2.0\n"
    )
    episodes = load_run(path).episodes
    assert episodes["support"].task_id.tolist() == [3, 7]
    assert episodes["support"].accuracy.tolist() == [0.25, 0.5]
    assert np.isnan(episodes["transductive"].loss).all()


@pytest.mark.parametrize("file", ["metrics.csv", "episodes.csv", "genotype.json"])
def test_optional_files_may_be_missing(make_run: MakeRun, file: str) -> None:
    run = load_run(make_run(omit=(file,)))
    assert {"metrics.csv": run.metrics, "episodes.csv": run.episodes, "genotype.json": run.genotype}[file] in ({}, None)


@pytest.mark.parametrize("file", ["results.json", "config.yaml"])
def test_a_missing_file_is_named(make_run: MakeRun, file: str) -> None:
    with pytest.raises(InputError, match=rf"run/{file} is missing"):
        load_run(make_run(omit=(file,)))


def test_a_path_that_is_no_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere is not a run directory"):
        load_run(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("results.json", '{"algorithm": "MAML",\n', "results.json is damaged: line 2"),
        ("results.json", "[]", "results.json is damaged: it must hold one JSON object"),
        ("results.json", '{"algorithm": "MAML"}', "the field model_class is missing"),
        ("config.yaml", "a: [1", "config.yaml is damaged: not YAML"),
        ("config.yaml", "- 1", "config.yaml is damaged: it must hold flags"),
        ("metrics.csv", "step,train/loss\n1,2\n", "metrics.csv is damaged: the column meta_step is missing"),
        ("metrics.csv", "meta_step,train/loss\n1,2\n3\n", "metrics.csv is damaged: line 3 has 1 cells"),
        ("metrics.csv", "meta_step,train/loss\n1,two\n", "line 2, column train/loss holds 'two'"),
        ("metrics.csv", "", "metrics.csv is damaged: the column meta_step is missing"),
        ("episodes.csv", "task_id,accuracy\n1,0.5\n", "episodes.csv is damaged: the column bn_mode is missing"),
        ("episodes.csv", "task_id,bn_mode,accuracy\n1,support,71.5\n", "line 2 has accuracy '71.5', a fraction"),
        ("episodes.csv", "task_id,bn_mode,accuracy\n1.5,support,0.5\n", "task_id '1.5', a whole number"),
        ("episodes.csv", "task_id,bn_mode,accuracy\n4,support,0.5\n4,support,0.5\n", "task 4 occurs twice"),
        ("genotype.json", "{", "genotype.json: not a genotype"),
    ],
)
def test_a_damaged_file_and_what_is_wrong_with_it_are_named(
    make_run: MakeRun, file: str, text: str, message: str
) -> None:
    path = make_run()
    (path / file).write_text(text)
    with pytest.raises(InputError, match=message):
        load_run(path)


def test_a_file_that_is_not_text_is_named(make_run: MakeRun) -> None:
    path = make_run()
    (path / "config.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="config.yaml is damaged: it is not text"):
        load_run(path)


@pytest.mark.parametrize("score", [0.5, {"accuracy": "high"}, {"ci95": 0.1}])
def test_a_score_that_is_no_number_is_named(make_run: MakeRun, score: object) -> None:
    with pytest.raises(InputError, match=r"test\.support must hold the numbers"):
        load_run(make_run(results={"test": {"support": score}}))


def test_episodes_of_another_run_are_not_mixed_in(make_run: MakeRun) -> None:
    path = make_run()
    results = json.loads((path / "results.json").read_text())
    results["test"]["support"]["accuracy"] += 0.01
    (path / "results.json").write_text(json.dumps(results))
    with pytest.raises(InputError, match="results.json has support accuracy .* different runs"):
        load_run(path)
