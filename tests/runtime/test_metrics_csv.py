"""metrics.csv keeps every row, whatever columns come and whenever the process dies."""

import csv
from pathlib import Path

import pytest
import torch

from few_shot_nas.runtime.metrics_csv import MetricsCSV


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "metrics.csv"


def test_no_file_before_the_first_row(path: Path) -> None:
    MetricsCSV(path)
    assert not path.parent.exists()


def test_rows_are_on_disk_as_soon_as_they_are_logged(path: Path) -> None:
    log = MetricsCSV(path)
    log.log_metrics({"train/loss": 0.5}, step=1)
    assert rows(path) == [{"meta_step": "1", "train/loss": "0.5"}]
    log.log_metrics({"train/loss": 0.25}, step=2)
    assert len(rows(path)) == 2


def test_numbers_read_back_bit_for_bit(path: Path) -> None:
    value = 0.1 + 0.2
    MetricsCSV(path).log_metrics({"a": value, "b": torch.tensor(value, dtype=torch.float64), "n": 3}, step=1)
    (row,) = rows(path)
    assert float(row["a"]) == value == float(row["b"])
    assert row["n"] == "3"


def test_infinities_and_nan_are_kept(path: Path) -> None:
    MetricsCSV(path).log_metrics({"a": float("nan"), "b": float("-inf")}, step=1)
    assert rows(path) == [{"meta_step": "1", "a": "nan", "b": "-inf"}]


def test_a_new_metric_adds_a_column_and_blanks_above(path: Path) -> None:
    log = MetricsCSV(path)
    log.log_metrics({"train/loss": 1.0}, step=1)
    log.log_metrics({"val/accuracy": 0.5}, step=1)
    log.log_metrics({"train/loss": 0.5}, step=2)
    assert path.read_text(encoding="utf-8") == "meta_step,train/loss,val/accuracy\n1,1.0,\n1,,0.5\n2,0.5,\n"


def test_meta_step_among_the_metrics_wins_and_epoch_is_dropped(path: Path) -> None:
    MetricsCSV(path).log_metrics({"meta_step": 7, "epoch": 3, "a": 1.0}, step=99)
    assert rows(path) == [{"meta_step": "7", "a": "1.0"}]


def test_a_row_without_a_step_is_a_defect(path: Path) -> None:
    with pytest.raises(ValueError, match="without a step"):
        MetricsCSV(path).log_metrics({"a": 1.0})


def test_an_existing_file_is_continued(path: Path) -> None:
    MetricsCSV(path).log_metrics({"a": 1.0, "b": 2.0}, step=1)
    MetricsCSV(path).log_metrics({"b": 3.0, "c": 4.0}, step=2)
    assert rows(path) == [
        {"meta_step": "1", "a": "1.0", "b": "2.0", "c": ""},
        {"meta_step": "2", "a": "", "b": "3.0", "c": "4.0"},
    ]


def test_truncation_drops_the_rows_that_a_resumed_run_repeats(path: Path) -> None:
    log = MetricsCSV(path)
    for step in range(1, 6):
        log.log_metrics({"a": step / 2}, step=step)
    MetricsCSV(path).truncate_after(3)
    assert [row["meta_step"] for row in rows(path)] == ["1", "2", "3"]
    again = MetricsCSV(path)
    again.log_metrics({"a": 9.0}, step=4)
    assert [row["meta_step"] for row in rows(path)] == ["1", "2", "3", "4"]


def test_truncation_without_a_file_does_nothing(path: Path) -> None:
    MetricsCSV(path).truncate_after(3)
    assert not path.exists()


@pytest.mark.parametrize("cut", ["3,", "3,1.0,2.", "3"])
def test_a_last_line_cut_by_a_kill_is_dropped(path: Path, cut: str) -> None:
    log = MetricsCSV(path)
    log.log_metrics({"a": 1.0, "b": 1.0}, step=1)
    log.log_metrics({"a": 1.0, "b": 1.0}, step=2)
    with path.open("a", encoding="utf-8") as file:
        file.write(cut)
    MetricsCSV(path).log_metrics({"a": 5.0}, step=3)
    assert [row["meta_step"] for row in rows(path)] == ["1", "2", "3"]


def test_an_empty_file_is_started_again(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("", encoding="utf-8")
    MetricsCSV(path).log_metrics({"a": 5.0}, step=3)
    assert rows(path) == [{"meta_step": "3", "a": "5.0"}]


def test_lightning_is_told_where_the_file_is(path: Path) -> None:
    log = MetricsCSV(path)
    assert log.save_dir == str(path.parent)
    assert (log.name, log.version) == ("metrics", "")
    log.log_hyperparams({"a": 1})
    assert not path.exists()
