"""A search by pruning over its candidates: how the kernel is conditioned, and how clearly each round was decided."""

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from few_shot_nas.report.curves import BLUE, INK, both_widths, panel, style, to_svg
from few_shot_nas.report.run import Run
from few_shot_nas.report.tables import duration


def kappa_picture(run: Run) -> Markup | None:
    """Picture: log condition number without each candidate, rounds parted by lines; None of other searches."""
    candidates, log_kappa = run.series("search/log_kappa")
    if not candidates.size:
        return None
    ends, _ = run.series("search/margin")

    def draw(width: float, title: str) -> Markup:
        with style():
            figure, axes = panel(width)
            axes.plot(candidates, log_kappa, ".", color=BLUE, markersize=4)
            for end in ends[:-1]:
                axes.axvline(end + 0.5, color=INK, alpha=0.3, linewidth=0.8)
            axes.set_xlabel("candidate")
            axes.set_ylabel("log κ without it")
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(MaxNLocator(6))
            return to_svg(figure, title)

    return both_widths(draw, "Condition of the kernel by candidate")


def rounds(run: Run) -> list[tuple[str, str, str]]:
    """Return (last candidate, lowest log kappa, margin in ranks) of each round of a search by pruning."""
    candidates, log_kappa = run.series("search/log_kappa")
    ends, margins = run.series("search/margin")
    rows, start = [], 0
    for end, margin in zip(ends, margins, strict=True):
        inside = log_kappa[(candidates > start) & (candidates <= end)]
        rows.append((f"{end:.0f}", f"{inside.min():.2f}" if inside.size else "–", f"{margin:.1f}"))
        start = end
    return rows


def cost_in_words(run: Run) -> str:
    """Say what a search by pruning cost; empty of other searches."""
    search = run.results["search"]
    if "kernel_evaluations" not in search or not search.get("seconds_kernel"):
        return ""
    return (
        f"{search['kernel_evaluations']:,} kernels in {duration(search['seconds_kernel'])} "
        f"and linear regions in {duration(search['seconds_regions'])}."
    )
