"""The architectures that competed at the end of a search, with their scores."""

from few_shot_nas.errors import InputError
from few_shot_nas.report.alphas import space_of
from few_shot_nas.report.results_file import damaged
from few_shot_nas.report.reward import in_per_cent
from few_shot_nas.report.run import Run
from few_shot_nas.spaces.genotype import Genotype


def in_words(genotype: Genotype) -> str:
    """Return every edge as ``op src→dst``, cell by cell."""
    cells = [
        f"{cell_type}: {', '.join(f'{edge.op} {edge.src}→{edge.dst}' for edge in edges)}"
        for cell_type, edges in genotype.edges
        if edges
    ]
    return "; ".join(cells)


def candidates(run: Run) -> list[tuple[str, str]]:
    """Return (reward with its interval, architecture) of each candidate, best first; empty without any.

    A reward that is a share of right answers is in per cent.

    Raises:
        InputError: if results.json names candidates that are not of the genotype's space.
    """
    listed = run.results["search"].get("candidates")
    if isinstance(listed, int):  # earlier versions named by this word how many candidates a pruning search scored
        return []
    if not listed or run.genotype is None:
        return []
    space = space_of(run.genotype)
    try:
        return [
            (
                _score(item["reward"], item["ci95"], in_per_cent(run)),
                in_words(space.decode([int(c) for c in item["decisions"]])),
            )
            for item in listed
        ]
    except (InputError, TypeError, KeyError, ValueError) as error:
        raise damaged(run.path / "results.json", f"candidates of the search cannot be read ({error})") from None


def _score(reward: float | None, ci95: float | None, percent: bool) -> str:
    if reward is None:
        return "no number"
    scale, digits = (100, 1) if percent else (1, 3)
    return f"{scale * reward:.{digits}f}" + ("" if ci95 is None else f" ± {scale * ci95:.{digits}f}")
