"""Progress of counted work: one plain line when it is due, and always the last."""

import io
import re

from few_shot_nas.runtime.count_progress import CountProgress


def test_plain_lines_say_how_far_how_fast_and_how_long() -> None:
    stream = io.StringIO()
    with CountProgress("tasks", total=12, done=2, every_seconds=1e9, stream=stream) as progress:
        for done in range(3, 13):
            progress.update(done)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1
    assert re.fullmatch(r"tasks 12/12 \| [0-9.]+ tasks/s \| ETA 0:00", lines[0])


def test_nothing_is_known_of_the_rate_before_the_first() -> None:
    assert CountProgress("tasks", total=5, done=2, stream=io.StringIO()).line(2) == "tasks 2/5"
