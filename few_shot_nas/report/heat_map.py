"""The policy of a search over time: one strip per decision, meta-steps from left to right, one line per choice."""

from collections.abc import Iterator

import numpy as np
from markupsafe import Markup, escape

from few_shot_nas.report.curves import BLUE
from few_shot_nas.report.run import Run

# Columns of a strip; more are averaged.
COLUMNS = 60
# Shades between 0 and 1. The shade goes with the square root: a uniform policy over 8 ops is not almost white.
LEVELS = 16
_NAMES, _WIDTH, _ROW, _MARGIN = 108, 180, 13, 16
LEGEND = (0.0, 0.05, 0.125, 0.25, 0.5, 1.0)


def decisions(run: Run) -> dict[str, dict[str, np.ndarray]]:
    """Return for each decision the probability of each of its choices over the rows of ``choices.csv``."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, values in run.choices.items():
        decision, separator, choice = name.rpartition("=")
        if separator:
            found.setdefault(decision, {})[choice] = values
    return found


def level(probability: np.ndarray) -> np.ndarray:
    """Return the shade of each probability, 0 .. LEVELS."""
    return np.rint(LEVELS * np.sqrt(np.clip(probability, 0, 1))).astype(int)


def shade(probability: float) -> float:
    """Return the opacity that a probability is drawn with."""
    return int(level(np.array(probability))) / LEVELS


def columns(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reduce rows to at most COLUMNS equal runs.

    Args:
        steps: meta-step of each row, ``[n]``.
        values: probabilities ``[choices, n]``.

    Returns:
        The borders of the columns in meta-steps, ``[c + 1]``, and the means ``[choices, c]``. A row stands for the
        steps since the row before it; the first reaches back as far as the second, but not below 0.
    """
    chunks = np.array_split(np.arange(steps.size), min(COLUMNS, steps.size))
    before = 2 * steps[0] - steps[1] if steps.size > 1 else 0.0
    borders = [max(before, 0.0), *(steps[chunk[-1]] for chunk in chunks)]
    return np.array(borders), np.stack([values[:, chunk].mean(axis=1) for chunk in chunks], axis=1)


def _runs(levels: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Yield (first, end, level) of neighbouring columns of the same shade."""
    breaks = [0, *(np.flatnonzero(np.diff(levels)) + 1).tolist(), levels.size]
    for first, end in zip(breaks[:-1], breaks[1:], strict=True):
        yield first, end, int(levels[first])


def strip(name: str, choices: dict[str, np.ndarray], steps: np.ndarray) -> Markup:
    """Return the picture of one decision."""
    borders, means = columns(steps, np.stack(list(choices.values())))
    x = _NAMES + _WIDTH * (borders - borders[0]) / max(borders[-1] - borders[0], 1e-12)
    paths: dict[int, list[str]] = {}
    for row, levels in enumerate(level(means)):
        for first, end, shown in _runs(levels):
            box = f"M{x[first]:.1f} {row * _ROW}H{x[end]:.1f}v{_ROW - 1}H{x[first]:.1f}z"
            paths.setdefault(shown, []).append(box)
    height = _ROW * len(choices)
    size = f'viewBox="0 0 {_NAMES + _WIDTH} {height + _MARGIN}" width="{_NAMES + _WIDTH}" height="{height + _MARGIN}"'
    parts = [f'<svg {size} role="img" font-size="10" fill="currentColor"><title>{escape(name)}</title>']
    parts += [
        f'<text x="{_NAMES - 5}" y="{row * _ROW + 9}" text-anchor="end">{escape(choice)}</text>'
        for row, choice in enumerate(choices)
    ]
    parts += [
        f'<path fill="{BLUE}" fill-opacity="{shown / LEVELS:g}" d="{"".join(boxes)}"/>'
        for shown, boxes in sorted(paths.items())
        if shown
    ]
    parts.append(f'<text x="{_NAMES}" y="{height + 11}">{borders[0]:.0f}</text>')
    parts.append(f'<text x="{_NAMES + _WIDTH}" y="{height + 11}" text-anchor="end">{borders[-1]:.0f}</text></svg>')
    return Markup("".join(parts))


def heat_maps(run: Run) -> list[tuple[str, Markup]]:
    """Return (decision, picture) of every decision that leaves a choice, in the order of the space.

    Empty without rows in ``choices.csv``.
    """
    if not run.choices or not run.choices["meta_step"].size:
        return []
    steps, found = run.choices["meta_step"], decisions(run)
    return [(name, strip(name, choices, steps)) for name, choices in found.items() if len(choices) > 1]


def legend() -> list[tuple[str, str]]:
    """Return (CSS colour, text) of the shades."""
    colours = [f"color-mix(in srgb, {BLUE} {100 * shade(p):g}%, transparent)" for p in LEGEND]
    return [(colour, f"{100 * p:g} %") for colour, p in zip(colours, LEGEND, strict=True)]
