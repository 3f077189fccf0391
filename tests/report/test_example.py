"""The example of a run in its report. Truth: files written by hand."""

import json

import pytest

from few_shot_nas.errors import InputError
from few_shot_nas.report import load_run, write_report
from few_shot_nas.report.example import read_example

EXAMPLE = {
    "task_id": 7,
    "bn_mode": "support",
    "classes": ["cat", "<dog>"],
    "right": 1,
    "queries": 2,
    "support": [{"label": 1, "png": "AAAA"}, {"label": 0, "png": "BBBB"}],
    "query": [
        {"label": 0, "predicted": 0, "probability": 0.9, "png": "CCCC"},
        {"label": 0, "predicted": 1, "probability": 0.6, "png": "DDDD"},
    ],
    "split_classes": {"train": 64, "test": 20},
}


def test_answers_stand_by_name_and_wrong_ones_with_the_truth(make_run):
    path = make_run(search=False)
    assert read_example(load_run(path)) is None
    (path / "example.json").write_text(json.dumps(EXAMPLE))
    found = read_example(load_run(path))
    assert [(name, len(images)) for name, images in found["support"]] == [("cat", 1), ("<dog>", 1)]
    assert [(q["answer"], q["right"]) for q in found["queries"]] == [("cat", True), ("<dog>", False)]
    text = write_report(path).read_text(encoding="utf-8")
    assert "Test task 7, statistics support: 1 of 2 queries are right" in text and "train 64, test 20" in text
    assert "60 %, wrong" in text and ">&lt;dog&gt;<" in text and "not cat" in text and "<dog>" not in text


@pytest.mark.parametrize(
    "change",
    [{"classes": ["cat"]}, {"query": None}, {"support": [{"label": 0, "png": '"onerror="'}]}, {"right": "most"}],
)
def test_a_damaged_example_is_named(make_run, change):
    path = make_run(search=False)
    (path / "example.json").write_text(json.dumps(EXAMPLE | change))
    with pytest.raises(InputError, match=r"example\.json"):
        read_example(load_run(path))
