"""A search by gradient over time: the genotype that its alphas stand for, and those that single tasks decode to."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from few_shot_nas.report.curves import BLUE, panel, style, to_svg
from few_shot_nas.report.results_file import read_if_there
from few_shot_nas.report.run import Run
from few_shot_nas.spaces import SPACES
from few_shot_nas.spaces.genotype import Genotype
from few_shot_nas.spaces.pair_mixed_supernet import INPUTS
from few_shot_nas.spaces.space import Mixture, SearchSpace

#: Genotypes that are drawn, the first and the last row among them.
PICTURES = 5
#: Genotypes of single tasks that are listed.
LISTED = 10
#: Genotypes of single tasks that are drawn.
DRAWN = 3


def learns_alphas(run: Run) -> bool:
    """Return whether a run searched by gradient."""
    return bool(run.series("alphas/entropy_fraction")[0].size)


def space_of(genotype: Genotype) -> SearchSpace:
    """Return the search space that a genotype lies in, at its size."""
    return SPACES[genotype.space](genotype.channels, genotype.cells, genotype.nodes)


def mixture_at(run: Run, row: int, space: SearchSpace) -> Mixture | None:
    """Return the weights of every op on every edge in one row of choices.csv; None where an edge or a number lacks.

    An op without a column is one that the network does not hold: its weight is 0. Where the search chose among pairs of
    a node's inputs, the edges of other pairs than the likeliest have weight 0.
    """
    mixture = {}
    for cell_type, edges in space.menu().items():
        weights = torch.zeros(len(edges), max(map(len, edges.values())))
        for place, ((src, dst), ops) in enumerate(edges.items()):
            held = {op: run.choices.get(f"{cell_type}/{src}_{dst}={op}") for op in ops}
            if all(values is None for values in held.values()):
                return None
            chosen = _likeliest_pair(run, row, f"{cell_type}/{dst}{INPUTS}=")
            if chosen is None or src in chosen:
                weights[place, : len(ops)] = torch.tensor([0.0 if v is None else float(v[row]) for v in held.values()])
        mixture[cell_type] = weights
    finite = all(bool(weights.isfinite().all()) for weights in mixture.values())
    return mixture if finite else None


def _likeliest_pair(run: Run, row: int, prefix: str) -> list[int] | None:
    """Return the inputs of a node's likeliest pair, the first of equally likely ones; None without pairs."""
    pairs = {name.removeprefix(prefix): values[row] for name, values in run.choices.items() if name.startswith(prefix)}
    return [int(word) for word in max(pairs, key=pairs.__getitem__).split("+")] if pairs else None


def genotypes_over_time(run: Run) -> list[tuple[int, Genotype]]:
    """Return (meta-step, genotype) at up to PICTURES equally distant rows, without repeats of the one before.

    Empty where the run searched no alphas or its choices.csv is not of the genotype's space.
    """
    if run.genotype is None or not learns_alphas(run) or "meta_step" not in run.choices:
        return []
    space, steps = space_of(run.genotype), run.choices["meta_step"]
    found: list[tuple[int, Genotype]] = []
    for row in np.unique(np.linspace(0, steps.size - 1, PICTURES).round().astype(int)) if steps.size else []:
        mixture = mixture_at(run, int(row), space)
        if mixture is not None:
            genotype = space.discretise(mixture)
            if not found or found[-1][1] != genotype:
                found.append((int(steps[row]), genotype))
    return found


@dataclass(frozen=True)
class Decoded:
    """What training/decode.py found.

    Attributes:
        tasks: number of tasks that were decoded.
        counts: tasks by name of the genotype, most frequent first.
        sentences: what it found, in words.
    """

    tasks: int
    counts: dict[str, int]
    sentences: list[str]

    def rows(self) -> list[tuple[str, int, str]]:
        """Return (name, tasks, share) of the most frequent genotypes."""
        return [(name, often, f"{100 * often / self.tasks:.1f}") for name, often in list(self.counts.items())[:LISTED]]

    def picture(self) -> Markup:
        """Picture: how many tasks decode to each genotype, most frequent first."""
        with style():
            figure, axes = panel()
            axes.bar(range(1, len(self.counts) + 1), list(self.counts.values()), color=BLUE, width=0.85)
            axes.set_xlabel("genotype, most frequent first")
            axes.set_ylabel("tasks")
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(MaxNLocator(6, integer=True))
            return to_svg(figure, "Tasks by decoded genotype")


def read_decoded(run: Run) -> Decoded | None:
    """Return the content of ``decode/decoded.json`` of a run; None without the file.

    Raises:
        InputError: if it is damaged.
    """
    return read_if_there(run.path / "decode" / "decoded.json", "training/decode.py", _decoded)


def most_frequent(run: Run, decoded: Decoded | None) -> list[tuple[str, int, Genotype]]:
    """Return (name, tasks, genotype) of the most frequent decoded genotypes, DRAWN at most, whose files are there."""
    counts = {} if decoded is None else decoded.counts
    files = [(name, often, run.path / "decode" / "genotypes" / f"{name}.json") for name, often in counts.items()]
    return [(name, often, Genotype.load(file)) for name, often, file in files[:DRAWN] if file.is_file()]


def _decoded(content: dict[str, Any]) -> Decoded:
    counts = {str(name): int(often) for name, often in content["counts"].items()}
    tasks, split = sum(counts.values()), str(content.get("split", "test"))
    if not tasks or min(counts.values()) < 1:
        raise ValueError("no task was decoded")
    sentences = [_differ(tasks, split, counts), *_gains(content.get("accuracy", {}))]
    return Decoded(tasks, dict(sorted(counts.items(), key=lambda item: -item[1])), sentences)


def _differ(tasks: int, split: str, counts: dict[str, int]) -> str:
    if len(counts) == 1:
        return f"All {tasks} tasks of the {split} split decode to one genotype: the search does not adapt it to a task."
    share = 100 * max(counts.values()) / tasks
    return f"{tasks} tasks of the {split} split decode to {len(counts)} genotypes; the most frequent has {share:.1f} %."


#: What a task's own genotype is compared with, by the name of the difference in decoded.json.
_OTHERS = {"difference": "the most frequent one", "difference_random": "random ones"}


def _gains(accuracy: dict[str, Any]) -> list[str]:
    said = []
    for mode, found in accuracy.items():
        for key, other in _OTHERS.items():
            if found["tasks"] and key in found:
                mean, half = (100 * float(found[key][part] or 0) for part in ("mean", "ci95"))
                verdict = "no clear difference" if abs(mean) <= half else "better" if mean > 0 else "worse"
                gap = f"{mean:+.1f} ± {half:.1f} points".replace("-", "−")
                said.append(f"{mode}: a task's own genotype minus {other}: {gap} on {found['tasks']} tasks, {verdict}.")
    return said
