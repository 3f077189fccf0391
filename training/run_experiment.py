"""Train one algorithm on one network and one data set, test it, and leave a run directory behind.

``python training/run_experiment.py --help`` lists the flags, ``--list`` the classes.
"""

import shlex
import sys
import time
from collections.abc import Sequence
from typing import Any

from few_shot_nas.whole_file import write_text
from training.cli import CommandLine, dump, parse
from training.exits import guarded
from training.run_directory import RunDirectory, adopt_best, is_first_rank


def run(command: CommandLine, argv: Sequence[str]) -> None:
    """Build, check, train, test and write, in this order; nothing is written before everything has been checked."""
    # Lightning takes seconds to import: answers and mistyped class names come without it.
    from few_shot_nas.runtime.progress import quiet_lightning
    from training import assemble, outcome

    quiet_lightning()
    assemble.show_log()
    values = command.values
    names = (values["algorithm"], values["model_class"], values["data_class"])
    directory = RunDirectory.choose(values["run_dir"], values["ckpt_path"], names)
    assemble.hardware(values)
    outcome.check(command.tables, values)
    parts = assemble.build_parts(command.tables, values)
    first_step = assemble.resumed_meta_step(directory, parts.module.run_identity)
    trainer = assemble.build_trainer(values, directory.path, assemble.build_loggers(values, directory.path))
    directory.make()
    try:
        if is_first_rank():
            record_start(directory, parts, values, first_step)
        started = time.monotonic()
        trainer.fit(parts.module, datamodule=parts.datamodule, ckpt_path=directory.resume, weights_only=True)
        finish(directory, trainer, parts, values, started, argv)
    except BaseException:
        if parts.module.meta_step <= first_step:
            directory.discard()
        raise
    finally:
        directory.release()


def record_start(directory: RunDirectory, parts: Any, values: dict[str, Any], first_step: int) -> None:
    """Write config.yaml and model.json, and bring what an earlier run has left to the meta-step this one starts at."""
    from few_shot_nas.runtime.choices_csv import CHOICES
    from few_shot_nas.runtime.metrics_csv import MetricsCSV
    from training.outcome import write_card

    # Neither the folder nor a checkpoint in it belongs to what repeats the run.
    dropped = {"run_dir", "ckpt_path"} if directory.continues else {"run_dir"}
    write_text(directory.path / "config.yaml", dump({k: v for k, v in values.items() if k not in dropped}))
    write_card(directory.path, parts, values)
    if directory.continues:
        for record in ("metrics.csv", CHOICES):
            MetricsCSV(directory.path / record).truncate_after(first_step)
    elif directory.resume is not None:
        adopt_best(directory.resume, directory.path, first_step)


def finish(
    directory: RunDirectory, trainer: Any, parts: Any, values: dict[str, Any], started: float, argv: Sequence[str]
) -> None:
    """Test on every rank, then write and show the results on the first."""
    from training.outcome import run_test, write_outcome

    # Ranks that torchrun started have each chosen a name; the first one's is the folder.
    directory.path = trainer.strategy.broadcast(directory.path)
    meta_steps = int(parts.module.meta_step)
    tested = run_test(trainer, parts, values, directory.path)
    if trainer.is_global_zero:
        command = shlex.join(["python", "training/run_experiment.py", *argv])
        facts = {"meta_steps": meta_steps, "wall_seconds": time.monotonic() - started, "command": command, **tested}
        write_outcome(directory.path, trainer, parts, values, facts)


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
            run(command, words)
        else:
            print(command.text, end="")

    return guarded(work)


if __name__ == "__main__":
    sys.exit(main())
