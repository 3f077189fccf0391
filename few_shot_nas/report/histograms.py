"""Histograms of the accuracies of a run's test episodes."""

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from few_shot_nas.report.curves import INK, MODE_COLOURS, VIOLET, panel, percent_axis, style, to_svg
from few_shot_nas.report.run import BN_MODES, Run


def episode_histograms(run: Run) -> list[Markup]:
    """Histograms of test episodes by accuracy, one picture per ``bn_mode`` with the same axes; empty without any."""
    if not run.episodes:
        return []
    ordered = sorted(run.episodes.items(), key=lambda item: (*BN_MODES, item[0]).index(item[0]))
    queries = run.results["n_way"] * int(run.results.get("n_query", 0) or 0)
    everything = np.concatenate([scores.accuracy for scores in run.episodes.values()])
    # Accuracies are multiples of 1/Q; bins between multiples keep neighbouring bars comparable.
    unit = 1 / queries if queries else 0.02
    wide = unit * max(1, round(0.027 / unit))
    low = np.floor(everything.min() / wide) * wide - wide / 2
    edges = np.arange(low, 1 + wide, wide)
    tallest = max(np.histogram(scores.accuracy, edges)[0].max() for scores in run.episodes.values())
    return [_histogram(mode, scores.accuracy, edges, 1.05 * float(tallest)) for mode, scores in ordered]


def _histogram(mode: str, accuracy: np.ndarray, edges: np.ndarray, top: float) -> Markup:
    with style():
        figure, axes = panel(4.9, 2.7)
        colour = MODE_COLOURS.get(mode, VIOLET)
        axes.hist(accuracy, bins=edges.tolist(), color=colour, alpha=0.75, linewidth=0, rwidth=0.92)
        axes.axvline(accuracy.mean(), color=INK, linewidth=1.2)
        axes.set_title(f"{mode}: {accuracy.size} episodes", fontsize=10)
        axes.set_xlabel("accuracy of an episode")
        axes.set_ylim(0, top)
        percent_axis(axes.xaxis)
        axes.set_ylabel("episodes")
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        return to_svg(figure, f"Histogram of episode accuracies, {mode}")
