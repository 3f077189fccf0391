"""Which engine is the fastest here: timed once on real episodes, and remembered."""

import json
import logging
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from few_shot_nas.whole_file import write_text

logger = logging.getLogger(__name__)

FILE = "engines.json"
ROUNDS = 3


def fastest(
    steps: Mapping[str, Callable[[], object]], key: str, folder: Path | None, clock: Callable[[], float] | None = None
) -> str:
    """Return the name of the step that takes the least time, and say so in a line of the log.

    The steps are timed in turn, after one call of each that does not count. A choice is kept in ``folder/engines.json``
    by its key, and is not made again.

    Args:
        steps: name -> one meta-step, which ends when its result is there.
        key: what the choice holds for: device, network, shapes, versions.
        folder: where choices are kept; None keeps none.
        clock: seconds; ``time.perf_counter`` by default.
    """
    file = None if folder is None else folder / FILE
    known = _read(file)
    if known.get(key) in steps:
        logger.info("engine=auto: %s, as chosen before (%s)", known[key], file)
        return known[key]
    clock = clock or time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for counts in (False, *[True] * ROUNDS):
        for name, step in steps.items():
            started = clock()
            step()
            if counts:
                seconds[name].append(clock() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    chosen = min(medians, key=lambda name: medians[name])
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps({**_read(file), key: chosen}, indent=1, sort_keys=True) + "\n")
    times = ", ".join(f"{name} {1e3 * value:.1f} ms" for name, value in medians.items())
    logger.info("engine=auto: %s (%s per meta-step)%s", chosen, times, "" if file is None else f", kept in {file}")
    return chosen


def _read(file: Path | None) -> dict[str, str]:
    """Return the choices of a file; none where it is missing or damaged, because they can be made again."""
    try:
        found = json.loads(file.read_text(encoding="utf-8")) if file is not None else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
