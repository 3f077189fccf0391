"""Tables of the documents, each rendered from the small files under docs/results as the lines of a Markdown table."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.captions import DATA, FEW, RULES, SOURCES
from few_shot_nas.report.contrasts import contrasts
from few_shot_nas.stats.paired import holm
from few_shot_nas.stats.statistics import mean_ci

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"


def read(name: str) -> Any:
    """Return the content of a file under docs/results."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def rows(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in body)]


def signed(mean: float, half: float) -> str:
    """Return ``+1.02 ± 0.34``."""
    return f"{mean:+.2f} ± {half:.2f}"


def _correlation(found: Mapping[str, float | None]) -> str:
    """Return ``+0.50 (+0.40 .. +0.60)``; a dash where one side does not vary."""
    if found["value"] is None:
        return "-"
    return f"{found['value']:+.2f} ({found['low']:+.2f} .. {found['high']:+.2f})"


# ---- reward tables --------------------------------------------------------------------------------------------------


def over_supernets(data: str, value: Callable[[Mapping[str, Any]], Mapping[str, float]]) -> tuple[float, float]:
    """Return a gain in points and the half-width of its interval: over supernets, or over the tasks of a single one.

    Args:
        data: name of the data set.
        value: takes what is known of a supernet's table and returns ``mean`` and ``ci95`` over its tasks.
    """
    found = [value(table) for table in read("stage0.json")[data].values()]
    if len(found) == 1:
        return 100 * found[0]["mean"], 100 * found[0]["ci95"]
    over = mean_ci([100 * each["mean"] for each in found])
    return over.mean, over.ci95


def variance_table() -> list[str]:
    """Return how much there is to learn, one row per data set, the mean over its supernets."""
    head = ("data", "supernets", "tasks", "mean architecture %", "best fixed over mean", "sd architecture",
            "sd interaction", "sd noise", "SNR")  # fmt: skip
    body = []
    for data, name in DATA.items():
        tables = list(read("stage0.json")[data].values())

        def mean(values: Sequence[float]) -> float:
            return sum(values) / len(values)

        accuracy = 100 * mean([table["mean_accuracy"] for table in tables])
        spread = {
            part: 100 * mean([max(table["components"]["accuracy"][part], 0.0) ** 0.5 for table in tables])
            for part in ("architecture", "interaction", "noise")
        }
        snr = [mean([table["signal_to_noise"][kind] for table in tables]) for kind in ("accuracy", "loss")]
        best = signed(*over_supernets(data, lambda table: table["headroom"]))
        body.append((name, str(len(tables)), str(tables[0]["facts"]["tasks"]), f"{accuracy:.1f}", best,
                     *(f"{value:.1f}" for value in spread.values()), " / ".join(f"{v:.2f}" for v in snr)))  # fmt: skip
    return rows(head, body)


def rules_table(datas: Sequence[str]) -> list[str]:
    """Return what the rules gain over the best fixed architecture on data sets.

    Verdicts are corrected by Holm's method over all rules that were tried on a data set and kind of classes, shown here
    or not.
    """
    kinds = {"gains": "learned on its own classes", "gains_learned_on_training_classes": "learned on training classes"}
    head = ["rule", "sees"]
    for data in datas:
        for words in kinds.values():
            head += [f"{DATA[data].split(',')[0]}, {words}", "verdict"]
    columns = [_gains(data, kind) for data in datas for kind in kinds]
    seen = {
        rule: gain["sees"]
        for data in datas
        for table in read("stage0.json")[data].values()
        for rule, gain in table["gains"].items()
    }
    body = [
        [words, seen[rule], *(cell for column in columns for cell in column.get(rule, ("-", "")))]
        for rule, words in RULES.items()
        if rule in seen
    ]
    return rows(head, body)


def _gains(data: str, kind: str) -> dict[str, tuple[str, str]]:
    """Return the gain of each rule and its verdict, for one data set and kind of classes."""
    tables = list(read("stage0.json")[data].values())
    rules = sorted(set.intersection(*(set(table[kind]) for table in tables)))

    def gain_of(rule: str) -> tuple[float, float]:
        return over_supernets(data, lambda table: table[kind][rule])

    found = [gain_of(rule) for rule in rules]
    count = len(tables) if len(tables) > 1 else tables[0]["facts"]["tasks"]
    corrected = holm([_p_value(mean, half, count) for mean, half in found])
    verdicts = [
        "undecided" if p >= 0.05 else "gains" if mean > 0 else "loses"
        for p, (mean, _) in zip(corrected, found, strict=True)
    ]
    return {
        rule: (signed(*gain), verdict) for rule, gain, verdict in zip(rules, found, verdicts, strict=True)
    }  # fmt: skip


def _p_value(mean: float, half: float, count: int) -> float:
    """Return the two-sided p-value of a mean of ``count`` values whose 95 % t-interval has the half-width ``half``."""
    if half == 0:
        return 1.0
    return float(2 * stats.t.sf(abs(mean) / half * stats.t.ppf(0.975, count - 1), count - 1))


def order_table() -> list[str]:
    """Return how well training classes order the architectures, by data set and source, over supernets."""
    body = []
    for data, sources in SOURCES.items():
        tables = list(read("stage0.json")[data].values())
        for place, source in enumerate(sources):
            row = [DATA[data], source]
            for kind in ("training_classes", "halves"):
                taus = [table["order_agreement"][str(place)][kind] for table in tables]
                over = mean_ci(taus)
                row.append(f"{over.mean:.2f} ± {over.ci95:.2f}" if len(taus) > 1 else f"{taus[0]:.2f}")
            body.append(row)
    return rows(("data", "source", "with training classes", "between halves of the tasks"), body)


def ranks_table() -> list[str]:
    """Return how well the ranks of supernets agree with those of architectures trained alone."""
    body = [
        [name, seed, str(found["architectures"]), _correlation(found)]
        for data, name in DATA.items()
        for seed, table in read("stage0.json")[data].items()
        if (found := table.get("rank_correlation"))
    ]  # fmt: skip
    return rows(("data", "supernet", "architectures trained alone", "Kendall's tau"), body)


# ---- contrasts ------------------------------------------------------------------------------------------------------


def contrasts_table(
    files: Mapping[str, str], names: Mapping[str, str], *, arm: str = "arm", reference: str = "B"
) -> list[str]:
    """Return one row per arm: accuracy and difference to the reference with its verdict, for each compare.json.

    Args:
        files: by the title of its columns.
        names: what the arms are called.
        arm: what an arm of these files is called.
        reference: what their reference is called.
    """
    head = [arm]
    for title in files:
        head += [f"{title} %", f"to {reference}", "± classes", "verdict"]
    found = [contrast_cells(read(file)) for file in files.values()]
    body = [
        [words, *(cell for cells in found for cell in cells.get(name, ("-", "", "", "")))]
        for name, words in names.items()
        if any(name in cells for cells in found)
    ]
    return rows(head, body)


def contrast_cells(content: Mapping[str, Any]) -> dict[str, tuple[str, str, str, str]]:
    """Return the cells of each arm of a compare.json."""
    contrast = {each["arm"]: each for each in content["contrasts"]}
    found = {}
    for arm in content["arms"]:
        name, accuracy = arm["name"], f"{arm['accuracy_percent']:.1f}"
        if name not in contrast:
            found[name] = (accuracy, "", "", "reference")
            continue
        own = contrast[name]
        classes = "-" if own["classes_half_width"] is None else f"{own['classes_half_width']:.2f}"
        found[name] = (accuracy, signed(own["difference"], own["t_half_width"]), classes, own["verdict"])
    return found


def planted_table(prefix: str, points: Sequence[int]) -> list[str]:
    """Return the differences to the best fixed architecture of planted tables, one row per size of the preference."""
    names = [name for name in FEW if name != "B_best_fixed"]
    body = []
    for size in points:
        content = read(f"compare_{prefix}{size}.json")
        contrast = {each["arm"]: each for each in content["contrasts"]}
        cells = [
            f"{signed(contrast[name]['difference'], contrast[name]['t_half_width'])} ({contrast[name]['verdict']})"
            if name in contrast else "-"
            for name in names
        ]  # fmt: skip
        body.append([str(size), *cells])
    return rows(["planted points", *(FEW[name] for name in names)], body)


# ---- searched against random ----------------------------------------------------------------------------------------


def searched_table(file: str, names: Mapping[str, str]) -> list[str]:
    """Return one row per network, best first: size, accuracy, and the difference to the searched one.

    Args:
        file: written by ``collect.py --compare``.
        names: what single runs are called; a run that is not in it keeps its folder's name.
    """
    content = read(file)
    contrast = {each["arm"]: each for each in content["contrasts"]}
    head = ("network", "parameters", "MACs", f"{content['bn_mode']} %", "to the searched one", "± classes", "verdict",
            "seconds")  # fmt: skip
    body = []
    for arm in sorted(content["arms"], key=lambda each: -each["accuracy_percent"]):
        name, run, own = arm["name"], content["runs"][arm["name"]], contrast.get(arm["name"])
        classes = None if own is None else own["classes_half_width"]
        body.append([
            names.get(name, name.replace("_", " ")), f"{run['parameters']:,}", f"{run['macs'] / 1e6:.1f} M",
            f"{arm['accuracy_percent']:.1f}",
            "" if own is None else signed(own["difference"], own["t_half_width"]),
            "-" if classes is None else f"{classes:.2f}", "**searched**" if own is None else own["verdict"],
            f"{run['wall_seconds'] + run['test_seconds']:.0f}",
        ])  # fmt: skip
    return rows(head, body)


def _by_kendall(proxies: Mapping[str, Any]) -> list[str]:
    """Return the names of proxies, the best Kendall first, those without one last."""

    def kendall(name: str) -> float:
        value = proxies[name]["kendall"]["value"]
        return -2.0 if value is None else value

    return sorted(proxies, key=kendall, reverse=True)


def proxies_table(ranks: str, arms: str) -> list[str]:
    """Return one row per proxy, best Kendall first: its ranks, and its choice beside the best fixed architecture.

    Args:
        ranks: written by ``rank_correlation.py --chosen`` of the tables of several supernets.
        arms: compare.json of the arms I of the same selections with arm B.
    """
    proxies, content = read(ranks)["correlations"], read(arms)
    accuracy = {arm["name"]: arm["accuracy_percent"] for arm in content["arms"]}
    contrast = {each["arm"]: each for each in content["contrasts"]}
    head = ("proxy", "Kendall", "Kendall given log parameters", "its first %", "to B", "verdict")
    body = [("B best fixed", "", "", f"{accuracy['B_best_fixed']:.2f}", "", "reference")]
    for name in _by_kendall(proxies):
        own = contrast[f"I_{name}"]
        body.append((
            f"`{name}`", *(_correlation(proxies[name][column]) for column in ("kendall", "kendall_given_size")),
            f"{accuracy[f'I_{name}']:.2f}", signed(own["difference"], own["t_half_width"]), own["verdict"],
        ))  # fmt: skip
    return rows(head, body)


def decoded_table(files: Sequence[str]) -> list[str]:
    """Return what a task's own genotype is worth: one row per search, and one over the searches with the verdicts.

    Args:
        files: each written by training/decode.py with ``--retrain`` and ``--random``, of one search.
    """
    searches = [read(file) for file in files]
    scores = [search["accuracy"]["transductive"] for search in searches]

    def cells(found: Mapping[str, Any]) -> list[str]:
        means = [f"{100 * found[arm]['mean']:.1f}" for arm in ("own", "most_often", "random")]
        gaps = [found[key] for key in ("difference", "difference_random")]
        return [*means, *(signed(100 * gap["mean"], 100 * gap["ci95"]) for gap in gaps)]

    body = [
        [str(seed), str(search["tasks"]), str(search["distinct"]), str(max(search["counts"].values())),
         str(found["tasks"]), *cells(found)]
        for seed, (search, found) in enumerate(zip(searches, scores, strict=True))
    ]  # fmt: skip
    points = [
        np.array([[100 * found[key]["mean"]] for found in scores]) for key in ("difference", "difference_random")
    ]
    over = contrasts(("most_often", "random"), points, margin=0.5, resamples=10_000)
    means = [sum(100 * found[arm]["mean"] for found in scores) / len(scores) for arm in ("own", "most_often", "random")]
    said = [f"{signed(each.difference.mean, each.difference.ci95)}, **{each.verdict}**" for each in over]
    body.append(["all", "", "", "", "", *(f"{mean:.1f}" for mean in means), *said])
    head = ("search", "tasks", "genotypes", "most often", "tasks scored", "own %", "most often %", "random %",
            "own - most often", "own - random")  # fmt: skip
    return rows(head, body)


def rank_table(file: str) -> list[str]:
    """Return one row per proxy of a file of training/tabular/rank_correlation.py, best Kendall first."""
    content = read(file)
    proxies, truth = content["correlations"], content["accuracy"]

    def first(scores: Sequence[float]) -> str:
        return f"{100 * truth[max(range(len(scores)), key=scores.__getitem__)]:.1f}"

    columns = ("kendall", "spearman", "kendall_given_size")
    body = [
        [f"`{name}`", *(_correlation(proxies[name][column]) for column in columns), first(content["scores"][name])]
        for name in _by_kendall(proxies)
    ]
    head = ("proxy", "Kendall", "Spearman", "Kendall given log parameters", "its first %")
    return rows(head, body)
