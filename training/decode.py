"""Decode a genotype for every test task of a search by gradient, and train each distinct one once.

``python training/decode.py --run_dir=runs/tnas --tasks=600`` writes decoded.csv, the genotypes and decoded.json below
RUN_DIR/decode. With --retrain='--algorithm=MAML --max_meta_steps=1500' every distinct genotype is meta-trained from
scratch, the most frequent first, and scored on the tasks. A command that was stopped goes on where it stopped.
"""

import csv
import hashlib
import shlex
import subprocess
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from few_shot_nas.errors import InputError
from few_shot_nas.ranges import Count
from few_shot_nas.whole_file import read_text, write_text
from training.evaluate import build, flags_of_run
from training.exits import OneLineParser, guarded, output_folder

#: Flags that a training of a genotype takes from the run, so that its test tasks are those that were decoded.
TASK_FLAGS = (
    "data_class", "data_dir", "cache_dir", "image_size", "n_way", "k_shot", "n_query", "seed", "test_split",
)  # fmt: skip


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
    parts.module.load_state_dict(load_checkpoint(checkpoint)["state_dict"])
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
    command = [sys.executable, "training/run_experiment.py", *words, *fixed]
    return subprocess.run(command, check=False).returncode == 0


def accuracies(folder: Path, bn_mode: str) -> dict[int, float]:
    """Return the accuracy of each test task of a finished run."""
    with (folder / "episodes.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["bn_mode"] == bn_mode]
    return {int(row["task_id"]): float(row["accuracy"]) for row in rows}


def scores(names: Mapping[int, str], trained: Mapping[str, Path], bn_mode: str) -> dict[str, Any]:
    """Compare each task's own genotype with the most frequent one, on the tasks whose genotype was trained.

    Args:
        names: genotype by task.
        trained: run directory by genotype; the first one is that of the most frequent.
        bn_mode: which rows of episodes.csv count.

    Returns:
        ``tasks``; mean and half-width of the 95 % t-interval of ``own``, ``most_often`` and the paired ``difference``.
    """
    from few_shot_nas.stats.statistics import mean_ci

    by_run = {name: accuracies(folder, bn_mode) for name, folder in trained.items()}
    first = next(iter(trained))
    pairs = [
        (by_run[name][task_id], by_run[first][task_id])
        for task_id, name in names.items()
        if name in by_run and task_id in by_run[name] and task_id in by_run[first]
    ]
    if not pairs:
        return {"tasks": 0}
    found = {
        "own": mean_ci([own for own, _ in pairs]),
        "most_often": mean_ci([often for _, often in pairs]),
        "difference": mean_ci([own - often for own, often in pairs]),
    }
    return {"tasks": len(pairs), **{key: {"mean": value.mean, "ci95": value.ci95} for key, value in found.items()}}


def decode(args: Namespace, overrides: Sequence[str], command: str) -> None:
    """Decode, train what was asked for, and write and print the summary."""
    parts, values = opened(args, overrides)
    output = args.output or args.run_dir / "decode"
    output_folder(output)
    names = decode_tasks(parts, args.tasks, output)
    counts = Counter(names.values()).most_common()
    summary: dict[str, Any] = {
        "tasks": len(names),
        "split": parts.datamodule.resolved_test_split,
        "distinct": len(counts),
        "counts": dict(counts),
        "command": command,
    }
    trained: dict[str, Path] = {}
    if args.retrain is not None:
        words = [f"--{name}={values[name]}" for name in TASK_FLAGS if values.get(name) is not None]
        given = shlex.split(args.retrain)
        if "pad" in values and not any(word.startswith("--pad") for word in given):
            given.append(f"--pad={values['pad']}")  # how the search padded, which a genotype does not say
        words += [f"--test_episodes={args.tasks}", *given]
        for name, _ in counts[: args.most]:
            folder = output / "trained" / name
            if train_once(folder, output / "genotypes" / f"{name}.json", words):
                trained[name] = folder
        summary["trained"] = len(trained)
        summary["trainings_saved"] = sum(often - 1 for name, often in counts if name in trained)
        if trained:
            summary["accuracy"] = {mode: scores(names, trained, mode) for mode in ("transductive", "support")}

    from training import results

    results.write_json(output / "decoded.json", summary)
    show(summary, output)


def show(summary: Mapping[str, Any], output: Path) -> None:
    """Print what was found, in sentences."""
    tasks, distinct, counts = summary["tasks"], summary["distinct"], list(summary["counts"].items())
    print(f"{tasks} tasks of {summary['split']} decode to {distinct} distinct genotypes; the most frequent:")
    for name, often in counts[:5]:
        print(f"  {name}  {often:5d} tasks ({100 * often / tasks:.1f} %)")
    if "trained" in summary:
        saved = summary["trainings_saved"]
        print(f"{summary['trained']} genotypes were trained once each; that saved {saved} trainings")
    for mode, found in summary.get("accuracy", {}).items():
        if found["tasks"]:
            own, often, gap = (found[key] for key in ("own", "most_often", "difference"))
            print(
                f"{mode}, {found['tasks']} tasks: own genotype {100 * own['mean']:.1f} +- {100 * own['ci95']:.1f} %, "
                f"the most frequent {100 * often['mean']:.1f} +- {100 * often['ci95']:.1f} %, difference "
                f"{100 * gap['mean']:+.2f} +- {100 * gap['ci95']:.2f} (paired)"
            )
    print(f"decoded: {output / 'decoded.json'}")


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
    args, rest = parser.parse_known_args(words)
    command = shlex.join(["python", "training/decode.py", *words])
    return guarded(lambda: decode(args, rest, command))


if __name__ == "__main__":
    sys.exit(main())
