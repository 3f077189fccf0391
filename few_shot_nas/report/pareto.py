"""Which of several runs no other beats in accuracy at its size: a table, and a picture for either measure of size."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from few_shot_nas.report.curves import both_widths, panel, percent_axis, style, to_svg
from few_shot_nas.report.run import Run
from few_shot_nas.report.tables import modes, names, percent, quantity, score

#: Measures of size: field of results.json, and its words.
SIZES = {"parameters": "parameters", "macs": "multiply-accumulates per image"}
SHORT = {"parameters": "parameters", "macs": "MACs"}


@dataclass(frozen=True)
class Pareto:
    """Accuracy against size.

    Attributes:
        mode: the bn_mode of the accuracies.
        rows: name, accuracy, parameters, MACs, and whether no run is at least as accurate and smaller, by each size.
        pictures: one for each size.
    """

    mode: str
    rows: list[tuple[str, str, str, str, str]]
    pictures: list[Markup]


def front(sizes: Sequence[float], accuracies: Sequence[float]) -> list[bool]:
    """Return for each point whether none is at least as good in both, and better in one.

    >>> front([1, 2, 3, 3], [0.5, 0.4, 0.6, 0.7])
    [True, False, False, True]
    """
    points = list(zip(sizes, accuracies, strict=True))
    return [
        not any(s <= size and a >= accuracy and (s, a) != (size, accuracy) for s, a in points)
        for size, accuracy in points
    ]


def pareto(runs: Sequence[Run]) -> Pareto | None:
    """Compare runs that know their size; None where fewer than two share a bn_mode of their tests."""
    sized = [run for run in runs if all(run.results.get(field) is not None for field in SIZES)]
    shared = [mode for mode in modes(sized) if all(score(run, mode) is not None for run in sized)]
    if len(sized) < 2 or not shared:
        return None
    mode, labels = shared[0], names(sized)
    scores = [found for run in sized if (found := score(run, mode)) is not None]
    accuracies = [found.mean for found in scores]
    fronts = {field: front([run.results[field] for run in sized], accuracies) for field in SIZES}
    rows = [
        (
            label,
            percent(scores[place]),
            quantity(run.results["parameters"]),
            quantity(run.results["macs"]),
            " and ".join(short for field, short in SHORT.items() if fronts[field][place]) or "beaten",
        )
        for place, (label, run) in enumerate(zip(labels, sized, strict=True))
    ]
    pictures = [
        _picture([run.results[field] for run in sized], accuracies, fronts[field], labels, words)
        for field, words in SIZES.items()
    ]
    return Pareto(mode, rows, pictures)


def _picture(
    sizes: Sequence[float], accuracies: Sequence[float], best: Sequence[bool], labels: Sequence[str], words: str
) -> Markup:
    points = sorted(zip(sizes, accuracies, best, labels, strict=True))

    def draw(width: float, title: str) -> Markup:
        with style():
            figure, axes = panel(width)
            axes.scatter(sizes, accuracies, s=26, color="0.65", zorder=2)
            on = [(size, accuracy, label) for size, accuracy, kept, label in points if kept]
            axes.step([p[0] for p in on], [p[1] for p in on], where="post", marker="o", markersize=5, zorder=3)
            for size, accuracy, label in on:
                axes.annotate(label, (size, accuracy), xytext=(4, 5), textcoords="offset points", fontsize=8)
            axes.set_xscale("log")
            axes.set_xlabel(words)
            axes.set_ylabel("test accuracy")
            percent_axis(axes.yaxis)
            return to_svg(figure, title)

    return both_widths(draw, f"Test accuracy by {words}")
