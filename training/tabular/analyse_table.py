"""Say whether per-task search can help.

``python training/tabular/analyse_table.py --table=runs/A/stage0/table_val.npz`` prints variance components,
headroom, cross-fitted oracles and, with --standalone=runs/*/results.json, the rank correlation with runs that trained
one architecture each. docs/stage0.md says what the numbers mean.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from few_shot_nas.errors import InputError
from training.exits import OneLineParser, guarded

if TYPE_CHECKING:
    import numpy as np

    from few_shot_nas.tabular.reward_table import RewardTable


def standalone_scores(
    files: Sequence[Path], table: "RewardTable", bn_mode: str
) -> tuple[list[tuple[int, ...]], list[float]]:
    """Return the architectures of runs of one genotype each, and their test accuracies.

    Raises:
        InputError: if a run is not of an architecture of the table, or was not tested.
    """
    import json

    from few_shot_nas.spaces.genotype import Genotype
    from few_shot_nas.spaces.supernet import space_of

    found, scores = [], []
    for file in files:
        genotype_file = file.parent / "genotype.json"
        if not file.is_file() or not genotype_file.is_file():
            raise InputError(f"--standalone={file}: needs results.json and genotype.json of a run of one architecture")
        genotype = Genotype.load(genotype_file)
        wanted = (table.facts["space"], table.facts["cells"])
        if (genotype.space, genotype.cells) != wanted:
            raise InputError(f"--standalone={file}: is of space {genotype.space} with cells={genotype.cells}, the "
                             f"table of {wanted[0]} with cells={wanted[1]}")  # fmt: skip
        tested = json.loads(file.read_text(encoding="utf-8")).get("test", {})
        if bn_mode not in tested:
            raise InputError(f"--standalone={file}: has no test with bn_mode {bn_mode}")
        found.append(space_of(genotype).encode(genotype))
        scores.append(float(tested[bn_mode]["accuracy"]))
    return found, scores


def rewards_of(table: "RewardTable") -> "dict[str, np.ndarray]":
    """Return the kinds of reward that the table has, higher is better."""
    import numpy as np

    kinds = {
        "accuracy": table.accuracy, "loss": -table.loss, "loo_accuracy": table.loo_accuracy, "loo_loss": -table.loo_loss
    }  # fmt: skip
    return {name: value.astype(np.float64) for name, value in kinds.items() if np.isfinite(value).all()}


def analysis(table: "RewardTable", standalone: Sequence[Path], seed: int) -> dict[str, Any]:
    """Return everything that is known of a table, as JSON values."""
    from few_shot_nas.tabular import table_analysis as t

    kinds = rewards_of(table)
    parts = {name: t.variance_components(rewards, seed=seed) for name, rewards in kinds.items()}
    shrinkage = {
        name: max(p["interaction"].value, 0.0) / max(max(p["interaction"].value, 0.0) + p["noise"].value, 1e-12)
        for name, p in parts.items()
    }
    means = kinds["accuracy"].mean((1, 2))
    best = int(means.argmax())
    content: dict[str, Any] = {
        "facts": dict(table.facts),
        "components": {n: {c: interval._asdict() for c, interval in p.items()} for n, p in parts.items()},
        "signal_to_noise": {name: t.signal_to_noise(p) for name, p in parts.items()},
        "mean_accuracy": float(means.mean()),
        "best": {"decisions": table.decisions[best].tolist(), "accuracy": float(means[best])},
        "headroom": t.headroom(kinds["accuracy"])._asdict(),
        "chosen_per_task": {
            name: {
                "replicate": t.oracle(rewards, kinds["accuracy"])._asdict(),
                "shrunk": t.oracle(rewards, kinds["accuracy"], shrinkage=shrinkage[name])._asdict(),
                "shrinkage": shrinkage[name],
            }
            for name, rewards in kinds.items()
        },
    }
    if standalone:
        found, scores = standalone_scores(standalone, table, table.facts["bn_mode"])
        rows = {tuple(row): place for place, row in enumerate(table.decisions.tolist())}
        correlation = t.rank_correlation([means[rows[d]] for d in found], scores, seed=seed)
        content["rank_correlation"] = {**correlation._asdict(), "architectures": len(found)}
    return content


def show(content: Mapping[str, Any]) -> None:
    """Print the tables."""
    from rich.table import Table

    from training.results import console

    facts = content["facts"]
    title = f"{facts['run']}, {facts['split']}: {facts['architectures']} architectures, {facts['tasks']} tasks"
    variance = Table(title=f"{title}: standard deviation by source (variance of it negative: -)")
    variance.add_column("reward")
    for name in next(iter(content["components"].values())):
        variance.add_column(name, justify="right")
    variance.add_column("SNR per task", justify="right")
    for kind, parts in content["components"].items():
        cells = [f"{p['value'] ** 0.5:.4f}" if p["value"] > 0 else "-" for p in parts.values()]
        variance.add_row(kind, *cells, f"{content['signal_to_noise'][kind]['task']:.3f}")
    console().print(variance)

    gains = Table(title="accuracy gained, percentage points (95 % interval over tasks)")
    gains.add_column("what")
    gains.add_column("gain", justify="right")
    gains.add_row("best fixed over mean architecture, cross-fitted", _points(content["headroom"]))
    for kind, found in content["chosen_per_task"].items():
        gains.add_row(f"per task by {kind} of another replicate, over best fixed", _points(found["replicate"]))
        gains.add_row(f"the same, shrunk to other tasks' means ({found['shrinkage']:.2f})", _points(found["shrunk"]))
    console().print(gains)
    if "rank_correlation" in content:
        tau = content["rank_correlation"]
        print(f"Kendall tau with {tau['architectures']} stand-alone runs: {tau['value']:.2f} "
              f"[{tau['low']:.2f}, {tau['high']:.2f}]")  # fmt: skip


def _points(score: Mapping[str, float]) -> str:
    return f"{100 * score['mean']:+.2f} +- {100 * score['ci95']:.2f}"


def analyse(path: Path, standalone: Sequence[Path], output: Path | None, seed: int) -> None:
    """Analyse one table, print it and write it as JSON.

    Raises:
        InputError: if the table or a stand-alone run cannot be used.
    """
    from few_shot_nas.tabular.reward_table import load_table
    from training.results import write_json

    table = load_table(path)
    content = analysis(table, standalone, seed)
    show(content)
    target = output or path.with_name(f"analysis_{table.facts['split']}.json")
    write_json(target, content)
    print(f"analysis: {target}")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 0, or SystemExit with code 2 after one line for a mistake of the user."""
    parser = OneLineParser(prog="analyse_table.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--table", type=Path, required=True, help="file that stage0.py wrote")
    parser.add_argument("--standalone", type=Path, nargs="*", default=[], help="results.json of runs of one genotype")
    parser.add_argument("--output", type=Path, help="JSON file; default analysis_SPLIT.json beside the table")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    own = parser.parse_args(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: analyse(own.table, own.standalone, own.output, own.seed))


if __name__ == "__main__":
    sys.exit(main())
