"""The forest plot of a comparison: one line per contrast with both intervals, and the margin of equivalence."""

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from few_shot_nas.report.contrasts import Comparison, Contrast
from few_shot_nas.report.curves import BLUE, GREEN, INK, RED, WIDE, both_widths, panel, style, to_svg


def _colour(contrast: Contrast) -> str:
    return {"better": GREEN, "worse": RED}.get(contrast.verdict.split(",")[0], BLUE)


def forest_plot(comparison: Comparison) -> Markup:
    """Differences from the reference with the bootstrap's interval (thick) and the t-interval (thin, with caps)."""
    return both_widths(lambda width, title: _draw(comparison, width, title), f"Differences from {comparison.arms[0]}")


def _draw(comparison: Comparison, width: float, title: str) -> Markup:
    rows = range(len(comparison.contrasts))
    with style():
        figure, axes = panel(width, 1.0 + 0.42 * len(comparison.contrasts))
        margin = comparison.margin
        axes.axvspan(-margin, margin, color=INK, alpha=0.07, linewidth=0)
        axes.axvline(0, color=INK, linewidth=0.8)
        for row, contrast in zip(rows, comparison.contrasts, strict=True):
            mean, colour = contrast.difference.mean, _colour(contrast)
            axes.errorbar(
                mean, row, xerr=contrast.difference.ci95, fmt="none", ecolor=colour, elinewidth=1.0, capsize=4
            )
            axes.plot([contrast.low, contrast.high], [row, row], color=colour, linewidth=3.4, solid_capstyle="butt")
            axes.plot(mean, row, marker="D", markersize=6, color=colour)
        axes.set_yticks(rows, [contrast.arm for contrast in comparison.contrasts])
        axes.set_ylim(len(comparison.contrasts) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(10 if width == WIDE else 5, steps=[1, 2, 5, 10]))
        axes.set_xlabel(f"accuracy minus that of {comparison.arms[0]}, {'percentage ' * (width == WIDE)}points")
        return to_svg(figure, title)
