"""Tables of single runs and of the demo, rendered from docs/results/runs and docs/results/demo.json."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from benchmarks.collect import DEMO_PAIRS
from benchmarks.tables import contrast_cells, read, rows, signed
from few_shot_nas.report.tables import percent
from few_shot_nas.stats.statistics import MeanCI


def tested(score: Mapping[str, Any]) -> str:
    """Return the test accuracy of one way of normalising: ``61.0 ± 0.7``."""
    return percent(MeanCI(score["accuracy"], score["ci95"], score["episodes"]))


def seconds(run: Mapping[str, Any]) -> float:
    """Return what a run took with its test; without its training where evaluate.py tested it again."""
    again = "training/evaluate.py" in run["command"]
    return float(run["test_seconds"] + (0.0 if again else run["wall_seconds"]))


def runs_table(names: Sequence[str]) -> list[str]:
    """Return one row per results.json under docs/results/runs."""
    head = ("data, split", "task", "algorithm, network", "meta-steps", "episodes", "transductive %", "support %",
            "running %", "seconds", "hardware")  # fmt: skip
    body = []
    for name in names:
        run = read(f"runs/{name}.json")
        scores = [
            tested(run["test"][mode]) if mode in run["test"] else "-"
            for mode in ("transductive", "support", "running")
        ]  # fmt: skip
        size = run["image_size"]
        body.append((
            f"{run['data_class']} {size}x{size}, {run['split']} classes", f"{run['n_way']}-way {run['k_shot']}-shot",
            f"{run['algorithm']}, {run['model_class']} (`{name}`)", str(run["meta_steps"]),
            str(next(iter(run["test"].values()))["episodes"]), *scores,
            f"{seconds(run):.0f}", run["hardware"],
        ))  # fmt: skip
    return rows(head, body)


def curves_table(names: Sequence[str]) -> list[str]:
    """Return the learning curve of each run: accuracy of validation and of the training before it, in per cent."""
    body = []
    for name in names:
        run = read(f"runs/{name}.json")
        points = [
            f"{step}: {100 * score:.1f}" + ("" if trained is None else f" ({100 * trained:.1f})")
            for step, score, trained in run["learning_curve"]
        ]
        body.append((f"`{name}`", f"{run['image_size']}x{run['image_size']}", ", ".join(points)))
    return rows(("run", "images", "meta-step: validation % (training %)"), body)


def overfitting_table(names: Mapping[str, str]) -> list[str]:
    """Return one row per run of docs/overfitting.md: both accuracies at the last validation, and the test of the best.

    Args:
        names: what each run changed, by the name of its folder; the first changed nothing.
    """
    head = ("changed", "last meta-step", "training classes %", "validation classes %", "gap", "best validation",
            "test %", "to nothing", "± classes", "seconds")  # fmt: skip
    contrasts = contrast_cells(read("compare_overfitting.json"))
    body = []
    for name, changed in names.items():
        run = read(f"runs/overfitting_{name}.json")
        curve = run["learning_curve"]
        trained = ("-", "-", "-", "-", "-")  # a run that evaluate.py tested again
        if curve:
            (step, last, _), best = curve[-1], max(curve, key=lambda point: point[1])
            (_, seen), (_, half) = run["training_classes"][-1], run["validation_ci95"][-1]
            trained = (
                str(step), f"{100 * seen:.1f}", f"{100 * last:.1f} ± {100 * half:.1f}", f"{100 * (seen - last):.1f}",
                f"{100 * best[1]:.1f} at {best[0]}",
            )  # fmt: skip
        body.append((
            changed, *trained, tested(run["test"]["transductive"]),
            *contrasts[name][1:3], f"{seconds(run):.0f}",
        ))  # fmt: skip
    return rows(head, body)


def demo_table() -> list[str]:
    """Return one row per seed of the demo, and one of their means."""
    content = read("demo.json")
    head = ("seed", "entropy of the policy, % of uniform", "largest KL of the inner step, nats",
            "inherited weights: MAMLENAS", "random", "difference", "from scratch: found by MAMLENAS",
            "by random search", "difference", "Conv4 of 8 channels")  # fmt: skip
    body = [
        (
            str(each["seed"]), f"{100 * each['entropy'][0][1]:.0f} to {100 * each['entropy'][-1][1]:.1f}",
            f"{max(nats for _, nats in each['kl']):.2f}", *_demo_cells(each["accuracy"], each["contrasts"]),
        )
        for each in content["seeds"]
    ]  # fmt: skip
    mean = {
        run: fmean(each["accuracy"][run] for each in content["seeds"])
        for run in content["seeds"][0]["accuracy"]
    }
    return rows(head, [*body, (
        f"mean, ± over the {len(body)} seeds", "", "", *_demo_cells(mean, content["contrasts"], verdicts=True)
    )])  # fmt: skip


def _demo_cells(
    accuracy: Mapping[str, float], contrasts: Mapping[str, Mapping[str, Any]], *, verdicts: bool = False
) -> list[str]:
    """Return the accuracies of the demo's runs, in per cent, and the differences between two of them."""
    found = []
    for name, (ours, theirs) in DEMO_PAIRS.items():
        contrast = contrasts[name]
        difference = signed(contrast["difference"], contrast["t_half_width"])
        words = f", *{contrast['verdict']}*" if verdicts else ""
        found += [f"{100 * accuracy[ours]:.1f}", f"{100 * accuracy[theirs]:.1f}", difference + words]
    return [*found, f"{100 * accuracy['train-on-conv4']:.1f}"]
