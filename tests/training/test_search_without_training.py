"""A search that trains nothing, from the command line: cut short, continued to its end, and without an optimizer."""

import csv
import json
from pathlib import Path

import pytest

from few_shot_nas.spaces.genotype import Genotype
from training import run_experiment

SEARCH = (
    "--algorithm=TENAS --space=nb201 --channels=2 --cells=2 --nodes=1 --n_way=3 --n_query=2 --meta_batch_size=1 "
    "--repeats=1 --regions_crops=20 --kernel_batch=4 --val_episodes=2 --test_episodes=2 --run_dir=r"
).split()


@pytest.mark.usefixtures("tiny_search")
def test_a_search_goes_on_where_it_was_cut_and_ends_by_itself() -> None:
    assert run_experiment.main([*SEARCH, "--max_meta_steps=3"]) == 0
    assert json.loads(Path("r/results.json").read_text())["search"]["candidates_scored"] == 3
    assert run_experiment.main([*SEARCH, "--max_meta_steps=100", "--ckpt_path=last"]) == 0
    results = json.loads(Path("r/results.json").read_text())
    search = results["search"]
    assert results["meta_steps"] == search["candidates_scored"] == search["candidates_in_all"] == 14
    with Path("r/metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["search/log_kappa"]]
    assert [int(row["meta_step"]) for row in rows] == list(range(1, 15))
    assert [row["search/margin"] != "" for row in rows] == [step in (5, 9, 12, 14) for step in range(1, 15)]
    assert len(Genotype.load("r/genotype.json").edges[0][1]) == 1
