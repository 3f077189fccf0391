"""Train one algorithm on one network and one data set, test it, and leave a run directory behind.

``python training/run_experiment.py --help`` lists the flags, ``--list`` the classes.
"""

import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from few_shot_nas.errors import InputError
from few_shot_nas.runtime.stop_signals import STOP, Stopped
from few_shot_nas.whole_file import write_text
from training import legacy, slurm
from training.cli import CommandLine, dump, parse
from training.exits import guarded
from training.run_directory import TRAINED, RunDirectory, adopt_best, is_first_rank, last_of

SCRIPT = "training/run_experiment.py"


def run(command: CommandLine, argv: Sequence[str]) -> Path:
    """Build, check, train, test and write, in this order; nothing is written before everything has been checked.

    Returns:
        The run directory.
    """
    # Lightning takes seconds to import: answers and mistyped class names come without it.
    from few_shot_nas.runtime.progress import quiet_lightning
    from training import assemble, devices, outcome, resume

    quiet_lightning()
    assemble.show_log()
    tables, values = command.tables, command.values
    if tables is None:
        raise ValueError("run() needs the imported classes")
    names = (values["algorithm"], values["model_class"], values["data_class"])
    directory = RunDirectory.choose(values["run_dir"], values["ckpt_path"], names)
    # What auto and a requeued job have found; config.yaml and the network are built by it.
    values["ckpt_path"] = None if directory.resume is None else str(directory.resume)
    parts, first_step = None, 0
    try:
        directory.claim()
        devices.hardware(values)
        outcome.check(tables, values)
        parts = assemble.build_parts(tables, values)
        first_step = resume.first_meta_step(directory, tables, values, parts)
        directory.make()
        loggers = assemble.build_loggers(values, directory.path)
        trainer = assemble.build_trainer(values, directory.path, loggers, shlex.join(["python", SCRIPT, *argv]))
        if is_first_rank():
            record_start(directory, parts, values, first_step)
        trainer.fit(parts.module, datamodule=parts.datamodule, ckpt_path=directory.resume, weights_only=True)
        finish(directory, trainer, parts, values)
    except BaseException as error:
        if parts is None or parts.module.meta_step <= first_step:
            directory.discard()
        if isinstance(error, Stopped) and is_first_rank():
            error.advice = farewell(directory, error.signum, argv)
        raise
    finally:
        directory.release()
    return directory.path


def after_search(command: CommandLine) -> str | None:
    """Return the recipe by which what a search finds is trained afterwards; None if it is not.

    Raises:
        InputError: if the algorithm searches nothing, or the recipe is not one. Before the search, not after it.
    """
    recipe, tables = command.values["train_after_search"], command.tables
    if recipe is None or tables is None:
        return None
    if not tables.algorithms[command.values["algorithm"]].searches:
        raise InputError(
            f"--train_after_search={recipe}: {command.values['algorithm']} searches no architecture; leave the flag out"
        )
    parse(training_words(command, recipe, Path("found")))
    return str(recipe)


def training_words(command: CommandLine, recipe: str, run_dir: Path) -> list[str]:
    """Return the command line that trains what the search in ``run_dir`` found."""
    same = [f"--{name}={command.values[name]}" for name in ("data_dir", "cache_dir") if command.values.get(name)]
    network = ["--model_class=GenotypeNetwork", f"--genotype={run_dir / 'genotype.json'}"]
    network += [f"--pad={command.values['pad']}"] if "pad" in command.values else []  # the genotype does not say it
    # A search that was continued may have been trained in part.
    going_on = ["--ckpt_path=auto"] if command.values["ckpt_path"] else []
    return [f"--config={recipe}", *same, *network, f"--run_dir={run_dir / TRAINED}", *going_on]


def record_start(directory: RunDirectory, parts: Any, values: dict[str, Any], first_step: int) -> None:
    """Write config.yaml and model.json, and bring what an earlier run has left to the meta-step this one starts at."""
    from few_shot_nas.runtime.checkpoint import load_checkpoint
    from few_shot_nas.runtime.choices_csv import CHOICES
    from few_shot_nas.runtime.legs import legs_of
    from few_shot_nas.runtime.metrics_csv import MetricsCSV
    from training.outcome import write_card
    from training.resume import config_note

    legs = [] if directory.resume is None else legs_of(load_checkpoint(directory.resume))
    # Neither the folder nor a checkpoint in it belongs to what repeats the run.
    dropped = {"run_dir", "ckpt_path"} if directory.continues else {"run_dir"}
    flags = dump({name: value for name, value in values.items() if name not in dropped})
    write_text(directory.path / "config.yaml", config_note(legs, values, first_step) + flags)
    write_card(directory.path, parts, values)
    slurm.record(directory.path)
    if directory.continues:
        for record in ("metrics.csv", CHOICES):
            MetricsCSV(directory.path / record).truncate_after(first_step)
    elif directory.resume is not None:
        adopt_best(directory.resume, directory.path, first_step)


def finish(directory: RunDirectory, trainer: Any, parts: Any, values: dict[str, Any]) -> None:
    """Test on every rank, then write and show the results on the first."""
    from training.outcome import run_test, write_outcome
    from training.resume import legs_callback, recorded

    # Ranks that torchrun started have each chosen a name; the first one's is the folder.
    directory.path = trainer.strategy.broadcast(directory.path)
    record = legs_callback(trainer)
    current, legs = record.current(), record.all()
    spent = sum(leg["seconds"] for leg in record.earlier) + current["seconds"]
    # Before the test, which may load an earlier checkpoint and what it had counted.
    counted = {
        "meta_steps": int(parts.module.meta_step),
        "skipped_steps": int(parts.module.skipped_steps),
        "diverged_rows": parts.module.recorder.far_rows,
    }
    started = time.monotonic()
    tested = run_test(trainer, parts, values, directory.path)
    if trainer.is_global_zero:
        facts = {
            **counted,
            "wall_seconds": spent,
            "test_seconds": time.monotonic() - started,
            "command": current["command"],
            "legs": recorded(legs, values),
            **tested,
        }
        with STOP.held():
            write_outcome(directory.path, trainer, parts, values, facts)
            directory.finished = True


def farewell(directory: RunDirectory, signum: int, argv: Sequence[str]) -> str:
    """Say how a run that was stopped goes on, after requeueing it where a cluster asked for that."""
    from few_shot_nas.runtime.checkpoint import KEY, load_checkpoint

    if directory.finished:
        return "the run is finished"
    last = last_of(directory.path)
    try:
        saved = f"last.ckpt is of meta-step {load_checkpoint(last)[KEY]['meta_step']}" if last.is_file() else ""
    except InputError as error:
        return str(error)
    if not saved and directory.resume is None:
        more = " and --ckpt_path=auto" if directory.is_left_behind() else ""
        return f"no meta-step was kept: start it again by the same command{more}"
    words = [str(word) for word in legacy.tokenise(argv) if word.name not in _FOLDER_FLAGS]
    where = [f"--run_dir={directory.path}", "--ckpt_path=last" if saved else f"--ckpt_path={directory.resume}"]
    going_on = shlex.join(["python", SCRIPT, *words, *where])
    if signum == signal.SIGUSR1 and slurm.job() is not None and saved:
        slurm.record(directory.path, requeued=True)
        return f"{saved}; {slurm.requeue()}: {going_on}"
    return f"{saved}{saved and '; '}continue with: {going_on}"


_FOLDER_FLAGS = {"run_dir", "ckpt_path"} | {
    old for old, new in legacy.RENAMED.items() if new in ("run_dir", "ckpt_path")
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point.

    Returns:
        0 for a finished run or an answer such as ``--help``.

    Raises:
        SystemExit: with code 2 after one line on standard error for a mistake of the user.
    """
    words = list(sys.argv[1:] if argv is None else argv)

    def work() -> None:
        command = parse(words)
        if is_first_rank():
            print("".join(f"{note}\n" for note in command.notes), end="", file=sys.stderr, flush=True)
        if command.action == "run":
            recipe = after_search(command)
            found = run(command, words)
            if recipe is not None:
                trained = training_words(command, recipe, found)
                run(parse(trained), trained)
        else:
            print(command.text, end="")

    return guarded(work)


if __name__ == "__main__":
    sys.exit(main())
