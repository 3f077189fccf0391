"""The choice of an engine by a clock that the test turns."""

import json

import pytest

from few_shot_nas.runtime.engine_choice import FILE, fastest


class Clock:
    def __init__(self):
        self.now = 0.0
        self.calls = []

    def step(self, name, *seconds):
        """A step that takes these seconds, the last ones from then on."""
        left = list(seconds)

        def run():
            self.calls.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


@pytest.fixture
def clock():
    return Clock()


def test_the_first_call_does_not_count_and_the_median_decides(clock, tmp_path):
    steps = {"slow start": clock.step("a", 50, 1, 9, 1), "steady": clock.step("b", 2)}
    assert fastest(steps, "here", tmp_path, lambda: clock.now) == "slow start"
    assert clock.calls == ["a", "b"] * 4


def test_a_choice_is_kept_by_its_key(clock, tmp_path, caplog):
    caplog.set_level("INFO")
    first = {"a": clock.step("a", 1), "b": clock.step("b", 2)}
    turned = {"a": clock.step("a", 2), "b": clock.step("b", 1)}
    assert fastest(first, "here", tmp_path, lambda: clock.now) == "a"
    assert fastest(turned, "here", tmp_path, lambda: clock.now) == "a"
    assert fastest(turned, "there", tmp_path, lambda: clock.now) == "b"
    assert json.loads((tmp_path / FILE).read_text()) == {"here": "a", "there": "b"}
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith("engine=auto: a (a 1000.0 ms, b 2000.0 ms per meta-step), kept in ")
    assert lines[1].startswith("engine=auto: a, as chosen before")


@pytest.mark.parametrize("content", ["{", "[]", '{"here": "gone"}'])
def test_a_damaged_file_or_an_engine_that_is_gone_is_chosen_anew(content, clock, tmp_path):
    (tmp_path / FILE).write_text(content)
    steps = {"a": clock.step("a", 1), "b": clock.step("b", 2)}
    assert fastest(steps, "here", tmp_path, lambda: clock.now) == "a"
    assert json.loads((tmp_path / FILE).read_text())["here"] == "a"


def test_without_a_folder_nothing_is_kept(clock):
    assert fastest({"a": clock.step("a", 1)}, "here", None, lambda: clock.now) == "a"
