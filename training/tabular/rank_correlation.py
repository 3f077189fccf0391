"""Correlate every proxy with a truth: the accuracies of a reward table, or of architectures trained one by one.

``python training/tabular/rank_correlation.py --run_dir=runs/S --table=runs/S/stage0/table_val.npz`` scores all
architectures of a small space; ``--trained runs/A runs/B ...`` or ``--trained runs`` those of finished runs, each of a
network that was trained alone. Networks start afresh; tasks are training tasks of ``--run_dir``. Writes
``rank_correlation.json`` and prints a table: Kendall's tau-b and Spearman's rho with the truth, and given the logarithm
of the number of parameters, with 95 % bootstrap intervals over architectures; and how much the architecture that a
proxy ranks first loses to the best one, with a 95 % interval over tasks. Flags of run_experiment.py, such as --data_dir
or --k_shot, replace those of the run.

``--chosen`` takes the scores from the selections that training/tabular/choose.py left beside each ``--table``, and
scores nothing; of several tables, one for each supernet, the means and 95 % t-intervals over tables are told.
"""

import math
import shlex
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from few_shot_nas.errors import InputError
from few_shot_nas.ranges import Count, Seed
from training.evaluate import build, flags_of_run
from training.exits import OneLineParser, guarded

if TYPE_CHECKING:
    import numpy as np

    from few_shot_nas.episode import Task
    from few_shot_nas.spaces.genotype import Genotype

#: Proxies that look at nothing: rows of every table.
CONTROLS = ("params", "macs")
#: Fewer architectures have no ranks to speak of.
LEAST = 4


def truth_of_table(path: Path) -> "tuple[list[Genotype], np.ndarray]":
    """Return the A architectures of a reward table and their accuracies on T tasks ``[A, T]``, with shared weights."""
    from few_shot_nas.spaces import SPACES
    from few_shot_nas.tabular.reward_table import load_table

    table = load_table(path)
    sizes = {name: int(table.facts[name]) for name in ("channels", "cells", "nodes")}
    space = SPACES[str(table.facts["space"])](**sizes)
    accuracies = table.accuracy[:, : table.done].mean(2, dtype="float64")
    return [space.decode(tuple(map(int, row))) for row in table.decisions], accuracies


def folders_of_runs(given: Sequence[Path]) -> list[Path]:
    """Return run directories: those given, and of a folder that is none the finished runs in it.

    Raises:
        InputError: if such a folder has no finished run in it.
    """
    folders: list[Path] = []
    for path in given:
        inside = [] if (path / "results.json").is_file() else sorted(f.parent for f in path.glob("*/results.json"))
        if not inside and not (path / "results.json").is_file():
            raise InputError(f"--trained={path}: no results.json there or one folder below; give finished runs")
        folders += inside or [path]
    return folders


def truth_of_runs(folders: Sequence[Path], bn_mode: str | None) -> "tuple[list[Genotype], np.ndarray, str]":
    """Return the A architectures of finished runs, their accuracies on T test tasks ``[A, T]``, and their bn_mode.

    Args:
        folders: run directories.
        bn_mode: of the accuracies; None takes the first that all were tested in.

    Raises:
        InputError: if a folder has no genotype or no such accuracy, or they were not tested on the same tasks.
    """
    import numpy as np

    from few_shot_nas.report.pairing import task_settings
    from few_shot_nas.report.run import BN_MODES, load_run

    runs, genotypes = list(map(load_run, folders)), []
    for run in runs:
        if run.genotype is None:
            raise InputError(f"--trained={run.path}: has no genotype.json; give runs of --model_class=GenotypeNetwork")
        if task_settings(run) != task_settings(runs[0]):
            raise InputError(f"--trained={run.path}: was tested on other tasks than {runs[0].path}; test them alike")
        genotypes.append(run.genotype)
    shared = [mode for mode in BN_MODES if all(mode in run.episodes for run in runs)]
    mode = bn_mode or (shared[0] if shared else "transductive")
    for run in runs:
        if mode not in run.episodes:
            raise InputError(
                f"--trained={run.path}: no accuracy in bn_mode={mode}; all runs have {', '.join(shared) or 'none'}"
            )
        if not np.array_equal(run.episodes[mode].task_id, runs[0].episodes[mode].task_id):
            raise InputError(f"--trained={run.path}: was tested on other tasks than {runs[0].path}; test them alike")
    return genotypes, np.stack([run.episodes[mode].accuracy for run in runs]), mode


def scores_beside(path: Path) -> dict[str, list[float]]:
    """Return the scores of a table's architectures by every proxy of which choose.py left a selection beside it.

    Raises:
        InputError: if a selection is of other tasks, or those of the controls are missing.
    """
    from few_shot_nas.proxies import PROXIES
    from few_shot_nas.tabular.reward_table import load_table
    from few_shot_nas.tabular.selection import check_same_tasks, load_selection

    split, facts, found = path.stem.removeprefix("table_"), load_table(path).facts, {}
    for name in PROXIES:
        file = path.with_name(f"selection_{name}_{split}.npz")
        if file.is_file():
            selection = load_selection(file)
            check_same_tasks(file, selection.facts, facts)
            found[name] = list(map(float, selection.facts["scores"]))
    missing = [name for name in CONTROLS if name not in found]
    if missing:
        raise InputError(
            f"--chosen: no selection of {missing[0]} beside {path}; run training/tabular/choose.py with "
            f"--method={','.join(CONTROLS)} and the proxies that you want for --split={split}"
        )
    return found


def training_tasks(args: Namespace, overrides: Sequence[str]) -> "list[Task]":
    """Return the first training tasks of the run."""
    from few_shot_nas.episode import tasks
    from few_shot_nas.runtime.checkpoint import named_checkpoint
    from few_shot_nas.runtime.progress import quiet_lightning

    quiet_lightning()
    flags = flags_of_run(args.run_dir, overrides)
    data = build(args.run_dir, named_checkpoint(args.run_dir, "last"), flags).datamodule
    return list(tasks(data.episode("train", range(args.proxy_tasks))))


def scores_of(
    names: Sequence[str], genotypes: "Sequence[Genotype]", tasks: "Sequence[Task]", seed: int
) -> dict[str, list[float]]:
    """Return the score of every architecture by every proxy that is defined for all of them."""
    from few_shot_nas.proxies.untrained import untrained_score
    from few_shot_nas.runtime.count_progress import CountProgress

    found: dict[str, list[float]] = {}
    with CountProgress("scores", len(names) * len(genotypes)) as progress:
        for number, name in enumerate(names):
            try:
                scores = []
                for place, genotype in enumerate(genotypes, start=1):
                    scores.append(untrained_score(name, genotype, tasks, seed))
                    progress.update(number * len(genotypes) + place)
                found[name] = scores
            except InputError as error:
                print(f"{name}: left out: {error}", file=sys.stderr)
    return found


def rows_of(scores: dict[str, list[float]], truth: Sequence[float], bootstrap: int) -> dict[str, dict[str, Any]]:
    """Return the correlations of every proxy, plain and given the logarithm of the number of parameters."""
    from few_shot_nas.stats.rank_correlation import KINDS, correlation, partial_correlation, with_interval

    size = [math.log(count) for count in scores["params"]]
    return {
        name: {
            **{kind: with_interval(partial(correlation, kind=kind), own, truth, bootstrap=bootstrap) for kind in KINDS},
            **{
                f"{kind}_given_size": with_interval(
                    partial(partial_correlation, kind=kind), own, truth, size, bootstrap=bootstrap
                )
                for kind in KINDS
            },
        }
        for name, own in scores.items()
    }


def picks_of(scores: dict[str, list[float]], accuracies: "np.ndarray") -> dict[str, dict[str, float]]:
    """Return the architecture that each proxy ranks first, and how it does beside the best one in the mean.

    Args:
        scores: of A architectures by every proxy.
        accuracies: of these on T tasks, ``[A, T]``.
    """
    import numpy as np

    from few_shot_nas.stats.statistics import mean_ci

    best, found = accuracies[int(accuracies.mean(1).argmax())], {}
    for name, own in scores.items():
        first = int(np.argmax(own))
        loss = mean_ci(accuracies[first] - best)
        mean = float(accuracies[first].mean())
        found[name] = {"architecture": first, "accuracy": mean, "minus_best": loss.mean, "ci95": loss.ci95}
    return found


def over_tables(
    rows: Sequence[dict[str, dict[str, Any]]], picks: Sequence[dict[str, dict[str, float]]]
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, float]]]:
    """Return means over tables of correlations and picks, with 95 % t-intervals, of the proxies that all tables have.

    Args:
        rows: :func:`rows_of` each table.
        picks: :func:`picks_of` each table.
    """
    from few_shot_nas.stats.rank_correlation import Correlation
    from few_shot_nas.stats.statistics import mean_ci

    def mean(values: Sequence[float]) -> Correlation:
        found = mean_ci(values)
        return Correlation(found.mean, found.mean - found.ci95, found.mean + found.ci95)

    names = [name for name in rows[0] if all(name in row for row in rows)]
    correlations = {
        name: {column: mean([row[name][column].value for row in rows]) for column in rows[0][name]} for name in names
    }
    firsts = {}
    for name in names:
        accuracy, loss = (mean_ci([pick[name][field] for pick in picks]) for field in ("accuracy", "minus_best"))
        firsts[name] = {"accuracy": accuracy.mean, "minus_best": loss.mean, "ci95": loss.ci95}
    return correlations, firsts


def as_json(found: Any) -> dict[str, float | None]:
    """Return a correlation by name; JSON knows no nan."""
    return {field: None if math.isnan(value) else value for field, value in found._asdict().items()}


def as_text(found: Any) -> str:
    """Return a correlation with its interval as text; a dash where there is none."""
    return "-" if math.isnan(found.value) else f"{found.value:+.2f} ({found.low:+.2f} .. {found.high:+.2f})"


def show(rows: dict[str, dict[str, Any]], picks: dict[str, dict[str, float]], title: str) -> None:
    """Print one line for each proxy, the best Kendall tau first."""
    from rich.table import Table

    from training.results import console

    columns = ("kendall", "spearman", "kendall_given_size")
    head = ("proxy", *(column.replace("_", " ") for column in columns), "its first %", "minus the best")
    table = Table(*head, title=title)
    for name in sorted(rows, key=lambda name: (math.isnan(rows[name]["kendall"].value), -rows[name]["kendall"].value)):
        own = [rows[name][column] for column in columns]
        loss = f"{100 * picks[name]['minus_best']:+.2f} ± {100 * picks[name]['ci95']:.2f}"
        table.add_row(name, *map(as_text, own), f"{100 * picks[name]['accuracy']:.1f}", loss)
    console().print(table)


def correlate_chosen(args: Namespace, command: str) -> None:
    """Correlate the scores beside each table with it, average over tables, write and print.

    Raises:
        InputError: if a table or a selection cannot be used.
    """
    from training import results

    rows, picks = [], []
    for path in args.table:
        scores, (_, accuracies) = scores_beside(path), truth_of_table(path)
        # Intervals are over architectures for a single table, else over tables.
        rows.append(rows_of(scores, accuracies.mean(1).tolist(), args.bootstrap if len(args.table) == 1 else 0))
        picks.append(picks_of(scores, accuracies))
    found, firsts = (rows[0], picks[0]) if len(rows) == 1 else over_tables(rows, picks)
    content = {
        "truth": list(map(str, args.table)),
        "correlations": {
            name: {column: as_json(value) for column, value in row.items()} for name, row in found.items()
        },
        "picks": firsts,
        "versions": results.versions(),
        "command": command,
    }
    path = args.output or args.table[0].with_name("rank_correlation.json")
    results.write_json(path, content)
    words = "a table" if len(rows) == 1 else f"{len(rows)} tables (intervals over tables)"
    show(found, firsts, f"Rank correlation with the accuracies of {words}")
    print(f"correlations: {path}")


def correlate(args: Namespace, overrides: Sequence[str], command: str) -> None:
    """Score, correlate, write and print.

    Raises:
        InputError: if a flag, the run or the truth does not fit.
    """
    from few_shot_nas.proxies import PROXIES
    from few_shot_nas.registry import lookup
    from training import results

    if bool(args.table) == bool(args.trained):
        raise InputError("rank_correlation.py: give the truth by --table=FILE or by --trained RUN RUN ..")
    if args.chosen and not args.table:
        raise InputError("--chosen: takes the selections beside a table; give --table=FILE, not --trained")
    if args.chosen:
        return correlate_chosen(args, command)
    if len(args.table) > 1:
        raise InputError(
            f"--table: {len(args.table)} tables given, whose supernets have tasks of their own; give --chosen, which "
            "takes the scores of each from training/tabular/choose.py"
        )
    names = list(PROXIES) if args.proxies is None else args.proxies.split(",")
    for name in names:
        lookup(PROXIES, name, "--proxies")
    folders = folders_of_runs(args.trained)
    args.run_dir = args.run_dir or next(iter(folders), None)
    if args.run_dir is None:
        raise InputError("rank_correlation.py: --table needs --run_dir=RUN, whose training tasks the proxies look at")
    if args.table:
        genotypes, accuracies = truth_of_table(args.table[0])
    else:
        genotypes, accuracies, args.bn_mode = truth_of_runs(folders, args.bn_mode)
    if len(genotypes) < LEAST:
        raise InputError(f"rank_correlation.py: {len(genotypes)} architectures given, at least {LEAST} are needed")
    started = time.monotonic()
    names = list(dict.fromkeys([*CONTROLS, *names]))
    scores = scores_of(names, genotypes, training_tasks(args, overrides), args.proxy_seed)
    truth = accuracies.mean(1).tolist()
    rows, picks = rows_of(scores, truth, args.bootstrap), picks_of(scores, accuracies)
    content = {
        "truth": list(map(str, args.table or folders)),
        "bn_mode": None if args.table else args.bn_mode,
        "architectures": len(genotypes),
        "proxy_tasks": args.proxy_tasks,
        "proxy_seed": args.proxy_seed,
        "tasks": accuracies.shape[1],
        "accuracy": truth,
        "scores": scores,
        "correlations": {
            name: {column: as_json(found) for column, found in row.items()} for name, row in rows.items()
        },
        "picks": picks,
        "wall_seconds": time.monotonic() - started,
        "versions": results.versions(),
        "command": command,
    }
    path = args.output or args.run_dir / "rank_correlation.json"
    results.write_json(path, content)
    show(rows, picks, f"Rank correlation with the accuracy of {len(genotypes)} architectures")
    print(f"scores and correlations: {path}")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 0, or SystemExit with code 2 after one line for a mistake of the user."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = OneLineParser(prog="rank_correlation.py", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--run_dir", type=Path, help="a finished run: its data and shape of tasks; default the first trained one")
    add("--table", type=Path, nargs="+", default=[], help="truth: a reward table, mean accuracy with shared weights")
    add("--chosen", action="store_true", help="take the scores of the selections beside the tables")
    text = "truth: runs that trained one architecture each, or folders of such runs"
    add("--trained", type=Path, nargs="+", default=[], help=text)
    add("--bn_mode", help="whose accuracy of the trained runs is the truth; default the first that all have")
    add("--proxies", help="comma-separated names; default all")
    add("--proxy_tasks", type=Count, default=5, help="training tasks over which a score is averaged")
    add("--proxy_seed", type=Seed, default=0, help="of the fresh weights")
    add("--bootstrap", type=Count, default=1000, help="resamples of the architectures")
    add("--output", type=Path, help="file of the result; default rank_correlation.json in RUN_DIR or beside the table")
    args, rest = parser.parse_known_args(words)
    command = shlex.join(["python", "training/tabular/rank_correlation.py", *words])
    return guarded(lambda: correlate(args, rest, command))


if __name__ == "__main__":
    sys.exit(main())
