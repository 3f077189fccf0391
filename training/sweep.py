"""Run a sweep on this machine: ``python training/sweep.py training/sweeps/maml_glyphs.yaml --count=20``.

Reads the same YAML files as ``wandb sweep`` and needs no account and no network: Optuna proposes, every trial is a run
of its own below --output. The same command continues a sweep that was stopped. Several machines share one sweep by
--storage; each has its own --output. It ends with a table, sweep.csv and report.html.
"""

import shlex
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from few_shot_nas.errors import InputError
from few_shot_nas.ranges import Count, Seed
from few_shot_nas.runtime.stop_signals import Stopped
from training.child_run import terminated
from training.exits import OneLineParser, guarded, output_folder
from training.folder_lock import FolderLock

#: Seconds between two looks at a trial's metrics.csv.
POLL = 1.0
#: A sweep whose trials fail one after the other has a mistake that more trials do not mend.
MAX_FAILURES = 3


class Ended(NamedTuple):
    """How a trial ended before it was told to Optuna.

    Attributes:
        values: the metric at every validation, in order.
        pruned: whether it was stopped early.
        code: exit status of the run.
        complaint: last line that the run wrote to standard error.
    """

    values: list[float]
    pruned: bool
    code: int
    complaint: str


def observed(folder: Path, metric: str) -> list[float]:
    """Return the finite values of a column of a run's metrics.csv, in order; none while there is no file.

    Raises:
        InputError: if the file has rows and no such column.
    """
    import csv
    import math

    try:
        text = (folder / "metrics.csv").read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    rows = list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))
    cells = [row[metric] for row in rows if row.get(metric)]
    return [value for cell in cells if math.isfinite(value := float(cell))]


def wait_for_writer(folder: Path) -> None:
    """Wait for a trial's process of before, which lives on where its sweep was killed."""
    lock = FolderLock(folder)
    if lock.is_held():
        print(f"  {folder.name}: its process of before still runs; waiting for its end", flush=True)
    while lock.is_held():
        time.sleep(POLL)


def train(words: Sequence[str], folder: Path, metric: str, trial: Any) -> Ended:
    """Run one trial to its end, or until Optuna prunes it.

    Args:
        words: the program and its flags.
        folder: run directory of the trial; one that holds a checkpoint is continued.
        metric: column of metrics.csv.
        trial: an Optuna trial, which is told of every validation.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.with_suffix(".log")
    wait_for_writer(folder)
    told = len(trial.study.trials[trial.number].intermediate_values)  # a continued trial has told some
    values: list[float] = []
    with log.open("ab") as output:
        command = [sys.executable, *words, f"--run_dir={folder}", "--ckpt_path=auto"]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        with terminated(process):
            while True:
                ended = process.poll() is not None
                values = observed(folder, metric)
                for place, value in enumerate(values[told:], start=told + 1):
                    trial.report(value, place)
                told = max(told, len(values))
                if ended:
                    break
                if values and trial.should_prune():
                    return Ended(values, True, 0, "")
                time.sleep(POLL)
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return Ended(values, False, process.returncode, next((line for line in reversed(lines) if line.strip()), ""))


# ---- the study --------------------------------------------------------------------------------------------------


def open_study(plan: Any, name: str, storage: str | None, output: Path) -> Any:
    """Return the study of a sweep, made or continued; a grid is queued when it is made.

    Args:
        plan: what the sweep file asks for.
        name: of the study within its storage.
        storage: URL of a database that machines share; None keeps a journal below ``output``.
        output: folder of the sweep.

    Raises:
        InputError: if the storage cannot be opened, or holds a sweep with another goal.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    backend: Any = storage or JournalStorage(JournalFileBackend(str(output / "study.journal")))
    direction: Literal["maximize", "minimize"] = "maximize" if plan.maximise else "minimize"
    try:
        study = optuna.create_study(
            study_name=name, storage=backend, direction=direction, pruner=plan.pruner(), load_if_exists=True
        )
    except Exception as error:  # every database driver raises its own
        raise InputError(f"sweep: --storage={storage}: cannot be opened: {' '.join(str(error).split())}") from error
    identity = {"method": plan.method, "metric": plan.metric, "direction": direction, "fixed": dict(plan.fixed)}
    before = study.user_attrs.get("identity")
    if before is None:
        study.set_user_attr("identity", identity)
        for params in plan.grid() if plan.method == "grid" else ():
            study.enqueue_trial(params)
    elif before != identity:
        other = next(key for key, value in identity.items() if before.get(key) != value)
        raise InputError(
            f"sweep: {output} holds a sweep with {other}={before.get(other)}, the file says {identity[other]}; "
            "give another --output (and another --name in a shared storage)"
        )
    return study


def unfinished(study: Any, output: Path) -> list[Any]:
    """Return the trials of this folder that were running when the sweep was stopped."""
    import optuna

    running = study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING])
    return [
        optuna.trial.Trial(study, frozen._trial_id)
        for frozen in running
        if frozen.user_attrs.get("folder") == str(folder_of(output, frozen.number))
    ]


def folder_of(output: Path, number: int) -> Path:
    """Return the run directory of a trial."""
    return output.resolve() / f"trial-{number:04d}"


def done(study: Any) -> int:
    """Return how many trials were begun, by every machine; those of a grid that wait do not count."""
    import optuna

    return sum(trial.state != optuna.trial.TrialState.WAITING for trial in study.get_trials(deepcopy=False))


def run_trial(study: Any, plan: Any, trial: Any, output: Path, wandb: bool) -> bool:
    """Train one trial and tell Optuna how it ended; return whether it had a value."""
    import optuna

    from training import sweep_plan

    folder = folder_of(output, trial.number)
    trial.set_user_attr("folder", str(folder))
    params = sweep_plan.suggest(trial, plan.searched)
    shown = (f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in params.items())
    print(f"trial {trial.number}: {' '.join(shown)}", flush=True)
    started = time.monotonic()
    words = [plan.program, *plan.words(params), *(["--wandb"] if wandb else [])]
    ended = train(words, folder, plan.metric, trial)
    trial.set_user_attr("seconds", trial.user_attrs.get("seconds", 0.0) + time.monotonic() - started)
    if ended.code != 0 or not ended.values:
        complaint = ended.complaint if ended.code else f"metrics.csv has no finite {plan.metric}"
        trial.set_user_attr("complaint", complaint)
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        print(f"  failed (exit {ended.code}): {complaint}", flush=True)
        return False
    best = max(ended.values) if plan.maximise else min(ended.values)
    trial.set_user_attr("best", best)
    if ended.pruned:
        study.tell(trial.number, state=optuna.trial.TrialState.PRUNED)
    else:
        study.tell(trial.number, best)
    how = f"stopped early after {len(ended.values)} validations" if ended.pruned else "finished"
    print(f"  {how}: best {plan.metric} {best:.4f}, {time.monotonic() - started:.0f} s", flush=True)
    return True


def next_trial(study: Any, plan: Any, name: str, seed: int) -> Any:
    """Ask for a trial; what it draws is a function of the seed, its number and the trials told before."""
    from few_shot_nas.seeding import derived_seed

    trial = study.ask()
    study.sampler = plan.sampler(derived_seed(seed, name, trial.number) % 2**32)
    return trial


def sweep(args: Namespace, overrides: Sequence[str]) -> None:
    """Run trials until there are ``count`` or the grid is used up, then write the table and the page.

    Raises:
        InputError: for a file that cannot be read, flags that a trial would refuse, or trials that keep failing.
    """
    from filelock import FileLock, Timeout

    from training import sweep_plan
    from training.cli import parse

    plan = sweep_plan.read_plan(args.file)
    if overrides:
        plan = sweep_plan.with_flags(plan, overrides)
    count = len(plan.grid()) if plan.method == "grid" and args.count is None else args.count or plan.cap
    if count is None or count < 1:
        raise InputError(f"sweep {args.file}: method {plan.method} needs --count=N, the number of trials")
    output = args.output or Path("runs") / "sweeps" / args.file.stem
    name = args.name or args.file.stem
    if Path(plan.program).name == "run_experiment.py":
        parse([*plan.words(sweep_plan.smallest(plan.searched))])  # a mistyped flag ends here, not in every trial
    output_folder(output)
    lock = FileLock(output / "sweep.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise InputError(
            f"sweep: {output} is in use by another process; wait for it, or give another --output"
        ) from None
    with lock:
        study = open_study(plan, name, args.storage, output)
        failures = 0
        for trial in _trials(study, plan, name, args.seed, output, count):
            failures = 0 if run_trial(study, plan, trial, output, args.wandb) else failures + 1
            if failures == MAX_FAILURES:
                raise InputError(
                    f"sweep: {failures} trials failed one after the other, the last one with: "
                    f"{trial.user_attrs['complaint']}; see {folder_of(output, trial.number)}.log"
                )
        finish(study, plan, name, output)


def _trials(study: Any, plan: Any, name: str, seed: int, output: Path, count: int) -> Iterator[Any]:
    yield from unfinished(study, output)
    while done(study) < count:
        waiting = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "WAITING"]
        if plan.method == "grid" and not waiting:
            return
        yield next_trial(study, plan, name, seed)


def finish(study: Any, plan: Any, name: str, output: Path) -> None:
    """Print the table of the trials, best first, and write sweep.csv and report.html."""
    from few_shot_nas.report.sweeps import sweep_table, write_sweep
    from training.results import console

    table = sweep_table(study, plan.metric, name)
    console().print(table.rich())
    table.save_csv(output / "sweep.csv")
    print(f"report: {write_sweep(study, table, output / 'report.html')}")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 0, or SystemExit with code 2 after one line for a mistake of the user."""
    parser = OneLineParser(prog="sweep.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("file", type=Path, help="sweep file, as for wandb sweep")
    parser.add_argument("--count", type=Count, help="trials in all; a grid ends by itself")
    parser.add_argument("--output", type=Path, help="folder of the sweep; default runs/sweeps/<file>")
    parser.add_argument("--storage", help="URL of a database that several machines share, as Optuna takes it")
    parser.add_argument("--name", help="name of the sweep in a shared storage; default: that of the file")
    parser.add_argument("--seed", type=Seed, default=0, help="of what the trials draw; theirs is a flag like others")
    parser.add_argument("--wandb", action="store_true", help="let every trial log to Weights & Biases as well")
    args, overrides = parser.parse_known_args(sys.argv[1:] if argv is None else argv)

    def work() -> None:
        try:
            sweep(args, overrides)
        except Stopped as stop:
            again = shlex.join(["python", "training/sweep.py", *(sys.argv[1:] if argv is None else argv)])
            stop.advice = f"this continues it: {again}"
            raise

    return guarded(work)


if __name__ == "__main__":
    sys.exit(main())
