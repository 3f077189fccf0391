"""Test a finished run again: on more episodes, on another checkpoint or on other classes, without changing the run.

``python training/evaluate.py --run_dir=runs/A --episodes=2000 --checkpoint=best --test_split=val``. Flags of
run_experiment.py, such as --data_dir or --k_shot, replace those of the run's config.yaml. Inputs are normalised as in
training, whatever the data; a learner without a head is tested in any number of ways, one with a head in as many as it
was trained for, or fewer. Several data sets at once:
``--target=MiniImagenet:data --target=ImageFolder:photos/birds``.
"""

import shlex
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from few_shot_nas.errors import InputError
from few_shot_nas.ranges import Count
from few_shot_nas.runtime.stop_signals import STOP
from few_shot_nas.whole_file import write_text
from training.cli import CommandLine, dump, parse, plain
from training.exits import OneLineParser, guarded, output_folder
from training.run_directory import is_first_rank, last_of
from training.targets import Target, target_of, words_of_run


class Tested(NamedTuple):
    """What one test leaves.

    Attributes:
        content: of results.json.
        parts: of the test; its learner holds the rows for episodes.csv.
        flags: of the test.
        changed: the run's own values of flags that the test has otherwise.
    """

    content: dict[str, Any]
    parts: Any
    flags: CommandLine
    changed: dict[str, Any]


def inputs_of(run_dir: Path) -> Any:
    """Return how the inputs of a run are read, or None for a run of a version that did not write it."""
    from few_shot_nas.data.input_spec import InputSpec
    from few_shot_nas.model_card import CARD, ModelCard

    path = run_dir / CARD
    if not path.is_file():
        return None
    return InputSpec.from_dict(ModelCard.read(path).inputs)


def refuse_unset(run_dir: Path) -> None:
    """Raise InputError for the path that an unset variable gives."""
    if str(run_dir) == ".":
        raise InputError("--run_dir=: is empty, as an unset variable is; give the folder of a run")


def config_of_run(run_dir: Path) -> Path:
    """Return the file of a run's flags.

    Raises:
        InputError: if the folder is not that of a run.
    """
    refuse_unset(run_dir)
    config = run_dir / "config.yaml"
    if not config.is_file():
        raise InputError(f"--run_dir={run_dir}: has no config.yaml; give the folder of a run")
    return config


def flags_of_run(run_dir: Path, overrides: Sequence[str], channels: int | None = None) -> CommandLine:
    """Return the flags of a run with some of them replaced.

    Raises:
        InputError: if the folder is not that of a run, or a flag is wrong.
    """
    config = config_of_run(run_dir)
    words, notes = words_of_run(config, overrides, channels)
    fixed = ["--ckpt_path=null", "--init_from=null"]
    if any(word.startswith("--genotype=") for word in words):
        fixed.append(f"--genotype={run_dir / 'genotype.json'}")  # the run's own copy; the original may have moved
    flags = parse([*words, *fixed, *overrides])
    return flags._replace(notes=[*notes, *flags.notes])


def build(run_dir: Path, checkpoint: Path, flags: CommandLine, inputs: Any = None) -> Any:
    """Build the parts of a run, the head for no more ways than are tested, and check that a checkpoint fits them.

    Raises:
        InputError: if the checkpoint is of another network or algorithm, or a head has too few outputs.
    """
    from few_shot_nas.runtime.checkpoint import check_identity, read_identity
    from few_shot_nas.spaces.genotype import Genotype
    from training import assemble

    trained, n_way = read_identity(checkpoint), flags.values["n_way"]
    head = trained.get("n_way", n_way)
    parts = assemble.build_test(flags.tables, flags.values, inputs, n_way=min(head, n_way))
    if parts.module.uses_head and n_way > head:
        raise InputError(
            f"--n_way={n_way}: the head of {flags.values['algorithm']} was trained for {head} ways and has no start "
            "for more; give fewer, or test a learner without a head, such as ProtoNet"
        )
    # Another number of shots or other classes is a question one may ask; another network is not an answer.
    free = {"data_class", "n_way", "k_shot", "n_query", "meta_batch_size", "seed"}
    check_identity(checkpoint, {k: v for k, v in parts.module.run_identity.items() if k not in free})
    if (run_dir / "genotype.json").is_file() and type(parts.module).searches:
        parts.module.genotype = Genotype.load(run_dir / "genotype.json")
    return parts


def cut_head(module: Any, path: Path, content: dict[str, Any], n_way: int) -> bool:
    """Load a checkpoint into a learner that was built for fewer ways, and say so; return whether it was.

    Raises:
        InputError: if a tensor does not fit.
    """
    from few_shot_nas.loading import put
    from few_shot_nas.runtime.checkpoint import KEY
    from training import assemble

    trained = content[KEY]["identity"].get("n_way", n_way)
    if n_way >= trained:
        return False
    module.on_load_checkpoint(dict(content))
    put(module, content["state_dict"], n_way, trained, str(path))
    if module.uses_head:
        assemble.say(
            f"note: {n_way} ways and a head that was trained for {trained}: its first {n_way} outputs are adapted, "
            "from where they started in training"
        )
    return True


def test_once(run_dir: Path, path: Path, earlier: dict[str, Any], overrides: Sequence[str], command: str) -> Tested:
    """Test one checkpoint on one data set.

    Args:
        run_dir: a run directory.
        path: the checkpoint.
        earlier: the run's own results.
        overrides: flags of run_experiment.py that replace the run's own.
        command: kept in results.json.

    Raises:
        InputError: if the checkpoint or a flag does not fit.
    """
    from few_shot_nas.runtime.checkpoint import KEY, load_checkpoint
    from training import assemble, outcome, results, resume

    inputs = inputs_of(run_dir)
    flags = flags_of_run(run_dir, overrides, None if inputs is None else inputs.channels)
    for note in flags.notes:
        assemble.say(note)
    parts = build(run_dir, path, flags, inputs)
    content = load_checkpoint(path)
    if flags.tables is not None:
        trained = content[KEY]["identity"].get("n_way")
        resume.fits(path, content, assemble.build_module(flags.tables, flags.values, parts.source, trained)[1])
    fewer = cut_head(parts.module, path, content, flags.values["n_way"])
    trainer = assemble.build_trainer(flags.values, run_dir)
    # What a search spent and where the weights came from, only the run itself knows; the test adds what it spends.
    parts.module.search_summary = dict(earlier.get("search", {}))
    started = time.monotonic()
    loaded = None if fewer else path
    trainer.test(parts.module, datamodule=parts.datamodule, ckpt_path=loaded, verbose=False, weights_only=True)
    facts = {
        "meta_steps": content[KEY]["meta_step"],
        "skipped_steps": earlier.get("skipped_steps", 0),
        "diverged_rows": earlier.get("diverged_rows", 0),
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
    own = {name: plain(value) for name, value in flags_of_run(run_dir, []).values.items()}
    return Tested(summary, parts, flags, resume.changes(own, flags.values))


def evaluate(args: Any, overrides: Sequence[str], command: str) -> None:
    """Test one checkpoint, on the run's data or on every target, and print one table.

    Args:
        args: run_dir; checkpoint, where None takes the one that the run itself tested; output, a folder for
            the files that reports read, of one folder per target; target.
        overrides: flags of run_experiment.py that replace the run's own.
        command: kept in results.json.

    Raises:
        InputError: if the run, the checkpoint or a flag does not fit.
    """
    targets = [target_of(text) for text in args.target]
    if len({target.name for target in targets}) < len(targets):
        raise InputError(f"--target: two have the name {targets[-1].name}; give folders of different names")
    refuse_unset(args.run_dir)
    folders = [] if args.output is None else [args.output / target.name for target in targets] or [args.output]
    for folder in folders:
        if (folder / "metrics.csv").exists() or last_of(folder).exists():
            raise InputError(f"--output={folder}: holds a run, whose results would be lost; give another folder")
        output_folder(folder)
    config_of_run(args.run_dir)

    from few_shot_nas.runtime.checkpoint import named_checkpoint
    from few_shot_nas.report.results_file import read_results
    from few_shot_nas.runtime.progress import quiet_lightning
    from training import results

    finished = args.run_dir / "results.json"
    earlier = read_results(finished) if finished.is_file() else {}
    path = named_checkpoint(args.run_dir, args.checkpoint or earlier.get("checkpoint", "last"))
    quiet_lightning()
    rows: list[tuple[dict[str, Any], Path]] = []
    for place, target in enumerate(targets or [Target("", ())]):
        try:
            tested = test_once(args.run_dir, path, earlier, [*overrides, *target.words], command)
        except InputError:
            if rows and is_first_rank():
                results.show(rows)  # what was tested before is not lost
            raise
        if is_first_rank() and folders:
            write_test(folders[place], tested)
        rows.append((tested.content, args.run_dir / target.name))
    if is_first_rank():
        results.show(rows)


def write_test(output: Path, tested: Tested) -> None:
    """Write the files of one test as reports read them."""
    from training import results
    from training.class_scores import write_class_scores

    rows, split = tested.parts.module.test_rows, tested.content["split"]
    flags = {name: value for name, value in tested.flags.values.items() if name != "run_dir"}
    note = "".join(f"# The weights were trained with {name}={value}.\n" for name, value in tested.changed.items())
    with STOP.held():
        results.write_episodes(output / "episodes.csv", rows, partial(tested.parts.datamodule.classes, split))
        write_class_scores(output, tested.parts, rows, split)
        results.write_json(output / "results.json", tested.content)
        write_text(output / "config.yaml", note + dump(flags))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 0, or SystemExit with code 2 after one line for a mistake of the user."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = OneLineParser(prog="evaluate.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--run_dir", type=Path, required=True, help="folder of the run")
    parser.add_argument("--checkpoint", help="best, last or a path; default the one that the run itself tested")
    parser.add_argument("--episodes", type=Count, help="number of test episodes; default that of the run")
    text = "folder for results.json, episodes.csv, classes.json and config.yaml, as reports read them; default none"
    parser.add_argument("--output", type=Path, help=text)
    text = "data to test on instead, CLASS or CLASS:FOLDER; repeatable, each is a row of the table"
    parser.add_argument("--target", action="append", default=[], help=text)
    args, rest = parser.parse_known_args(words)
    episodes = [f"--test_episodes={args.episodes}"] if args.episodes is not None else []
    command = shlex.join(["python", "training/evaluate.py", *words])

    def work() -> None:
        evaluate(args, [*rest, *episodes], command)

    return guarded(work)


if __name__ == "__main__":
    sys.exit(main())
