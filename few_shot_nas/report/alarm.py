"""What a reader of a report must be told of a search that has collapsed."""

import numpy as np

from few_shot_nas.report.run import Run
from few_shot_nas.search.collapse import GREEDY_ENTROPY, WEIGHTLESS, collapse_warning


def collapse_alarm(run: Run) -> str | None:
    """Return when and how the search collapsed, judged at every validation; None if it did not or was not watched."""
    steps, weightless = run.series(WEIGHTLESS)
    at, entropy = run.series(GREEDY_ENTROPY)
    common, one, other = np.intersect1d(steps, at, return_indices=True)
    end = run.results.get("meta_steps")
    rows = zip(common, weightless[one], entropy[other], strict=True)
    texts = [collapse_warning(float(share), float(left), ending=step == end) for step, share, left in rows]
    rung = [place for place, text in enumerate(texts) if text is not None]
    if not rung:
        return None
    end = "still so at the last" if texts[-1] is not None else "no longer so at the last"
    return (
        f"meta-step {common[rung[0]]:.0f}: {texts[rung[0]]}. "
        f"So at {len(rung)} of {len(texts)} validations, {end}, at meta-step {common[-1]:.0f}"
    )
