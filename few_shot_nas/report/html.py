"""Put tables and pictures into one self-contained HTML page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from few_shot_nas.errors import InputError
from few_shot_nas.report import contrast_tables, curves
from few_shot_nas.report.alarm import collapse_alarm
from few_shot_nas.report.alphas import genotypes_over_time, learns_alphas, most_frequent, read_decoded
from few_shot_nas.report.candidates import candidates
from few_shot_nas.report.class_scores import read_class_scores
from few_shot_nas.report.contrasts import Comparison
from few_shot_nas.report.example import read_example
from few_shot_nas.report.forest import forest_plot
from few_shot_nas.report.genotype_picture import genotype_pictures, is_chain, kinds_used
from few_shot_nas.report.heat_map import heat_maps, legend
from few_shot_nas.report.histograms import episode_histograms
from few_shot_nas.report.page import write_page
from few_shot_nas.report.pairing import paired_differences
from few_shot_nas.report.pruning import cost_in_words, kappa_picture, rounds
from few_shot_nas.report.reward import in_per_cent, reward_in_words
from few_shot_nas.report.pareto import pareto, pareto_of_arms
from few_shot_nas.report.run import Run, load_run
from few_shot_nas.report.tables import (
    difference,
    diverged,
    duration,
    modes,
    names,
    non_finite,
    percent,
    points,
    quantity,
    score,
    tabulate,
    task,
)
from few_shot_nas.report.verdict import verdicts
from few_shot_nas.spaces.genotype import Genotype


def write_report(run_dir: Path | str) -> Path:
    """Write ``report.html`` of one run into its directory.

    Args:
        run_dir: a run directory, see :func:`few_shot_nas.report.run.load_run`.

    Returns:
        The path of the page: one file that needs no other.

    Raises:
        InputError: naming the file of the run that is missing or damaged.
    """
    run = load_run(run_dir)
    return write_page(Path(run_dir) / "report.html", "run.html.jinja", _one_run(run))


def compare_runs(run_dirs: Sequence[Path | str], output: Path | str) -> Path:
    """Write one page that compares runs, paired on their test episodes where these are the same.

    Args:
        run_dirs: run directories, shown in this order.
        output: path of the page; its folder is made.

    Returns:
        ``output``.

    Raises:
        InputError: naming the file of a run that is missing or damaged, or if there are no runs.
    """
    if not run_dirs:
        raise InputError("report: no run directory given; name at least one folder that holds a results.json")
    runs = [load_run(run_dir) for run_dir in run_dirs]
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    return write_page(Path(output), "comparison.html.jinja", _comparison(runs))


def write_contrasts(comparison: Comparison, output: Path) -> Path:
    """Write the page of a comparison of arms with a reference: protocol, warnings, forest plot and table.

    Returns:
        ``output``; its folder must exist.
    """
    spent = comparison.reward_calls
    calls = [(f"reward calls of {arm}", text) for arm, text in zip(comparison.arms, spent, strict=True)]
    content = {
        "title": contrast_tables.title(comparison),
        "warnings": comparison.warnings,
        "protocol": [*comparison.protocol, *(calls if len(set(spent)) > 1 else [("reward calls of each", spent[0])])],
        "forest": forest_plot(comparison),
        "head": _verdict_first(("arm", "accuracy %", *contrast_tables.HEAD)),
        "rows": [_verdict_first(row) for row in contrast_tables.arm_rows(comparison)],
        "notes": contrast_tables.notes(comparison),
        "pareto": pareto_of_arms(comparison),
    }
    return write_page(output, "contrasts.html.jinja", content)


def _verdict_first(row: tuple[str, ...]) -> tuple[str, ...]:
    """Put the last cell behind the first: a wide table is cut off at its right."""
    return row[0], row[-1], *row[1:-1]


def _present(pictures: Sequence[tuple[str, Markup | None]]) -> list[tuple[str, Markup]]:
    return [(caption, picture) for caption, picture in pictures if picture is not None]


def _one_run(run: Run) -> dict[str, Any]:
    controller = [
        ("Reward of the sampled architectures and the baseline it is compared with.", curves.reward_curves(run)),
        (
            "Entropy of the alphas' softmax, mean over edges: it falls as the search decides."
            if learns_alphas(run)
            else "Entropy of the policy: it falls as the controller settles on an architecture.",
            curves.entropy_curve(run),
        ),
        (
            "How far a task moves the policy: near 0 the inner step does nothing.",
            curves.curve_around_zero(run, "controller/kl_adapt"),
        ),
        (
            "Signal to noise of the controller's meta-gradient between two rows.",
            curves.curve_around_zero(run, "controller/grad_snr"),
        ),
    ]
    learning = [
        ("Mean cross-entropy of the queries after adaptation.", curves.loss_curves(run)),
        ("Share of right queries after adaptation.", curves.accuracy_curves(run)),
        ("What training classes gain over validation classes: overfitting, if it grows.", curves.gap_curves(run)),
        ("Accuracy by inner step at the last validation; 0 is before adaptation.", curves.inner_step_curve(run)),
    ]
    return {
        "title": f"{run.results['algorithm']} on {run.results['data_class']}, {task(run)}",
        "name": run.name,
        "results": run.results,
        "scores": [
            (mode, percent(score(run, mode)), score(run, mode), difference(run, mode)) for mode in modes([run])
        ],
        "cards": _cards(run),
        "untrained": run.results["search"].get("weights") == "untrained",
        "learning": _present(learning),
        "pruning": _pruning(run),
        "histograms": episode_histograms(run),
        "architecture": None if run.genotype is None else _architecture(run.genotype, run.name),
        "controller": _present(controller),
        "learns_alphas": learns_alphas(run),
        "verdicts": verdicts(run),
        "over_time": [
            (step, _architecture(genotype, f"{run.name} at meta-step {step}"))
            for step, genotype in genotypes_over_time(run)
        ],
        "decoded": (decoded := read_decoded(run)),
        "most_frequent": [
            (name, often, _architecture(genotype, name)) for name, often, genotype in most_frequent(run, decoded)
        ],
        "example": read_example(run),
        "class_scores": read_class_scores(run),
        "candidates": candidates(run),
        "reward": reward_in_words(run) + (" in per cent" if in_per_cent(run) else ""),
        "alarm": collapse_alarm(run),
        "heat_maps": heat_maps(run),
        "shades": legend(),
        "facts": _facts(run),
        "config": run.config_text,
    }


def _pruning(run: Run) -> dict[str, Any] | None:
    picture = kappa_picture(run)
    return None if picture is None else {"picture": picture, "rounds": rounds(run), "cost": cost_in_words(run)}


def _cards(run: Run) -> list[tuple[str, str]]:
    """Return (number, what it is) for the head of the page."""
    results = run.results
    values = [
        (quantity(results.get("parameters")), "parameters"),
        (quantity(results.get("macs")), "MACs per image"),
        (duration(results.get("wall_seconds")), "training time"),
        (duration(results.get("test_seconds")), "test time"),
        (f"{results['meta_steps']:,}" if "meta_steps" in results else "–", "meta-steps"),
    ]
    if non_finite(run):
        values.append((f"{non_finite(run):,}", "test tasks with answers that are no numbers"))
    if diverged(run):
        values.append(("diverged", "the loss of the test is over 1,000 times that of guessing"))
    if results.get("skipped_steps"):
        values.append((f"{results['skipped_steps']:,}", "meta-steps left out"))
    if results.get("diverged_rows"):
        values.append((f"{results['diverged_rows']:,}", "rows of metrics with a training loss above 1,000"))
    if "reward_calls" in results["search"]:
        values.append((f"{results['search']['reward_calls']:,}", "reward calls"))
    return [(value, label) for value, label in values if value != "–"]


def _facts(run: Run) -> list[tuple[str, str]]:
    results = run.results
    wanted = {
        "Algorithm": results["algorithm"],
        "Model": results["model_class"],
        "Data": results["data_class"],
        "Test split": results.get("split"),
        "Task": f"{task(run)}, {results['n_query']} queries per class" if "n_query" in results else task(run),
        "Weights": {"scratch": "trained from scratch", "inherited": "inherited from the supernet"}.get(
            str(results.get("regime")), results.get("regime")
        ),
        "Chosen on validation tasks": ", ".join(f"{k}={v:g}" for k, v in (results.get("chosen_on_val") or {}).items()),
        "Seed": results["seed"],
        "Hardware": results.get("hardware"),
        "Versions": ", ".join(f"{name} {version}" for name, version in results["versions"].items()),
    }
    spent = {key: value for key, value in results["search"].items() if not isinstance(value, list)}
    found = {key.replace("_", " ").capitalize(): value for key, value in spent.items()}
    return [(label, str(value)) for label, value in (wanted | found).items() if value not in (None, "")]


def _architecture(genotype: Genotype, owner: str) -> dict[str, Any]:
    return {
        "pictures": genotype_pictures(genotype, owner),
        "kinds": kinds_used(genotype),
        "chain": all(is_chain(edges) for _, edges in genotype.edges),
        "genotype": genotype,
        "json": genotype.to_json(),
    }


def _comparison(runs: Sequence[Run]) -> dict[str, Any]:
    labels = names(runs)
    intervals = {mode: [score(run, mode) for run in runs] for mode in modes(runs)}
    held: dict[Genotype, list[str]] = {}
    for label, run in zip(labels, runs, strict=True):
        if run.genotype is not None:
            held.setdefault(run.genotype, []).append(label)
    return {
        "title": "Comparison of runs" if len(runs) > 1 else "One run",
        "table": tabulate(runs),
        "labels": labels,
        "intervals": curves.interval_plot(labels, intervals) if intervals else None,
        "paired": [(mode, matrix) for mode in modes(runs) if (matrix := _paired_matrix(runs, mode))],
        "pareto": pareto(runs),
        "overlay": curves.validation_overlay(labels, runs),
        "gaps": curves.gap_overlay(labels, runs),
        "architectures": [(users, _architecture(genotype, ", ".join(users))) for genotype, users in held.items()],
        "runs": [(label, run, _facts(run)) for label, run in zip(labels, runs, strict=True)],
    }


def _paired_matrix(runs: Sequence[Run], mode: str) -> list[list[tuple[str, str]]]:
    """Return for each row run and column run (text, CSS class) of row minus column; empty without any pair."""
    matrix = [[("", "")] * len(runs) for _ in runs]
    pairs = paired_differences(runs, mode)
    for pair in pairs:
        mirrored = pair.difference._replace(mean=-pair.difference.mean)
        for row, column, value in ((pair.first, pair.second, pair.difference), (pair.second, pair.first, mirrored)):
            sign = "better" if value.mean > 0 else "worse"
            matrix[row][column] = (points(value), sign if pair.clear else "")
    return matrix if pairs else []
