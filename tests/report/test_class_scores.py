"""Scores of single classes in a report. Truth: files written by hand."""

import json

import pytest

from few_shot_nas.errors import InputError
from few_shot_nas.report import load_run, write_report
from few_shot_nas.report.class_scores import read_class_scores

SCORES = {
    "split": "test",
    "bn_mode": "support",
    "classes": [
        {"name": "<cat>", "right": 1, "queries": 8},
        {"name": "dog", "right": 3, "queries": 4},
        *({"name": f"class {number}", "right": 4, "queries": 4} for number in range(9)),
    ],
    "classes_left_out": 2,
    "pairs": [{"truth": "<cat>", "answer": "dog", "answered": 7, "queries": 8}],
}


def test_the_hardest_classes_come_first_and_confused_pairs_with_their_share(make_run):
    path = make_run(search=False)
    assert read_class_scores(load_run(path)) is None
    assert "Hardest classes" not in write_report(path).read_text(encoding="utf-8")
    (path / "classes.json").write_text(json.dumps(SCORES))
    found = read_class_scores(load_run(path))
    assert found["worst"][:2] == [("<cat>", "12.5", 8), ("dog", "75.0", 4)]
    assert len(found["worst"]) + len(found["others"]) == 11
    assert found["pairs"] == [("<cat>", "dog", "87.5", 7, 8)]
    text = write_report(path).read_text(encoding="utf-8")
    assert "13 classes of the test split, statistics support" in text and "2 classes with more right answers" in text
    assert "&lt;cat&gt;" in text and "7 of 8" in text and "<cat>" not in text


@pytest.mark.parametrize(
    "change",
    [
        {"classes": [{"name": "cat", "right": 5, "queries": 4}]},
        {"classes": [{"name": "cat", "right": 0, "queries": 0}]},
        {"pairs": None},
        {"pairs": [{"truth": "cat"}]},
        {"classes_left_out": "many"},
    ],
)
def test_damaged_scores_are_named(make_run, change):
    path = make_run(search=False)
    (path / "classes.json").write_text(json.dumps(SCORES | change))
    with pytest.raises(InputError, match=r"classes\.json"):
        read_class_scores(load_run(path))
