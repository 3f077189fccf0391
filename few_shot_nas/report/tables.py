"""Numbers of runs as rows: results with confidence intervals.

Every interval is the two-sided 95 % t-interval over episodes in float64 that
:func:`few_shot_nas.stats.statistics.mean_ci` computes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from few_shot_nas.meta.bn_mode import scored_beside
from few_shot_nas.report.run import BN_MODES, Run, printable
from few_shot_nas.stats.statistics import MeanCI, mean_ci

_DASH = "–"


def score(run: Run, mode: str) -> MeanCI | None:
    """Return the test accuracy of one ``bn_mode``: from the episodes if they are kept, else as the run reported it."""
    if mode in run.episodes:
        return mean_ci(run.episodes[mode].accuracy)
    reported = run.results["test"].get(mode)
    if reported is None:
        return None
    half = float("nan") if reported.get("ci95") is None else float(reported["ci95"])
    return MeanCI(float(reported["accuracy"]), half, reported.get("episodes") or 0)


def difference(run: Run, mode: str) -> str:
    """Return by how many points a score differs from the one that it stands beside, on the same tasks; else nothing.

    Scores beside another are such as ``tuned_running`` and ``no_copies_running``.
    """
    base = scored_beside(mode, run.episodes)
    if base is None or mode not in run.episodes:
        return ""
    found = mean_ci(run.episodes[mode].accuracy - run.episodes[base].accuracy)
    return f"{points(found)} to {base}"


def modes(runs: Sequence[Run]) -> list[str]:
    """Return the ``bn_mode`` of the runs' tests, transductive first."""
    found = {mode for run in runs for mode in (*run.episodes, *run.results["test"])}
    return [mode for mode in BN_MODES if mode in found] + sorted(found - set(BN_MODES))


def percent(value: MeanCI | None) -> str:
    """Return ``71.3 ± 1.2`` (per cent), a dash for no value; no interval where there is none."""
    if value is None:
        return _DASH
    half = "" if np.isnan(value.ci95) else f" ± {100 * value.ci95:.1f}"
    return f"{100 * value.mean:.1f}{half}"


def points(value: MeanCI) -> str:
    """Return a difference as ``+1.2 ± 0.8`` in percentage points, with a true minus sign."""
    return f"{100 * value.mean:+.1f} ± {100 * value.ci95:.1f}".replace("-", "−")


def quantity(value: float | None) -> str:
    """Return a count with three digits and k, M or G; a dash for None."""
    if value is None:
        return _DASH
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        # 999,950 would be printed as 1000 k.
        if value >= 0.9995 * size:
            return f"{value / size:#.3g}".rstrip(".") + f" {unit}"
    return f"{value:.0f}"


def duration(seconds: float | None) -> str:
    """Return ``42 s``, ``3 min 05 s`` or ``2 h 07 min``; a dash for None."""
    if seconds is None:
        return _DASH
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def short_names(folders: Sequence[Path]) -> list[str]:
    """Return a name for each folder: its own, with as many parent folders as are needed to tell them apart."""
    paths = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, paths), default=0) + 1):
        short = [printable("/".join(path[-depth:])) for path in paths]
        if len(set(short)) == len(set(paths)):
            return short
    return [printable(folder.resolve().name) for folder in folders]


def names(runs: Sequence[Run]) -> list[str]:
    """Return a name for each run, see :func:`short_names`."""
    return short_names([run.path for run in runs])


@dataclass(frozen=True)
class ResultsTable:
    """The table of results as text.

    Attributes:
        common: what all runs share of data, task, split and number of episodes; said once instead of in every row.
        head: names of the columns.
        rows: the cells, one row per run.
        numeric: index of the first column of numbers.
    """

    common: str
    head: list[str]
    rows: list[list[str]]
    numeric: int


def tabulate(runs: Sequence[Run]) -> ResultsTable:
    """Lay out accuracy with interval, size and cost of each run.

    Accuracies are in per cent and the column names say so; the search cost is a column only if a run searched.
    """
    protocol = {
        "data": [str(run.results["data_class"]) for run in runs],
        "task": [task(run) for run in runs],
        "split": [str(run.results.get("split", _DASH)) for run in runs],
    }
    if any(run.results.get("protocol") for run in runs):
        protocol["protocol"] = [protocol_of(run) for run in runs]
    episodes = [_episodes(run) for run in runs]
    varying = {key: values for key, values in protocol.items() if len(set(values)) > 1}
    words = {"split": "{} split", "protocol": "protocol {}"}
    common = [words.get(key, "{}").format(values[0]) for key, values in protocol.items()]
    common = [text for text, key in zip(common, protocol, strict=True) if key not in varying]
    common += [f"{episodes[0]} episodes"] if len(set(episodes)) == 1 else []
    columns = {
        "run": names(runs),
        "algorithm": [str(run.results["algorithm"]) for run in runs],
        "model": [str(run.results["model_class"]) for run in runs],
        "weights": [str(run.results.get("regime", _DASH)) for run in runs],
        **varying,
    }
    numeric = len(columns)
    for mode in modes(runs):
        columns[f"{mode} %"] = [percent(score(run, mode)) for run in runs]
    if len(set(episodes)) > 1:
        columns["episodes"] = episodes
    if any(non_finite(run) for run in runs):
        columns["not finite"] = [str(non_finite(run)) for run in runs]
    if any(diverged(run) for run in runs):
        columns["diverged"] = ["yes" if diverged(run) else "no" for run in runs]
    columns["params"] = [quantity(run.results.get("parameters")) for run in runs]
    columns["MACs"] = [quantity(run.results.get("macs")) for run in runs]
    columns["seconds"] = [_seconds(run, "wall_seconds") for run in runs]
    if any("test_seconds" in run.results for run in runs):
        columns["test seconds"] = [_seconds(run, "test_seconds") for run in runs]
    if any("reward_calls" in run.results["search"] for run in runs):
        columns["reward calls"] = [str(run.results["search"].get("reward_calls", _DASH)) for run in runs]
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    return ResultsTable(", ".join(common), list(columns), rows, numeric)


def non_finite(run: Run) -> int:
    """Return on how many test tasks the answers of a run were no numbers, in the worst ``bn_mode``."""
    return max((int(found.get("non_finite") or 0) for found in run.results["test"].values()), default=0)


def diverged(run: Run) -> bool:
    """Return whether a run's answers were numbers, but those of a network that has diverged, in any ``bn_mode``."""
    return any(found.get("diverged") is True for found in run.results["test"].values())


def _seconds(run: Run, key: str) -> str:
    seconds = run.results.get(key)
    return _DASH if seconds is None else f"{seconds:,.{1 if seconds < 10 else 0}f}"


def _episodes(run: Run) -> str:
    counts = sorted({value.n for mode in modes([run]) if (value := score(run, mode)) is not None})
    return "/".join(map(str, counts)) or _DASH


def protocol_of(run: Run) -> str:
    """Return the name of the protocol that a run was tested by; ``own`` where its flags were set one by one."""
    return str(run.results.get("protocol") or "own")


def task(run: Run) -> str:
    """Return ``5-way 1-shot``."""
    return f"{run.results['n_way']}-way {run.results['k_shot']}-shot"


def results_table(runs: Sequence[Run]) -> Table:
    """Return the table for the terminal; what a run is stands below its name, so that 80 columns are enough."""
    content = tabulate(runs)
    title = "Test accuracy: mean over episodes ± 95 % confidence interval"
    title = f"{title}\n{content.common}" if content.common else title
    table = Table(title=Text(title), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(content.head[0], overflow="fold", min_width=16)
    for column in content.head[content.numeric :]:
        # A broken number would be misread.
        table.add_column(Text(column.replace(" ", "\n")), justify="right", no_wrap=True)
    for row in content.rows:
        name = Text(row[0]).append("\n" + ", ".join(row[1 : content.numeric]), style="dim")
        table.add_row(name, *(Text(cell) for cell in row[content.numeric :]))
    return table
