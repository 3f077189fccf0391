"""Say whether per-task search can help.

``python training/tabular/analyse_table.py --table=runs/A/stage0/table_val.npz`` prints variance components,
headroom, what cross-fitted rules gain and, with --standalone=runs/*/results.json, the rank correlation with runs that
trained one architecture each. docs/stage0.md says what the numbers mean.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from few_shot_nas.errors import InputError
from few_shot_nas.ranges import Seed
from training.exits import OneLineParser, guarded

if TYPE_CHECKING:
    import numpy as np
    from rich.table import Table

    from few_shot_nas.tabular.reward_table import RewardTable


def standalone_scores(
    files: Sequence[Path], table: "RewardTable", bn_mode: str
) -> tuple[list[tuple[int, ...]], list[float]]:
    """Return the architectures of runs of one genotype each, and their test accuracies.

    Raises:
        InputError: if a run is not of an architecture of the table, or was not tested.
    """
    from few_shot_nas.report.results_file import check_score, read_object
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
        tested = read_object(file).get("test", {})
        if bn_mode not in tested:
            raise InputError(f"--standalone={file}: has no test with bn_mode {bn_mode}")
        check_score(file, bn_mode, tested[bn_mode])
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


def gains(table: "RewardTable", learn: "RewardTable | None", seed: int) -> dict[str, Any]:
    """Return what each rule gains over the best fixed architecture, and what it looks at.

    Args:
        table: the tasks to choose for.
        learn: other tasks to learn from; None learns from the same table, on random halves.
        seed: of the halves.
    """
    import numpy as np

    from few_shot_nas.tabular import oracles as o

    parts = [table] if learn is None else [learn, table]
    each = [rewards_of(part) for part in parts]
    kinds = {name: np.concatenate([rewards[name] for rewards in each], axis=1) for name in each[-1]}
    source = np.concatenate([part.source for part in parts])
    embedding = np.concatenate([part.embedding for part in parts]).astype(np.float64)
    score = kinds["accuracy"]
    rules: dict[str, tuple[str, o.Rule]] = {}
    if len(np.unique(source)) > 1:
        rules["per_source"] = ("source", o.per_source(score, source))
    rules["embedding"] = ("label-free", o.regression(score, embedding))
    for kind, clue in kinds.items():
        seen = "label-free" if kind.startswith("loo") else "query labels"
        rules |= {
            kind: (seen, o.own_reward(clue)),
            f"{kind}_shrunk": (seen, o.shrunk(clue)),
            f"{kind}_rank1": (seen, o.low_rank(score, clue, 1)),
            f"{kind}_rank3": (seen, o.low_rank(score, clue, 3)),
        }
    counts = [part.shape[1] for part in parts]
    cuts = o.random_halves(counts[0], seed=seed) if learn is None else o.first_to_last(*counts)
    found = {}
    for name, (seen, rule) in rules.items():
        gain = o.gain_of(score, rule, cuts)
        of_source = {str(place): part._asdict() for place, part in o.by_source(gain, source).items()}
        found[name] = {**gain.mean._asdict(), "low": gain.low, "high": gain.high, "sees": seen, "by_source": of_source}
    return found


def analysis(
    table: "RewardTable", learn: "RewardTable | None", standalone: Sequence[Path], seed: int
) -> dict[str, Any]:
    """Return everything that is known of a table, as JSON values; ``learn`` are tasks of the training classes."""
    from few_shot_nas.tabular import table_analysis as t

    kinds = rewards_of(table)
    parts = {name: t.variance_components(rewards, seed=seed) for name, rewards in kinds.items()}
    means = kinds["accuracy"].mean((1, 2))
    best = int(means.argmax())
    content: dict[str, Any] = {
        "facts": dict(table.facts),
        "components": {n: {c: interval._asdict() for c, interval in p.items()} for n, p in parts.items()},
        "signal_to_noise": {name: t.signal_to_noise(p) for name, p in parts.items()},
        "mean_accuracy": float(means.mean()),
        "best": {"decisions": table.decisions[best].tolist(), "accuracy": float(means[best])},
        "headroom": t.headroom(kinds["accuracy"])._asdict(),
        "gains": gains(table, None, seed),
    }
    if learn is not None:
        content["gains_learned_on_training_classes"] = gains(table, learn, seed)
        other = rewards_of(learn)["accuracy"].mean(2)
        agreed = t.order_agreement(kinds["accuracy"].mean(2), table.source, other, learn.source)
        content["order_agreement"] = {
            str(place): {"training_classes": tau, "halves": half} for place, (tau, half) in agreed.items()
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

    console().print(_gains_table(content, "gains", "learned on other tasks of this table"))
    if "gains_learned_on_training_classes" in content:
        console().print(_gains_table(content, "gains_learned_on_training_classes", "learned on training classes"))
    for place, agreed in content.get("order_agreement", {}).items():
        print(f"Kendall tau of the architectures' order, source {place}: {agreed['training_classes']:.2f} with "
              f"training classes, {agreed['halves']:.2f} between halves of these tasks")  # fmt: skip
    if "rank_correlation" in content:
        tau = content["rank_correlation"]
        print(f"Kendall tau with {tau['architectures']} stand-alone runs: {tau['value']:.2f} "
              f"[{tau['low']:.2f}, {tau['high']:.2f}]")  # fmt: skip


def _gains_table(content: Mapping[str, Any], key: str, where: str) -> "Table":
    from rich.table import Table

    gained = Table(title=f"points of accuracy over the best fixed architecture, {where} (95 % t-interval over tasks)")
    for column in ("rule", "sees", "gain", "of one cut", "verdict"):
        gained.add_column(column, justify="left" if column in ("rule", "sees", "verdict") else "right")
    gained.add_row("best fixed, over the mean", "-", _points(content["headroom"]), "-", "-")
    for name, found in content[key].items():
        cuts = f"{100 * found['low']:+.2f} to {100 * found['high']:+.2f}"
        gained.add_row(name, found["sees"], _points(found), cuts, verdict(found))
    return gained


def verdict(gain: Mapping[str, float]) -> str:
    """Say what the t-interval over tasks of a rule's gain allows; another rule may gain more."""
    if gain["mean"] - gain["ci95"] > 0:
        return "gains"
    return "loses" if gain["mean"] + gain["ci95"] < 0 else "undecided"


def _points(score: Mapping[str, float]) -> str:
    return f"{100 * score['mean']:+.2f} +- {100 * score['ci95']:.2f}"


def analyse(path: Path, learn: Path | None, standalone: Sequence[Path], output: Path | None, seed: int) -> None:
    """Analyse one table, print it and write it as JSON.

    Raises:
        InputError: if a table or a stand-alone run cannot be used.
    """
    from few_shot_nas.tabular.reward_table import load_table
    from training.results import write_json
    from training.tabular.arms import load_tables

    learn_table, table = (None, load_table(path)) if learn is None else load_tables(learn, path)
    content = analysis(table, learn_table, standalone, seed)
    show(content)
    target = output or path.with_name(f"analysis_{table.facts['split']}.json")
    write_json(target, content)
    print(f"analysis: {target}")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 0, or SystemExit with code 2 after one line for a mistake of the user."""
    parser = OneLineParser(prog="analyse_table.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--table", type=Path, required=True, help="file that stage0.py wrote")
    parser.add_argument("--train_table", type=Path,
                        help="table of training classes: rules learn from it as well, as a search must")  # fmt: skip
    parser.add_argument("--standalone", type=Path, nargs="*", default=[], help="results.json of runs of one genotype")
    parser.add_argument("--output", type=Path, help="JSON file; default analysis_SPLIT.json beside the table")
    parser.add_argument("--seed", type=Seed, default=0, help="of the bootstrap")
    args = parser.parse_args(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: analyse(args.table, args.train_table, args.standalone, args.output, args.seed))


if __name__ == "__main__":
    sys.exit(main())
