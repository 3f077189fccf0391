"""Which of several runs or arms no other beats in accuracy at its size: a table, and a picture for each measure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import Markup
from matplotlib.axis import Axis
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from few_shot_nas.report.contrasts import Comparison
from few_shot_nas.report.curves import both_widths, panel, percent_axis, style, to_svg
from few_shot_nas.report.run import Run
from few_shot_nas.report.tables import modes, names, percent, quantity, score

#: Measures of size: field of results.json, and its words.
SIZES = {"parameters": "parameters", "macs": "multiply-accumulates per image"}
SHORT = {"parameters": "parameters", "macs": "MACs"}
HEAD = ("parameters", "MACs", "not beaten in")


class Sized(NamedTuple):
    """A run, or the mean over the runs of an arm.

    Attributes:
        name: in tables and pictures.
        accuracy: as a fraction.
        shown: the accuracy as text, in per cent.
        parameters: of the tested network.
        macs: multiply-accumulates of one forward pass of one image.
    """

    name: str
    accuracy: float
    shown: str
    parameters: float
    macs: float


@dataclass(frozen=True)
class Pareto:
    """Accuracy against size.

    Attributes:
        mode: the bn_mode of the accuracies.
        points: two or more.
    """

    mode: str
    points: tuple[Sized, ...]

    def fronts(self) -> dict[str, list[bool]]:
        """Return by measure of size whether each point is on the front of accuracy and that size."""
        accuracies = [point.accuracy for point in self.points]
        return {field: front([getattr(point, field) for point in self.points], accuracies) for field in SIZES}

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """Return for each point its name, accuracy in per cent, and what stands below :data:`HEAD`."""
        fronts = self.fronts()
        return [
            (
                point.name,
                point.shown,
                quantity(point.parameters),
                quantity(point.macs),
                " and ".join(short for field, short in SHORT.items() if fronts[field][place]) or "beaten",
            )
            for place, point in enumerate(self.points)
        ]

    def pictures(self) -> list[Markup]:
        """Return one picture for each measure of size."""
        return [_picture(self.points, field, best) for field, best in self.fronts().items()]


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
    points = [
        Sized(label, found.mean, percent(found), run.results["parameters"], run.results["macs"])
        for label, run in zip(names(sized), sized, strict=True)
        if (found := score(run, shared[0])) is not None
    ]
    return Pareto(shared[0], tuple(points))


def pareto_of_arms(comparison: Comparison) -> Pareto | None:
    """Compare the means of arms whose runs know their size; None where these are fewer than two."""
    together = zip(comparison.arms, comparison.accuracies, comparison.sizes, strict=True)
    points = [
        Sized(arm, accuracy, f"{100 * accuracy:.2f}", *size) for arm, accuracy, size in together if size is not None
    ]
    return Pareto(comparison.bn_mode, tuple(points)) if len(points) > 1 else None


def _label_sizes(axis: Axis) -> None:
    """Label a logarithmic axis by counts such as 200 k; the usual labels are formulas, and few within a decade."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(MaxNLocator(5) if high < 10 * low else LogLocator(subs=(1, 2, 5), numticks=8))
    axis.set_major_formatter(lambda value, _: quantity(value))
    axis.set_minor_locator(NullLocator())


def _picture(points: Sequence[Sized], field: str, best: Sequence[bool]) -> Markup:
    ordered = sorted((getattr(p, field), p.accuracy, kept, p.name) for p, kept in zip(points, best, strict=True))
    on = [(size, accuracy, name) for size, accuracy, kept, name in ordered if kept]

    def draw(width: float, title: str) -> Markup:
        with style():
            figure, axes = panel(width)
            axes.scatter([p[0] for p in ordered], [p[1] for p in ordered], s=26, color="0.65", zorder=2)
            axes.step([p[0] for p in on], [p[1] for p in on], where="post", marker="o", markersize=5, zorder=3)
            low, high = axes.get_xlim()
            for size, accuracy, name in on:
                # Nothing is above and left of the front, so names go there where the axis leaves room for them.
                room = math.log(size / low) > math.log(high / low) / 4
                offset, side = ((-5, 4), "right") if room else ((4, 5), "left")
                axes.annotate(name, (size, accuracy), xytext=offset, textcoords="offset points", fontsize=8, ha=side)
            axes.set_xscale("log")
            _label_sizes(axes.xaxis)
            axes.set_xlabel(SIZES[field])
            axes.set_ylabel("test accuracy")
            percent_axis(axes.yaxis)
            return to_svg(figure, title)

    return both_widths(draw, f"Test accuracy by {SIZES[field]}")
