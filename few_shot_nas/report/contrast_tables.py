"""A comparison of arms as a table for the terminal, as Markdown and as JSON."""

from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from few_shot_nas.report.contrasts import Comparison, Contrast
from few_shot_nas.report.pareto import HEAD as SIZE_HEAD
from few_shot_nas.report.pareto import SIZES, pareto_of_arms

MINUS = "−"
HEAD = ("difference ± t", "± classes", "bootstrap", "p", "p Wilcoxon", "p equivalent", "p no gain", "verdict")


def signed(value: float) -> str:
    """Return ``+1.25`` with a true minus sign."""
    return f"{value:+.2f}".replace("-", MINUS)


def p_text(value: float) -> str:
    """Return a p-value with three decimals, or that it is below 0.001."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def cells(contrast: Contrast) -> tuple[str, ...]:
    """Return what stands below :data:`HEAD`; p-values are the corrected ones."""
    return (
        f"{signed(contrast.difference.mean)} ± {contrast.difference.ci95:.2f}",
        "-" if contrast.other_classes is None else f"{contrast.other_classes:.2f}",
        f"{signed(contrast.low)} to {signed(contrast.high)}",
        p_text(contrast.corrected.bootstrap),
        p_text(contrast.corrected.wilcoxon),
        p_text(contrast.corrected.equivalence),
        p_text(contrast.corrected.no_gain),
        contrast.verdict,
    )


def title(comparison: Comparison) -> str:
    """Return the heading of the differences."""
    return f"Accuracy minus that of {comparison.arms[0]}, percentage points"


def notes(comparison: Comparison) -> list[str]:
    """Return how the numbers are to be read, one sentence each."""
    units = "seeds" if comparison.observations == len(comparison.seeds) else "supernets"
    over = "tasks" if comparison.observations == 1 else f"the means of {comparison.observations} {units}"
    return [
        f"± is the half-width of the 95 % t-interval over {over}.",
        "± classes is the half-width that holds for other classes of the same kind too, where the runs name theirs.",
        f"Bootstrap: 95 % percentiles of {comparison.resamples:,} resamples of {units} and, jointly, of tasks; "
        "p is its p-value.",
        f"Equivalent: within ± {comparison.margin:g} points by two one-sided t-tests over {over}; "
        "no gain: the one of them that bounds it from above, and nothing more is shown.",
        f"All p-values are Holm-corrected for {len(comparison.contrasts)} "
        f"{'contrast' if len(comparison.contrasts) == 1 else 'contrasts'}; the intervals are not. "
        "Better or worse needs the t-test and the bootstrap below 0.05.",
    ]


def header(comparison: Comparison) -> list[str]:
    """Return the protocol in lines of ``what: value``, and the reward calls of each arm."""
    calls = zip(comparison.arms, comparison.reward_calls, strict=True)
    spent = ("reward calls", "; ".join(f"{arm}: {text}" for arm, text in calls))
    return [f"{what}: {value}" for what, value in (*comparison.protocol, spent)]


def arm_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """Return one row per arm, the reference first: name, accuracy in per cent, and the cells of its contrast."""
    accuracies = [f"{100 * accuracy:.2f}" for accuracy in comparison.accuracies]
    differences = [("reference", *[""] * (len(HEAD) - 1)), *map(cells, comparison.contrasts)]
    together = zip(comparison.arms, accuracies, differences, strict=True)
    return [(arm, accuracy, *found) for arm, accuracy, found in together]


def contrast_table(comparison: Comparison) -> Table:
    """Return the table for the terminal."""
    table = Table(title=title(comparison), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("arm", overflow="fold", min_width=12)
    for column in ("accuracy %", *HEAD):
        table.add_column(column.replace(" ", "\n", 1), justify="right", no_wrap=True)
    for row in arm_rows(comparison):
        table.add_row(*(Text(cell) for cell in row))
    return table


def size_table(comparison: Comparison) -> Table | None:
    """Return accuracy against size for the terminal; None where fewer than two arms know their size."""
    found = pareto_of_arms(comparison)
    if found is None:
        return None
    table = Table(title="Accuracy and size", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("arm", overflow="fold", min_width=12)
    for column in ("accuracy %", *SIZE_HEAD):
        table.add_column(column, justify="left" if column == SIZE_HEAD[-1] else "right", no_wrap=True)
    for row in found.rows():
        table.add_row(*(Text(cell) for cell in row))
    return table


def _size_lines(comparison: Comparison) -> list[str]:
    """Return accuracy against size in lines of Markdown; none where fewer than two arms know their size."""
    found = pareto_of_arms(comparison)
    if found is None:
        return []
    head = ("arm", "accuracy %", *SIZE_HEAD)
    lines = ["", "## Accuracy and size", "", f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 2)}---|"]
    return [*lines, *(f"| {' | '.join(map(_escaped, row))} |" for row in found.rows())]


def _escaped(cell: str) -> str:
    return cell.replace("\\", "\\\\").replace("|", "\\|")


def markdown(comparison: Comparison) -> str:
    """Return the comparison as a Markdown page."""
    head = ("arm", "accuracy %", *HEAD)
    lines = [f"# {_escaped(title(comparison))}", ""]
    lines += [f"**Warning**: {_escaped(warning)}.\n" for warning in comparison.warnings]
    lines += [f"- {_escaped(line)}" for line in header(comparison)]
    lines += ["", f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 2)}---|"]
    lines += [f"| {' | '.join(map(_escaped, row))} |" for row in arm_rows(comparison)]
    return "\n".join([*lines, "", *notes(comparison), *_size_lines(comparison)]) + "\n"


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison with every number unrounded; differences, intervals and margin in percentage points."""
    arms = zip(
        comparison.arms, comparison.paths, comparison.accuracies, comparison.reward_calls, comparison.sizes, strict=True
    )
    return {
        "reference": comparison.arms[0],
        "unit": "percentage points",
        "protocol": dict(comparison.protocol),
        "seeds": list(comparison.seeds),
        "observations": comparison.observations,
        "tasks_per_seed": comparison.tasks,
        "bn_mode": comparison.bn_mode,
        "margin": comparison.margin,
        "resamples": comparison.resamples,
        "warnings": list(comparison.warnings),
        "arms": [
            {"name": name, "path": path, "accuracy_percent": 100 * accuracy, "reward_calls": calls,
             **dict(zip(SIZES, size or (None, None), strict=True))}
            for name, path, accuracy, calls, size in arms
        ],
        "contrasts": [
            {
                "arm": found.arm,
                "difference": found.difference.mean,
                "t_half_width": found.difference.ci95,
                "t_observations": found.difference.n,
                "classes_half_width": found.other_classes,
                "bootstrap": [found.low, found.high],
                "p": found.p._asdict(),
                "p_holm": found.corrected._asdict(),
                "verdict": found.verdict,
            }
            for found in comparison.contrasts
        ],
    }
