"""Pictures of numbers as inline SVG: learning curves, intervals.

Text and axes take the colour of the surrounding page (``currentColor``), so one file reads well in light and dark.
"""

import io
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from few_shot_nas.report.reward import in_per_cent, reward_in_words
from few_shot_nas.report.run import Run
from few_shot_nas.stats.statistics import MeanCI

# Stand-ins that matplotlib can draw with; to_svg() turns them into colours of the page.
INK = "#010203"
PAPER = "#fdfcfb"
# Legible on white and on near-black.
BLUE, ORANGE, GREEN, VIOLET, RED, TEAL = "#3f7fd0", "#d8842c", "#3a9d6a", "#8f6cc4", "#cf5563", "#2a9aa5"
SERIES = (BLUE, ORANGE, GREEN, VIOLET, RED, TEAL)
MODE_COLOURS = {"transductive": BLUE, "support": ORANGE, "running": GREEN}
#: Widths in inches of a picture that fills a page and of one that fills a phone.
WIDE, NARROW = 10.2, 4.4
# More points than this along a curve are not seen, only stored.
_MAX_POINTS = 400
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "few_shot_nas",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "axes.unicode_minus": True,
    "axes.formatter.useoffset": False,
    # Names of runs are no formulas, whatever dollar signs they hold.
    "text.parse_math": False,
}


@contextmanager
def style() -> Iterator[None]:
    """Set the look in which every figure is made and written."""
    with rc_context(_STYLE):
        yield


def to_svg(figure: Figure, title: str) -> Markup:
    """Return the figure as an SVG element for an HTML page.

    Args:
        figure: drawn and written inside :func:`style`.
        title: for screen readers; unique within the page.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    # The same ids come in every figure; one page must not hold them twice.
    prefix = f"f{zlib.crc32(title.encode()):08x}"
    svg = re.sub(r'id="', f'id="{prefix}-', svg)
    svg = re.sub(r'href="#', f'href="#{prefix}-', svg)
    svg = re.sub(r"url\(#", f"url(#{prefix}-", svg)
    svg = svg.replace(INK, "currentColor").replace(PAPER, "var(--paper)")
    svg = re.sub(r"font: ([^;]*?)'?sans-serif'?[^;\"]*", r"font: \1 inherit", svg)
    width, height = (f"{96 * side:.0f}" for side in figure.get_size_inches())
    opening = rf'<svg viewBox="\1" width="{width}" height="{height}" role="img">'
    svg = re.sub(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', opening, svg)
    head, body = svg.split(">", 1)
    return Markup(f"{head}><title>{escape(title)}</title>{body}")


def panel(width: float = 4.9, height: float = 2.9) -> tuple[Figure, Axes]:
    """Return an empty figure (inches) with open axes and a light grid."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    _open(axes)
    return figure, axes


def both_widths(draw: Callable[[float, str], Markup], title: str) -> Markup:
    """Return a wide picture and a narrow one of the same; the page shows the one that its screen has room for.

    Args:
        draw: called with a width in inches and a title.
        title: of the wide one.
    """
    wide, narrow = draw(WIDE, title), draw(NARROW, f"{title}, narrow")
    return Markup(f'<div class="wide">{wide}</div><div class="narrow">{narrow}</div>')


def _open(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.14, linewidth=0.6, color=INK)
    axes.set_axisbelow(True)


def percent_axis(axis: Axis) -> None:
    """Label an axis of fractions in per cent, without the steps of 2.5 that would be rounded."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(_UpTo100(1.0, decimals=0 if high - low > 0.08 else 1, symbol=" %"))


class _UpTo100(PercentFormatter):
    """Names no value above 100 %: margins, intervals and bars reach beyond it, accuracies and differences do not."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return "" if x > 1 + 1e-9 else super().__call__(x, pos)


def thin(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return means over at most 400 equal runs of neighbouring points."""
    if steps.size <= _MAX_POINTS:
        return steps, values
    chunks = np.array_split(np.arange(steps.size), _MAX_POINTS)
    return np.array([steps[c].mean() for c in chunks]), np.array([values[c].mean() for c in chunks])


def smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Return centred means over ``width`` neighbours (odd); near the ends over those that exist."""
    kernel = np.ones(width)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(values.size), kernel, "same")


def _curve(axes: Axes, run: Run, column: str, label: str, colour: str) -> bool:
    """Draw one column: noisy curves faint with a moving mean on top, sparse ones with a dot per value."""
    steps, values = thin(*run.series(column))
    if not steps.size:
        return False
    label = f" {label}" if label.startswith("_") else label  # matplotlib leaves such out of a legend
    if steps.size < 30:
        axes.plot(steps, values, color=colour, linewidth=1.6, marker="o", markersize=3.5, label=label)
        return True
    axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.35)
    width = max(3, steps.size // 15) | 1
    axes.plot(steps, smooth(values, width), color=colour, linewidth=1.8, label=label)
    return True


def _finish(axes: Axes, ylabel: str, percent: bool = False, legend: bool = True) -> None:
    axes.set_xlabel("meta-step")
    axes.set_ylabel(ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    if percent:
        percent_axis(axes.yaxis)
    if legend:
        axes.legend(loc="best", handlelength=1.4)


def _band(axes: Axes, run: Run, colour: str) -> None:
    steps, accuracy = run.series("val/accuracy")
    at, half = run.series("val/ci95")
    _, in_accuracy, in_half = np.intersect1d(steps, at, return_indices=True)
    if in_accuracy.size:
        middle, width = accuracy[in_accuracy], half[in_half]
        # The interval of few episodes may leave what accuracies can be, and would set the scale.
        low, high = (np.clip(edge, 0, 1) for edge in (middle - width, middle + width))
        axes.fill_between(steps[in_accuracy], low, high, color=colour, alpha=0.18, linewidth=0)


def loss_curves(run: Run) -> Markup | None:
    """Training and validation loss over meta-steps, or None if neither was recorded."""
    with style():
        figure, axes = panel()
        columns = (("train/loss", "train", BLUE), ("val/loss", "validation", ORANGE))
        drawn = [_curve(axes, run, column, label, colour) for column, label, colour in columns]
        if not any(drawn):
            return None
        _finish(axes, "query loss (nats)")
        return to_svg(figure, "Loss over meta-steps")


def accuracy_curves(run: Run) -> Markup | None:
    """Training and validation accuracy, the latter with its 95 % band; None if neither was recorded."""
    with style():
        figure, axes = panel()
        drawn = [_curve(axes, run, "train/accuracy", "train", BLUE)]
        drawn += [_curve(axes, run, "val/accuracy", "validation, 95 % CI", ORANGE)]
        drawn += [_curve(axes, run, "val/accuracy_support", "validation, support statistics", GREEN)]
        if not any(drawn):
            return None
        _band(axes, run, ORANGE)
        _chance(axes, run)
        _finish(axes, "query accuracy", percent=True)
        return to_svg(figure, "Accuracy over meta-steps")


def gap_curves(run: Run) -> Markup | None:
    """Accuracy on training and validation classes with the gap between them, or None if no gap was recorded.

    Where a run scored no gap episodes, the gap alone, in percentage points: its training accuracy has other numbers of
    inner steps and queries.
    """
    with style():
        figure, axes = panel()
        if _curve(axes, run, "train/eval_accuracy", "training classes", BLUE):
            _curve(axes, run, "val/accuracy", "validation classes", ORANGE)
            steps, upper = run.series("train/eval_accuracy")
            at, lower = run.series("val/accuracy")
            shared, first, second = np.intersect1d(steps, at, return_indices=True)
            axes.fill_between(*thin(shared, upper[first]), thin(shared, lower[second])[1], color=INK, alpha=0.08, lw=0)
            _chance(axes, run)
            _finish(axes, "query accuracy, same protocol", percent=True)
        elif _curve(axes, run, "val/gap", "gap", VIOLET):
            axes.axhline(0, color=INK, linewidth=0.8, linestyle=(0, (2, 3)), alpha=0.6)
            _finish(axes, "train − validation accuracy", percent=True, legend=False)
        else:
            return None
        return to_svg(figure, "Gap to the training classes")


def inner_step_curve(run: Run) -> Markup | None:
    """Accuracy of the queries after every inner step at the last validation, or None if none was recorded."""
    found: dict[int, float] = {}
    for column in run.metrics:
        prefix, _, number = column.partition("val/accuracy_step")
        if not prefix and number.isdigit() and run.series(column)[1].size:
            found[int(number)] = float(run.series(column)[1][-1])
    if not found:
        return None
    with style():
        figure, axes = panel()
        steps = sorted(found)
        values = [found[step] for step in steps]
        axes.plot(steps, values, color=ORANGE, linewidth=1.6, marker="o", markersize=4, label="queries")
        support = run.series("val/support_accuracy")[1]
        if support.size:
            axes.plot(steps[-1:], support[-1:], color=BLUE, linewidth=0, marker="D", markersize=5, label="support set")
        _chance(axes, run)
        _finish(axes, "validation accuracy", percent=True)
        axes.set_xlabel("inner steps")
        return to_svg(figure, "Accuracy by inner step")


def _chance(axes: Axes, run: Run) -> None:
    axes.axhline(1 / run.results["n_way"], color=INK, linewidth=0.8, linestyle=(0, (2, 3)), alpha=0.6, label="chance")


def reward_curves(run: Run) -> Markup | None:
    """Reward of the sampled architectures and its baseline, or None without a controller."""
    with style():
        figure, axes = panel()
        columns = (("controller/reward", "reward", BLUE), ("controller/baseline", "baseline", ORANGE))
        drawn = [_curve(axes, run, column, label, colour) for column, label, colour in columns]
        if not any(drawn):
            return None
        _finish(axes, f"reward ({reward_in_words(run)})", percent=in_per_cent(run))
        return to_svg(figure, "Controller reward and baseline")


def entropy_curve(run: Run) -> Markup | None:
    """Entropy of the policy or of the alphas, or None without either; a share of the largest where that is recorded."""
    with style():
        figure, axes = panel()
        if _curve(axes, run, "alphas/entropy_fraction", "entropy", VIOLET):
            axes.set_ylim(0, 1.05)
            _finish(axes, "entropy, share of uniform", percent=True, legend=False)
            return to_svg(figure, "Entropy of the alphas")
        if _curve(axes, run, "controller/entropy_fraction", "entropy", VIOLET):
            axes.set_ylim(0, 1.05)
            _finish(axes, "entropy, share of uniform", percent=True, legend=False)
        elif _curve(axes, run, "controller/entropy", "entropy", VIOLET):
            # From zero: an axis around the values would make a policy that hardly moves look like one that settles.
            axes.set_ylim(bottom=0, top=1.08 * float(run.series("controller/entropy")[1].max()))
            _finish(axes, "entropy (nats)", legend=False)
        else:
            return None
        return to_svg(figure, "Controller entropy")


#: Columns that are drawn around a line at zero: y label, title and colour.
_AROUND_ZERO = {
    "controller/kl_adapt": ("KL(adapted, meta-learned), nats", "Divergence by adaptation", TEAL),
    # The estimate is unbiased, so without a signal it scatters around zero.
    "controller/grad_snr": ("signal to noise", "Signal-to-noise ratio of the controller's meta-gradient", RED),
}


def curve_around_zero(run: Run, column: str) -> Markup | None:
    """``controller/kl_adapt`` or ``controller/grad_snr`` over meta-steps, or None where it was not recorded."""
    label, title, colour = _AROUND_ZERO[column]
    with style():
        figure, axes = panel()
        if not _curve(axes, run, column, label, colour):
            return None
        axes.axhline(0, color=INK, linewidth=0.8, alpha=0.6)
        _finish(axes, label, legend=False)
        return to_svg(figure, title)


def interval_plot(labels: Sequence[str], scores: dict[str, list[MeanCI | None]]) -> Markup:
    """Accuracy of several runs with their intervals, one line per run; ``scores`` maps ``bn_mode`` to one per label."""
    return both_widths(lambda width, title: _intervals(labels, scores, width, title), "Test accuracy of all runs")


def _intervals(labels: Sequence[str], scores: dict[str, list[MeanCI | None]], width: float, title: str) -> Markup:
    with style():
        figure, axes = panel(width, (0.9 if width == WIDE else 1.4) + 0.42 * len(labels))
        offsets = np.linspace(-0.13, 0.13, len(scores)) if len(scores) > 1 else np.zeros(1)
        for offset, (mode, values) in zip(offsets, scores.items(), strict=True):
            drawn = [(row + offset, value) for row, value in enumerate(values) if value is not None]
            axes.errorbar(
                [value.mean for _, value in drawn],
                [row for row, _ in drawn],
                xerr=[0.0 if np.isnan(value.ci95) else value.ci95 for _, value in drawn],
                fmt="o", markersize=4.5, capsize=0, linewidth=2.2, color=MODE_COLOURS.get(mode, VIOLET), label=mode,
            )  # fmt: skip
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        percent_axis(axes.xaxis)
        axes.set_xlabel("test accuracy, 95 % CI")
        _legend_outside(figure, axes, width)
        return to_svg(figure, title)


def _legend_outside(figure: Figure, axes: Axes, width: float) -> None:
    """Put the legend beside a wide picture, above a narrow one."""
    if width == WIDE:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=1.3)
    else:
        figure.legend(loc="outside upper left", ncols=2, handlelength=1.3, fontsize=8.5)


def validation_overlay(labels: Sequence[str], runs: Sequence[Run]) -> Markup | None:
    """Validation accuracy of several runs in one picture, with bands; None if no run recorded any."""
    return _overlay(labels, runs, "val/accuracy", "validation accuracy", "Validation accuracy of all runs")


def gap_overlay(labels: Sequence[str], runs: Sequence[Run]) -> Markup | None:
    """Training minus validation accuracy of several runs in one picture; None if no run recorded any."""
    return _overlay(labels, runs, "val/gap", "train − validation accuracy", "Gap of all runs")


def _overlay(labels: Sequence[str], runs: Sequence[Run], column: str, ylabel: str, title: str) -> Markup | None:
    if not any(run.series(column)[0].size for run in runs):
        return None

    def draw(width: float, title: str) -> Markup:
        with style():
            figure, axes = panel(width, 3.4)
            for place, (label, run) in enumerate(zip(labels, runs, strict=True)):
                colour = SERIES[place % len(SERIES)]
                if _curve(axes, run, column, label, colour) and column == "val/accuracy":
                    _band(axes, run, colour)
            _finish(axes, ylabel, percent=True, legend=False)
            _legend_outside(figure, axes, width)
            return to_svg(figure, title)

    return both_widths(draw, title)
