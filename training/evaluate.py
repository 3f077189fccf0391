"""Test a finished run again: on more episodes, on another checkpoint or on other classes, without changing the run.

``python training/evaluate.py --run_dir=runs/A --episodes=2000 --checkpoint=best --test_split=val``. Flags of
run_experiment.py, such as --data_dir or --k_shot, replace those of the run's config.yaml.
"""

import shlex
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from few_shot_nas.errors import InputError
from few_shot_nas.ranges import Count
from few_shot_nas.runtime.stop_signals import STOP
from few_shot_nas.whole_file import write_text
from training.cli import CommandLine, dump, parse, read_config
from training.exits import OneLineParser, guarded, output_folder


def checkpoint_file(run_dir: Path, wanted: str) -> Path:
    """Return the checkpoint that best, last or a path names.

    Raises:
        InputError: if it does not exist.
    """
    path = run_dir / "checkpoints" / f"{wanted}.ckpt" if wanted in ("best", "last") else Path(wanted)
    if not path.is_file():
        raise InputError(f"--checkpoint={wanted}: {path} does not exist; give best, last or the path of a checkpoint")
    return path


def flags_of_run(run_dir: Path, overrides: Sequence[str]) -> CommandLine:
    """Return the flags of a run with some of them replaced.

    Raises:
        InputError: if the folder is not that of a run, or a flag is wrong.
    """
    if str(run_dir) == ".":
        raise InputError("--run_dir=: is empty, as an unset variable is; give the folder of a run")
    config = run_dir / "config.yaml"
    if not config.is_file():
        raise InputError(f"--run_dir={run_dir}: has no config.yaml; give the folder of a run")
    fixed = ["--ckpt_path=null", "--init_from=null"]
    if any(word.name == "genotype" for word in read_config(str(config))):
        fixed.append(f"--genotype={run_dir / 'genotype.json'}")  # the run's own copy; the original may have moved
    return parse([f"--config={config}", *fixed, *overrides])


def build(run_dir: Path, checkpoint: Path, flags: CommandLine) -> Any:
    """Build the parts of a run and check that a checkpoint fits them.

    Raises:
        InputError: if the checkpoint is of another network or algorithm.
    """
    from few_shot_nas.runtime.checkpoint import check_identity
    from few_shot_nas.spaces.genotype import Genotype
    from training import assemble

    parts = assemble.build_parts(flags.tables, flags.values)
    # Another number of shots or other classes is a question one may ask; another network is not an answer.
    free = {"data_class", "k_shot", "n_query", "meta_batch_size", "seed"}
    check_identity(checkpoint, {k: v for k, v in parts.module.run_identity.items() if k not in free})
    if (run_dir / "genotype.json").is_file() and type(parts.module).searches:
        parts.module.genotype = Genotype.load(run_dir / "genotype.json")
    return parts


def evaluate(run_dir: Path, wanted: str | None, output: Path | None, overrides: Sequence[str], command: str) -> None:
    """Test one checkpoint and print the table.

    Args:
        run_dir: a run directory.
        wanted: best, last, the path of a checkpoint, or None for the one that the run itself tested.
        output: folder for results.json, episodes.csv and config.yaml, as reports read them; None writes nothing.
        overrides: flags of run_experiment.py that replace the run's own.
        command: kept in results.json.

    Raises:
        InputError: if the run, the checkpoint or a flag does not fit.
    """
    if output is not None:
        output_folder(output)
    flags = flags_of_run(run_dir, overrides)

    from few_shot_nas.report.results_file import read_results

    finished = run_dir / "results.json"
    earlier = read_results(finished) if finished.is_file() else {}
    path = checkpoint_file(run_dir, wanted or earlier.get("checkpoint", "last"))

    from few_shot_nas.runtime.checkpoint import KEY, load_checkpoint
    from few_shot_nas.runtime.progress import quiet_lightning
    from training import assemble, outcome, results, resume

    quiet_lightning()
    parts = build(run_dir, path, flags)
    content = load_checkpoint(path)
    if flags.tables is not None:
        resume.fits(path, content, assemble.build_module(flags.tables, flags.values, parts.source)[1])
    trainer = assemble.build_trainer(flags.values, run_dir)
    # What a search spent and where the weights came from, only the run itself knows; the test adds what it spends.
    parts.module.search_summary = dict(earlier.get("search", {}))
    started = time.monotonic()
    trainer.test(parts.module, datamodule=parts.datamodule, ckpt_path=path, verbose=False, weights_only=True)
    facts = {
        "meta_steps": content[KEY]["meta_step"],
        "wall_seconds": earlier.get("wall_seconds"),
        "test_seconds": time.monotonic() - started,
        "legs": earlier.get("legs", []),
        "split": parts.datamodule.resolved_test_split,
        "checkpoint": path.stem,
        "test": results.scores(parts.module.test_rows),
        "command": command,
    }
    summary = outcome.summary(trainer, parts, flags.values, facts)
    summary["regime"] = earlier.get("regime", summary["regime"])
    # --seed draws other tasks; the seed that the network was trained with stays what it was.
    summary["seed"] = content[KEY]["identity"].get("seed", summary["seed"])
    if trainer.is_global_zero:
        if output is not None:
            classes = partial(parts.datamodule.classes, facts["split"])
            with STOP.held():
                results.write_episodes(output / "episodes.csv", parts.module.test_rows, classes)
                results.write_json(output / "results.json", summary)
                write_text(output / "config.yaml", dump({k: v for k, v in flags.values.items() if k != "run_dir"}))
        results.show(summary, run_dir)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 0, or SystemExit with code 2 after one line for a mistake of the user."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = OneLineParser(prog="evaluate.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--run_dir", type=Path, required=True, help="folder of the run")
    parser.add_argument("--checkpoint", help="best, last or a path; default the one that the run itself tested")
    parser.add_argument("--episodes", type=Count, help="number of test episodes; default that of the run")
    text = "folder for results.json, episodes.csv and config.yaml, which report.py and compare.py read; default none"
    parser.add_argument("--output", type=Path, help=text)
    own, rest = parser.parse_known_args(words)
    episodes = [f"--test_episodes={own.episodes}"] if own.episodes is not None else []
    command = shlex.join(["python", "training/evaluate.py", *words])

    def work() -> None:
        evaluate(own.run_dir, own.checkpoint, own.output, [*rest, *episodes], command)

    return guarded(work)


if __name__ == "__main__":
    sys.exit(main())
