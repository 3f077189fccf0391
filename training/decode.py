"""Decode a genotype for every test task of a search by gradient, and train each distinct one once.

``python training/decode.py --run_dir=runs/tnas --tasks=600`` writes decoded.csv, the genotypes and decoded.json below
RUN_DIR/decode, and tells of them on the run's page. With --retrain='--algorithm=MAML --max_meta_steps=1500' every
distinct genotype is meta-trained from scratch, the most frequent first, and scored on the tasks; --random=8 trains
eight random architectures of the space beside them. The folders below --arms are then arms of training/compare.py: a
task's own genotype, the most frequent one, and a random one. A command that was stopped goes on where it stopped.
"""

import csv
import hashlib
import inspect
import shlex
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from few_shot_nas.errors import InputError
from few_shot_nas.ranges import Count
from few_shot_nas.whole_file import read_text, write_text
from training.child_run import run_to_its_end
from training.draw import drawn, those_that_fit
from training.evaluate import build, flags_of_run
from training.exits import OneLineParser, guarded, output_folder

#: Flags that a training of a genotype takes from the run, so that its test tasks are those that were decoded; the
#: source's own flags belong to them too.
TASK_FLAGS = ("data_class", "n_way", "k_shot", "n_query", "seed", "test_split")
#: Those that it takes where --retrain does not say otherwise.
IMAGE_FLAGS = ("data_dir", "cache_dir", "image_size", "pad")


def digest(text: str) -> str:
    """Return the name of a genotype: the first characters of its hash.

    >>> digest("a")
    'ca978112ca1b'
    """
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def read_decoded(path: Path) -> dict[int, str]:
    """Return the genotype's name of each task that was decoded before; a row cut short by a kill does not count."""
    if not path.is_file():
        return {}
    try:
        text = read_text(path)
        rows = list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))
        return {int(row["task_id"]): row["genotype"] for row in rows if row.get("genotype")}
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise InputError(f"{path}: is not what a decoding wrote ({error}); remove it to decode again") from error


def write_decoded(path: Path, names: Mapping[int, str]) -> None:
    """Write the genotype's name of each task."""
    lines = [f"{task_id},{name}" for task_id, name in sorted(names.items())]
    write_text(path, "\n".join(["task_id,genotype", *lines]) + "\n")


def opened(args: Namespace, overrides: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    """Return the run's parts with the weights of a checkpoint, and its flags.

    Raises:
        InputError: if the run searched no alphas, or a flag does not fit.
    """
    flags = flags_of_run(args.run_dir, overrides)

    from few_shot_nas.algorithms.alpha_search import AlphaSearch
    from few_shot_nas.runtime.checkpoint import named_checkpoint
    from few_shot_nas.runtime.checkpoint import load_checkpoint
    from few_shot_nas.runtime.progress import quiet_lightning

    quiet_lightning()
    checkpoint = named_checkpoint(args.run_dir, args.checkpoint)
    parts = build(args.run_dir, checkpoint, flags)
    if not isinstance(parts.module, AlphaSearch):
        raise InputError(
            f"decode: {args.run_dir} is a run of {flags.values['algorithm']}, which learns no alphas; give one of "
            "TNAS, TNASPlusPlus, AutoMAML, MetaNAS or DARTS"
        )
    content = load_checkpoint(checkpoint)
    parts.module.on_load_checkpoint(content)  # DARTS makes its head anew, for all training classes
    parts.module.load_state_dict(content["state_dict"])
    parts.datamodule.prepare_data()
    parts.datamodule.setup("test")
    return parts, flags.values


def decode_tasks(parts: Any, count: int, output: Path) -> dict[int, str]:
    """Decode the first test tasks of a run, and keep every genotype as a file of its name; returns name by task id."""
    from few_shot_nas.episode import tasks
    from few_shot_nas.runtime.count_progress import CountProgress

    path, folder = output / "decoded.csv", output / "genotypes"
    folder.mkdir(parents=True, exist_ok=True)
    names = read_decoded(path)
    data = parts.datamodule
    wanted = [data.first_test_task + place for place in range(count)]
    with CountProgress("tasks", count, len([task_id for task_id in wanted if task_id in names])) as progress:
        for place, task_id in enumerate(wanted):
            if task_id not in names:
                (task,) = tasks(data.episode(data.resolved_test_split, [task_id]))
                text = parts.module.decode(task).to_json()
                names[task_id] = digest(text)
                write_text(folder / f"{names[task_id]}.json", text)
                write_decoded(path, names)
            progress.update(place + 1)
    return {task_id: names[task_id] for task_id in wanted}


# ---- training what was decoded ---------------------------------------------------------------------------------------


def words_of_training(values: Mapping[str, Any], given: Sequence[str], tasks: int) -> list[str]:
    """Return the flags of run_experiment.py with which the genotypes of a search are trained.

    Args:
        values: flags of the search.
        given: flags of ``--retrain``.
        tasks: number of test tasks.

    Raises:
        InputError: if a given flag would test other tasks than were decoded.
    """
    from few_shot_nas.data.sources import SOURCES

    own = [name for name in inspect.signature(SOURCES[values["data_class"]]).parameters if name not in IMAGE_FLAGS]
    fixed = {**{name: values.get(name) for name in dict.fromkeys((*TASK_FLAGS, *own))}, "test_episodes": tasks}
    names = {word.lstrip("-").split("=")[0] for word in given if word.startswith("--")}
    for name in fixed:
        if name in names:
            raise InputError(
                f"decode: --retrain has --{name}, but the genotypes are scored on the tasks that were decoded, with "
                f"{name}={fixed[name]}; leave it out"
            )
    fixed.update({name: values.get(name) for name in IMAGE_FLAGS if name not in names})
    return [*(f"--{name}={value}" for name, value in fixed.items() if value is not None), *given]


def train_once(folder: Path, genotype: Path, words: Sequence[str]) -> bool:
    """Meta-train one genotype in a run directory of its own, if that is not done; return whether it is.

    Args:
        folder: the run directory; a training that was stopped goes on.
        genotype: file of the genotype.
        words: flags of run_experiment.py.
    """
    if (folder / "results.json").is_file():
        return True
    fixed = ["--model_class=GenotypeNetwork", f"--genotype={genotype}", f"--run_dir={folder}", "--ckpt_path=auto"]
    return run_to_its_end([*words, *fixed]) == 0


def draw_random(parts: Any, count: int, seed: int, output: Path) -> list[str]:
    """Keep files of so many random architectures within the search's limits; returns their names.

    Raises:
        InputError: if the space has no more of them.
    """
    net = parts.module.supernet
    found = list(islice(those_that_fit(drawn(net.space, seed), net.limits.admits), count))
    if len(found) < count:
        raise InputError(
            f"decode: --random={count} given, but only {len(found)} architectures of space {net.space.name} within the "
            "limits of the search were found; give fewer"
        )
    names = [digest(genotype.to_json()) for genotype in found]
    for name, genotype in zip(names, found, strict=True):
        write_text(output / "genotypes" / f"{name}.json", genotype.to_json())
    return names


def train_all(names: Sequence[str], output: Path, words: Sequence[str]) -> dict[str, Path]:
    """Train each genotype once; returns the run directories of those whose training has ended, by genotype."""
    folders = {name: output / "trained" / name for name in dict.fromkeys(names)}
    return {
        name: folder
        for name, folder in folders.items()
        if train_once(folder, output / "genotypes" / f"{name}.json", words)
    }


def retrain(args: Namespace, parts: Any, values: Mapping[str, Any], names: Mapping[int, str]) -> dict[str, Any]:
    """Train what was decoded and what is drawn beside it, and return what decoded.json says of it.

    Args:
        args: retrain, most, random, arms and output of the command.
        parts: of the search.
        values: flags of the search.
        names: genotype by task.
    """
    from training import decoded_arms

    counts = Counter(names.values()).most_common(args.most)
    words = words_of_training(values, shlex.split(args.retrain), args.tasks)
    drawn_names = draw_random(parts, args.random, values["seed"], args.output) if args.random else []
    wanted = [*(name for name, _ in counts), *drawn_names]
    trained = train_all(wanted, args.output, words)
    found: dict[str, Any] = {
        "trained": sum(name in trained for name, _ in counts),
        "trainings_saved": sum(often - 1 for name, often in counts if name in trained),
        "failed": sorted(set(wanted) - set(trained)),
    }
    if drawn_names:
        found["random"] = drawn_names
    if counts[0][0] in trained:
        scores = decoded_arms.arms(names, trained, drawn_names)
        found["accuracy"] = {mode: decoded_arms.gains(scores, mode) for mode in ("transductive", "support")}
        folders = decoded_arms.write_arms(args.arms, names, trained, drawn_names, args.command)
        found["arms"] = [str(folder) for folder in folders]
    return found


def decode(args: Namespace, overrides: Sequence[str]) -> None:
    """Decode, train what was asked for, and write and print the summary."""
    if args.retrain is None and (args.random or args.most or args.arms):
        raise InputError("decode: --random, --most and --arms say what is trained; give --retrain='FLAGS' too")
    parts, values = opened(args, overrides)
    args.output = args.output or args.run_dir / "decode"
    args.arms = args.arms or args.output / "arms"
    if args.retrain is not None:
        words_of_training(values, shlex.split(args.retrain), args.tasks)  # complains before the work is done
    output_folder(args.output)
    names = decode_tasks(parts, args.tasks, args.output)
    counts = Counter(names.values()).most_common()
    summary: dict[str, Any] = {
        "tasks": len(names),
        "split": parts.datamodule.resolved_test_split,
        "distinct": len(counts),
        "counts": dict(counts),
        "command": args.command,
    }
    if args.retrain is not None:
        summary.update(retrain(args, parts, values, names))

    from few_shot_nas.report import write_report
    from training import results

    results.write_json(args.output / "decoded.json", summary)
    show(summary, args.output)
    if args.output == args.run_dir / "decode" and (args.run_dir / "results.json").is_file():
        print(f"report: {write_report(args.run_dir)}")  # the page of the run tells of it from now on


#: How the arms of a decoding are called in sentences.
ARM_WORDS = {"most_often": "the most frequent", "random": "random ones"}


def show(summary: Mapping[str, Any], output: Path) -> None:
    """Print what was found, in sentences."""
    tasks, distinct, counts = summary["tasks"], summary["distinct"], list(summary["counts"].items())
    print(f"{tasks} tasks of {summary['split']} decode to {distinct} distinct genotypes; the most frequent:")
    for name, often in counts[:5]:
        print(f"  {name}  {often:5d} tasks ({100 * often / tasks:.1f} %)")
    if "trained" in summary:
        saved = summary["trainings_saved"]
        print(f"{summary['trained']} genotypes were trained once each; that saved {saved} trainings")
        if summary["failed"]:
            print(f"not trained: {', '.join(summary['failed'])}; the same command tries again")
    for mode, found in summary.get("accuracy", {}).items():
        if found["tasks"]:
            print(f"{mode}, {found['tasks']} tasks: own genotype {percent(found['own'])} %")
        for arm, difference in (("most_often", "difference"), ("random", "difference_random")):
            if difference in found:
                gap = percent(found[difference], "+.2f")
                print(f"  {ARM_WORDS[arm]} {percent(found[arm])} %, own minus that {gap} (paired)")
    if "arms" in summary:
        print(f"to compare: python training/compare.py {' '.join(str(Path(arm).parent) for arm in summary['arms'])}")
    print(f"decoded: {output / 'decoded.json'}")


def percent(found: Mapping[str, float], form: str = ".1f") -> str:
    """Return a fraction with the half-width of its interval.

    >>> percent({"mean": 0.1234, "ci95": 0.01})
    '12.3 +- 1.0'
    """
    return f"{100 * found['mean']:{form}} +- {100 * found['ci95']:{form.lstrip('+')}}"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 0, or SystemExit with code 2 after one line for a mistake of the user."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = OneLineParser(prog="decode.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--run_dir", type=Path, required=True, help="folder of a finished search by gradient")
    parser.add_argument("--tasks", type=Count, default=600, help="number of test tasks to decode")
    parser.add_argument("--checkpoint", default="last", help="best, last or a path; default last")
    parser.add_argument("--output", type=Path, help="folder of the result; default RUN_DIR/decode")
    parser.add_argument("--retrain", help="flags of run_experiment.py with which each distinct genotype is trained")
    parser.add_argument("--most", type=Count, help="train so many of the most frequent genotypes alone")
    parser.add_argument("--random", type=Count, help="train so many random architectures of the space beside them")
    parser.add_argument("--arms", type=Path, help="folder of the arms for compare.py; default RUN_DIR/decode/arms")
    args, rest = parser.parse_known_args(words)
    args.command = shlex.join(["python", "training/decode.py", *words])
    return guarded(lambda: decode(args, rest))


if __name__ == "__main__":
    sys.exit(main())
