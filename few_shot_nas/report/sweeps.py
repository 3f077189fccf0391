"""The trials of a sweep as a table, best first, and as a page."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from matplotlib.ticker import NullFormatter
from markupsafe import Markup
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState
from rich import box
from rich.table import Table

from few_shot_nas.report.curves import BLUE, INK, ORANGE, panel, style, to_svg
from few_shot_nas.report.page import write_page
from few_shot_nas.report.tables import duration
from few_shot_nas.whole_file import write_text

_STATES = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "stopped early",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}


@dataclass(frozen=True)
class SweepTable:
    """Trials of a sweep.

    Attributes:
        title: what was swept.
        head: titles of the columns.
        rows: cells, best trial first; trials without a value come last.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def rich(self) -> Table:
        """Return the table for the terminal."""
        table = Table(title=self.title, box=box.SIMPLE)
        for name in self.head:
            table.add_column(name, justify="left" if name == "state" else "right", overflow="fold")
        for row in self.rows:
            table.add_row(*row)
        return table

    def save_csv(self, path: Path) -> None:
        """Write the table as CSV."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.head, *self.rows])
        write_text(path, text.getvalue())


def best_value(trial: FrozenTrial) -> float | None:
    """Return a trial's best metric, also of one that was stopped early; None where it has none."""
    return trial.user_attrs.get("best")


def ordered(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that were begun, best first, those without a value last."""
    begun = [trial for trial in study.get_trials(deepcopy=False) if trial.state in _STATES]
    sign = -1.0 if study.direction == optuna.study.StudyDirection.MAXIMIZE else 1.0
    return sorted(begun, key=lambda trial: _rank(sign, best_value(trial), trial.number))


def _rank(sign: float, value: float | None, number: int) -> tuple[bool, float, int]:
    return value is None, 0.0 if value is None else sign * value, number


def sweep_table(study: optuna.Study, metric: str, name: str) -> SweepTable:
    """Return the table of a study."""
    trials = ordered(study)
    flags = list(dict.fromkeys(flag for trial in trials for flag in trial.params))
    rows = [
        (
            str(trial.number),
            "–" if (value := best_value(trial)) is None else f"{value:.4f}",
            *(_cell(trial.params.get(flag, "–")) for flag in flags),
            _STATES[trial.state],
            duration(trial.user_attrs.get("seconds")),
        )
        for trial in trials
    ]
    head = ("trial", f"best {metric}", *flags, "state", "time")
    return SweepTable(f"{name}: {len(trials)} trials", head, tuple(rows))


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def history(study: optuna.Study) -> Markup | None:
    """Picture: the best metric of every trial in the order of the trials, and the best so far."""
    valued = [trial for trial in study.get_trials(deepcopy=False) if best_value(trial) is not None]
    if not valued:
        return None
    values = np.array([best_value(trial) for trial in valued], dtype=float)
    maximise = study.direction == optuna.study.StudyDirection.MAXIMIZE
    so_far = np.maximum.accumulate(values) if maximise else np.minimum.accumulate(values)
    numbers = [trial.number for trial in valued]
    with style():
        figure, axes = panel()
        axes.step(numbers, so_far, where="post", color=INK, linewidth=1.0, label="best so far")
        for state, colour in ((TrialState.COMPLETE, BLUE), (TrialState.PRUNED, ORANGE)):
            chosen = [place for place, trial in enumerate(valued) if trial.state == state]
            axes.plot([numbers[c] for c in chosen], values[chosen], "o", color=colour, label=_STATES[state])
        axes.set_xlabel("trial")
        axes.legend()
        return to_svg(figure, "Best metric by trial")


def slices(study: optuna.Study) -> list[tuple[str, Markup]]:
    """Pictures: the best metric against every swept flag, one each."""
    valued = [trial for trial in study.get_trials(deepcopy=False) if best_value(trial) is not None]
    flags = list(dict.fromkeys(flag for trial in valued for flag in trial.params))
    return [(flag, _slice([trial for trial in valued if flag in trial.params], flag)) for flag in flags]


def _slice(trials: Sequence[FrozenTrial], flag: str) -> Markup:
    found = trials[0].distributions[flag]
    values = np.array([best_value(trial) for trial in trials], dtype=float)
    with style():
        figure, axes = panel(3.6, 2.6)
        if isinstance(found, CategoricalDistribution):
            labels = [str(choice) for choice in found.choices]
            axes.plot([labels.index(str(trial.params[flag])) for trial in trials], values, "o", color=BLUE)
            axes.set_xticks(range(len(labels)), labels)
            axes.set_xlim(-0.5, len(labels) - 0.5)
        else:
            axes.plot([trial.params[flag] for trial in trials], values, "o", color=BLUE)
            if isinstance(found, FloatDistribution) and found.log:
                axes.set_xscale("log")
                axes.xaxis.set_major_formatter("{x:g}")  # the usual one writes formulas
                axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(flag)
        return to_svg(figure, f"Best metric against {flag}")


def write_sweep(study: optuna.Study, table: SweepTable, output: Path) -> Path:
    """Write the page of a sweep; returns its path."""
    best = next((trial for trial in ordered(study) if best_value(trial) is not None), None)
    content = {
        "title": f"Sweep {table.title}",
        "head": table.head,
        "rows": table.rows,
        "history": history(study),
        "slices": slices(study),
        "best": None if best is None else best.user_attrs.get("folder"),
        "failures": [
            (trial.number, trial.user_attrs["complaint"])
            for trial in ordered(study)
            if "complaint" in trial.user_attrs
        ],
    }
    return write_page(output, "sweep.html.jinja", content)
