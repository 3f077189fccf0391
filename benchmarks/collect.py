"""Put the small files that the documents' tables are rendered from under docs/results.

``python benchmarks/collect.py runs`` takes what the commands of docs/does_maml_enas_work.md left in ``runs``: the
analyses of the reward tables and the arms, whose contrasts it computes as training/compare.py does. ``--run NAME=DIR``
takes the results.json of a single run, ``--demo DIR`` those of the demo over its seeds, ``--compare NAME=DIR`` that run
against all others beside its folder, and ``--copy NAME=FILE`` the result of another script.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from few_shot_nas.errors import InputError
from few_shot_nas.report import Run, as_json, compare_arms, load_run
from few_shot_nas.whole_file import write_text

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"


class Comparison(NamedTuple):
    """Arms that are compared with one of them.

    Attributes:
        folder: of the arms.
        reference: the arm that the others are compared with.
        others: how the names of the others begin.
    """

    folder: str
    reference: str
    others: tuple[str, ...] = ("",)


#: By the names of their files.
COMPARISONS = {
    **{
        name: Comparison(name, "B_best_fixed")
        for name in ("mixed_arms", "omniglot_arms", "plant5", "plant10", "mixed_task5", "mixed_task10",
                     "omniglot_task10", "mixed_lstm", "omniglot_lstm", "mixed_ladder", "mini_arms", "minibig_arms")
    },
    "ladder": Comparison("ladder", "random"),
    "ladder_uniform": Comparison("ladder", "uniform", ("warmup", "learned", "lstm")),
    "mixed_without": Comparison("mixed_ladder", "L8_conditioned", ("R_",)),
    "mixed_adaptation": Comparison("mixed_arms", "D_no_adaptation", ("F_",)),
    "omniglot_adaptation": Comparison("omniglot_arms", "D_no_adaptation", ("F_",)),
    "mixed_step": Comparison("mixed_arms", "F_naive_K4_start", ("F_naive_K4",)),
    "omniglot_step": Comparison("omniglot_arms", "F_naive_K4_start", ("F_naive_K4",)),
}  # fmt: skip


def write(name: str, content: Any) -> None:
    """Write one file of docs/results, on few lines."""
    path = RESULTS / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, indent=1, sort_keys=True) + "\n")
    print(f"written: {path.relative_to(RESULTS.parents[1])}")


def short(value: Any) -> Any:
    """Return JSON content with numbers of six digits, and without folders of one machine in paths."""
    if isinstance(value, dict):
        return {key: short(each) for key, each in value.items()}
    if isinstance(value, list):
        return [short(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.6g}")
    return without_folders(value) if isinstance(value, str) else value


#: Folders with a part of a data set, whose name is a setting: that of docs/overfitting.md. All others are DATA.
PARTS = frozenset({"mini8"})


def without_folders(text: str) -> str:
    """Return a command without the folders of the machine that it ran on.

    >>> without_folders("python a.py --data_dir=/x/data --cache_dir=/y"), without_folders("--data_dir=/x/mini8")
    ('python a.py --data_dir=DATA', '--data_dir=mini8')
    """
    part = "|".join(PARTS)
    for pattern, instead in (
        (rf"--data_dir=(?!(\S*/)?({part})(\s|$))\S+", "--data_dir=DATA"), (r" --cache_dir=\S+", ""),
        (r"--run_dir=/\S*/", "--run_dir=runs/"), (r"--init_from=/\S*/(?=[^/\s]+/[^/\s]+)", "--init_from=runs/"),
        (r"/\S*?/(?=runs/)", ""), (r"(^|=|\s)/\S*/([^/\s]+)", r"\1\2"),
    ):  # fmt: skip
        text = re.sub(pattern, instead, text)
    return text


def analyses(runs: Path) -> dict[str, dict[str, Any]]:
    """Return what is kept of the analyses of the tables, by data set and seed."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(runs.glob("*/stage0/analysis_*.json")):
        name = re.fullmatch(r"([a-z]+)(\d+)", file.parents[1].name)
        if name is None:
            continue
        content = json.loads(file.read_text(encoding="utf-8"))
        kept = {
            "facts": {key: content["facts"][key] for key in ("seed", "split", "tasks", "meta_steps", "weights")},
            "mean_accuracy": content["mean_accuracy"],
            "headroom": {key: content["headroom"][key] for key in ("mean", "ci95")},
            "signal_to_noise": {kind: ratio["task"] for kind, ratio in content["signal_to_noise"].items()},
            "components": {
                kind: {part: interval["value"] for part, interval in parts.items()}
                for kind, parts in content["components"].items()
            },
        }
        for key in ("gains", "gains_learned_on_training_classes"):
            kept[key] = {
                rule: {
                    **{part: gain[part] for part in ("mean", "ci95", "low", "high", "sees")},
                    "by_source": {source: part["mean"] for source, part in gain["by_source"].items()},
                }
                for rule, gain in content.get(key, {}).items()
            }
        kept |= {key: content[key] for key in ("order_agreement", "rank_correlation") if key in content}
        found.setdefault(name[1], {})[name[2]] = kept
    return found


def compared(folders: Sequence[Path], reference: Path) -> dict[str, Any]:
    """Return the contrasts of arms with a reference as compare.json holds them, without the paths."""
    found = as_json(compare_arms([str(folder) for folder in folders], reference=str(reference)))
    return {**found, "arms": [{key: arm[key] for key in arm if key != "path"} for arm in found["arms"]]}


def neighbours(reference: Path) -> dict[str, Any]:
    """Return the contrasts of all runs beside a run with it, and the size and seconds of each."""
    folders = sorted(path for path in reference.parent.iterdir() if (path / "results.json").is_file())
    runs = {}
    for folder in folders:
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        kept = ("parameters", "macs", "meta_steps", "wall_seconds", "test_seconds", "hardware", "command", "seed")
        runs[folder.name] = {key: results[key] for key in kept}
    return {**compared(folders, reference), "runs": runs}


def single_run(folder: Path) -> dict[str, Any]:
    """Return what is kept of a run: its results, the size of its images and its learning curve.

    Each point of the curve is one validation: its meta-step, its accuracy, and the accuracy of the training since the
    validation before (the mean over the rows of metrics.csv), null where that is not recorded.
    """
    run = load_run(folder)
    steps, scores = run.series("val/accuracy")
    trained_at, trained = run.series("train/accuracy")
    curve, before = [], 0.0
    for step, score in zip(steps, scores, strict=True):
        since = trained[(trained_at > before) & (trained_at <= step)]
        curve.append([int(step), float(score), float(since.mean()) if since.size else None])
        before = step
    kept = {key: value for key, value in run.results.items() if key != "legs"}
    kept |= {"image_size": run.config["image_size"], "learning_curve": curve}
    if run.series("train/eval_accuracy")[0].size:
        kept["training_classes"] = _points(run, "train/eval_accuracy")
        kept["validation_ci95"] = _points(run, "val/ci95")
    return kept


#: What the demo compares: the runs of both arms, the reference second.
DEMO_PAIRS = {"search": ("search-maml-enas", "search-random"), "train-on": ("train-on-searched", "train-on-random")}


def demo(runs: Path) -> dict[str, Any]:
    """Return what is kept of the demo over its seeds: ``demo0``, ``demo1``, ... in ``runs``.

    For each seed the accuracies of its runs, the entropy of the policy and how far the inner step moved it by
    meta-step, what both searches found, and the contrasts of the pairs over test tasks; and the contrasts over seeds.
    """
    seeds = []
    for folder in sorted(runs.glob("demo[0-9]*/")):
        found = {path.name: load_run(path) for path in sorted(folder.iterdir()) if (path / "results.json").is_file()}
        search = found["search-maml-enas"]
        seeds.append({
            "seed": search.results["seed"],
            "entropy": _points(search, "controller/entropy_fraction"),
            "kl": _points(search, "controller/kl_adapt"),
            "reward_calls": {name: found[name].results["search"]["reward_calls"] for name in DEMO_PAIRS["search"]},
            "ops": {name: _ops(found[name]) for name in DEMO_PAIRS["search"]},
            "accuracy": {name: run.results["test"]["transductive"]["accuracy"] for name, run in found.items()},
            "contrasts": _pairs(str(folder)),
        })  # fmt: skip
    return {"seeds": seeds, "contrasts": _pairs(str(runs / "demo[0-9]*"))}


def _points(run: Run, column: str) -> list[list[float]]:
    """Return [meta-step, value] of the rows of ``metrics.csv`` where a column is filled."""
    return [list(point) for point in zip(*(values.tolist() for values in run.series(column)), strict=True)]


def _ops(run: Run) -> list[str]:
    """Return the ops of the architecture that a search found."""
    assert run.genotype is not None
    return [edge.op for _, edges in run.genotype.edges for edge in edges]


def _pairs(folders: str) -> dict[str, Any]:
    """Return the contrasts of the demo's pairs in a folder, or over the folders of a glob."""
    found = {}
    for name, (ours, theirs) in DEMO_PAIRS.items():
        comparison = as_json(compare_arms([f"{folders}/{theirs}", f"{folders}/{ours}"]))
        found[name] = {key: comparison["contrasts"][0][key] for key in ("difference", "t_half_width", "verdict")}
    return found


def named_path(word: str) -> tuple[str, Path]:
    """Return the parts of ``NAME=PATH``.

    >>> named_path("root=/")
    ('root', PosixPath('/'))

    Raises:
        argparse.ArgumentTypeError: if there is no name or no such path.
    """
    name, _, path = word.partition("=")
    if not name or not path or not Path(path).exists():
        raise argparse.ArgumentTypeError(f"{word!r} given: it needs NAME=PATH with a path that exists")
    return name, Path(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the files."""
    parser = argparse.ArgumentParser(prog="collect.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("runs", type=Path, nargs="?", help="folder of the runs of docs/does_maml_enas_work.md")
    add = partial(parser.add_argument, action="append", default=[], type=named_path)
    add("--run", metavar="NAME=DIR", help="a single run")
    add("--compare", metavar="NAME=DIR", help="a run and those beside it")
    add("--copy", metavar="NAME=FILE", help="a JSON file")
    parser.add_argument("--demo", type=Path, metavar="DIR", help="the folder of demo0, demo1, ...")
    own = parser.parse_args(argv)
    try:
        _write_all(own)
    except InputError as problem:
        parser.error(str(problem))
    return 0


def _write_all(own: argparse.Namespace) -> None:
    """Write what the flags name."""
    for name, folder in own.compare:
        write(f"compare_{name}.json", short(neighbours(folder)))
    for name, file in own.copy:
        write(f"{name}.json", short(json.loads(file.read_text(encoding="utf-8"))))
    for name, folder in own.run:
        write(f"runs/{name}.json", short(single_run(folder)))
    if own.demo is not None:
        write("demo.json", short(demo(own.demo)))
    if own.runs is None:
        return
    write("stage0.json", short(analyses(own.runs)))
    for name, (folder, reference, others) in COMPARISONS.items():
        beside = sorted(path for path in (own.runs / folder).iterdir() if path.is_dir())
        arms = [path for path in beside if path.name == reference or path.name.startswith(others)]
        write(f"compare_{name}.json", short(compared(arms, own.runs / folder / reference)))


if __name__ == "__main__":
    sys.exit(main())
