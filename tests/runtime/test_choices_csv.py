"""choices.csv: one column per choice, nothing of the metrics, continued like metrics.csv."""

import csv
from pathlib import Path

from few_shot_nas.runtime.choices_csv import ChoicesCSV
from few_shot_nas.runtime.metrics_csv import MetricsCSV
from few_shot_nas.spaces.space import Decision

DECISIONS = (Decision("normal/3/inputs", "inputs", ((0, 1), (0, 2))), Decision("normal/3/op", "op", ("skip", "conv")))


def rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_every_choice_has_a_column_and_every_row_is_on_disk_at_once(tmp_path: Path) -> None:
    path = tmp_path / "run" / "choices.csv"
    log = ChoicesCSV(path)
    log.log_metrics({"train/loss": 1.0}, step=1)
    assert not path.parent.exists()
    log.log_choices(2, DECISIONS, [[0.25, 0.75], [1.0, 0.0]])
    head = ["meta_step", "normal/3/inputs=0+1", "normal/3/inputs=0+2", "normal/3/op=skip", "normal/3/op=conv"]
    assert rows(path) == [head, ["2", "0.25", "0.75", "1.0", "0.0"]]


def test_a_file_is_cut_back_and_continued(tmp_path: Path) -> None:
    path = tmp_path / "choices.csv"
    log = ChoicesCSV(path)
    for step in (1, 2, 3):
        log.log_choices(step, DECISIONS, [[0.5, 0.5], [step / 4, 1 - step / 4]])
    MetricsCSV(path).truncate_after(1)
    ChoicesCSV(path).log_choices(2, DECISIONS, [[0.5, 0.5], [0.0, 1.0]])
    assert [row[0] for row in rows(path)] == ["meta_step", "1", "2"]
    assert rows(path)[2][3:] == ["0.0", "1.0"]
