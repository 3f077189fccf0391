"""Progress lines: what they say, how often, and that a terminal gets a bar instead."""

import io
import logging
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from few_shot_nas.runtime import progress
from few_shot_nas.runtime.progress import EpisodeProgress, quiet_lightning


class Clock:
    """A clock that moves only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    return clock


def trainer(**metrics: float) -> Any:
    return SimpleNamespace(
        callback_metrics={name.replace("_", "/"): torch.tensor(value) for name, value in metrics.items()},
        is_global_zero=True,
        sanity_checking=False,
        num_test_batches=[5],
    )


def module(step: int, total: int = 60000, loss: float = 1.0234, stopped_early: bool = False) -> Any:
    return SimpleNamespace(
        meta_step=step, progress=lambda: (total, f"loss {loss:.3g}"), stopped_early=stopped_early
    )


def train(bar: EpisodeProgress, clock: Clock, steps: int, seconds: float, total: int = 60000) -> None:
    """Run ``steps`` meta-steps of ``seconds`` each."""
    bar.setup(trainer(), module(0), "fit")
    bar.on_train_start(trainer(), module(0, total))
    for step in range(1, steps + 1):
        clock.now += seconds
        bar.on_train_batch_end(trainer(), module(step, total))
    bar.on_train_end(trainer(), module(steps, total))


def test_a_slow_rate_is_not_said_to_be_zero(clock: Clock) -> None:
    stream = io.StringIO()
    train(EpisodeProgress(5.0, stream), clock, steps=1, seconds=13.0, total=500)
    assert "meta_step 1/500 | 0.077 steps/s |" in stream.getvalue()


def test_a_line_says_step_rate_loss_validation_and_time_left(clock: Clock) -> None:
    stream = io.StringIO()
    bar = EpisodeProgress(every_seconds=5.0, stream=stream)
    bar.on_train_start(trainer(), module(1109))
    clock.now += 5.0
    bar.on_train_batch_end(trainer(val_accuracy=0.481, val_ci95=0.0081), module(1200))
    assert stream.getvalue() == (
        "meta_step 1200/60000 | 18.2 steps/s | loss 1.02 | val 48.1 +- 0.8 % | ETA 53:50\n"
    )


def test_before_the_first_validation_there_is_no_accuracy(clock: Clock) -> None:
    stream = io.StringIO()
    train(EpisodeProgress(5.0, stream), clock, steps=2, seconds=5.0)
    assert "val" not in stream.getvalue()


def test_lines_are_at_least_so_many_seconds_apart(clock: Clock) -> None:
    stream = io.StringIO()
    train(EpisodeProgress(5.0, stream), clock, steps=100, seconds=0.5)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 50 / 5 + 1
    assert lines[-1].startswith("meta_step 100/")


@pytest.mark.parametrize("seconds", [0.01, 1.0, 30.0])
def test_ten_thousand_steps_of_any_length_write_less_than_200_kb(clock: Clock, seconds: float) -> None:
    stream = io.StringIO()
    bar = EpisodeProgress(5.0, stream)
    bar.on_train_start(trainer(), module(0, 10000))
    watched = trainer(val_accuracy=0.481, val_ci95=0.0081)
    for step in range(1, 10001):
        clock.now += seconds
        bar.on_train_batch_end(watched, module(step, 10000))
        if step % 5 == 0:
            bar.on_validation_start(watched, module(step, 10000))
            clock.now += seconds
            bar.on_validation_end(watched, module(step, 10000))
    bar.on_train_end(watched, module(10000, 10000))
    assert 0 < len(stream.getvalue()) < 200_000


def test_the_rate_counts_from_where_a_resumed_run_began(clock: Clock) -> None:
    stream = io.StringIO()
    bar = EpisodeProgress(5.0, stream)
    bar.on_train_start(trainer(), module(500, 600))
    clock.now += 10.0
    bar.on_train_batch_end(trainer(), module(520, 600))
    assert "| 2.0 steps/s |" in stream.getvalue()
    assert stream.getvalue().rstrip().endswith("ETA 0:40")


def test_validation_time_does_not_lower_the_training_rate(clock: Clock) -> None:
    stream = io.StringIO()
    bar = EpisodeProgress(5.0, stream)
    bar.on_train_start(trainer(), module(0))
    bar.on_validation_start(trainer(), module(10))
    clock.now += 90.0
    bar.on_validation_end(trainer(val_accuracy=0.5, val_ci95=0.01), module(10))
    clock.now += 10.0
    bar.on_train_batch_end(trainer(), module(20))
    assert "meta_step 10 | validation 50.0 +- 1.0 % | 90.0 s" in stream.getvalue()
    assert "| 2.0 steps/s |" in stream.getvalue()


def test_a_test_says_how_far_it_is(clock: Clock) -> None:
    stream = io.StringIO()
    bar = EpisodeProgress(5.0, stream)
    bar.on_test_start(trainer(), module(0))
    for batch in range(5):
        clock.now += 2.0
        bar.on_test_batch_end(trainer(), module(0), None, None, batch)
    bar.on_test_end(trainer(), module(0))
    assert stream.getvalue().splitlines() == ["test meta-batch 3/5", "test finished in 10.0 s"]


def test_other_ranks_are_silent(clock: Clock) -> None:
    stream = io.StringIO()
    bar = EpisodeProgress(5.0, stream)
    other = trainer(val_accuracy=0.5)
    other.is_global_zero = False
    bar.setup(other, module(0), "fit")
    bar.on_train_start(other, module(0))
    clock.now += 100.0
    bar.on_train_batch_end(other, module(20))
    bar.on_validation_start(other, module(20))
    bar.on_validation_end(other, module(20))
    bar.on_train_end(other, module(20))
    assert stream.getvalue() == ""


def test_a_terminal_gets_a_bar_and_one_last_line(clock: Clock) -> None:
    stream = Terminal()
    train(EpisodeProgress(5.0, stream), clock, steps=30, seconds=1.0, total=30)
    assert "━" in stream.getvalue()
    assert "meta_step 30/30 |" in stream.getvalue().rstrip().splitlines()[-1]


@pytest.mark.parametrize("make_stream", [io.StringIO, Terminal])
def test_a_run_that_stopped_early_ends_with_where_and_without_a_time_left(
    clock: Clock, make_stream: Callable[[], io.StringIO]
) -> None:
    stream = make_stream()
    bar = EpisodeProgress(5.0, stream)
    bar.on_train_start(trainer(), module(0, 100))
    clock.now += 15.0
    bar.on_train_batch_end(trainer(), module(30, 100))
    assert bar._bar is not None or "ETA 0:35" in stream.getvalue()
    before = len(stream.getvalue())
    bar.on_train_end(trainer(), module(30, 100, stopped_early=True))
    said = stream.getvalue()[before:]
    assert said.endswith("meta_step 30/100 | 2.0 steps/s | loss 1.02 | stopped early at meta_step 30\n")
    assert "ETA" not in said


def test_an_exception_stops_the_bar(clock: Clock) -> None:
    bar = EpisodeProgress(5.0, Terminal())
    bar.on_train_start(trainer(), module(0))
    assert bar._bar is not None
    bar.on_exception(trainer(), module(0), ValueError())
    assert bar._bar is None


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("💡 Tip: For seamless cloud logging, try installing litlogger", False),
        ("TPU available: False, using: 0 TPU cores", False),
        ("", False),
        ("Restoring states from the checkpoint path at last.ckpt", True),
    ],
)
def test_adverts_are_dropped_and_news_is_kept(message: str, shown: bool, caplog: pytest.LogCaptureFixture) -> None:
    quiet_lightning()
    quiet_lightning()
    logger = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    assert len([known for known in logger.filters if known is progress._is_wanted]) == 1
    assert bool(logger.filter(logger.makeRecord(logger.name, logging.INFO, "f", 1, message, (), None))) is shown


def test_warnings_that_do_not_apply_to_episodes_are_dropped() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quiet_lightning()
        warnings.warn("The 'train_dataloader' does not have many workers which may be a bottleneck.", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["something else"]
