"""choices.csv: the policy of a search over time, apart from metrics.csv because it has hundreds of columns."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger

from few_shot_nas.runtime.metrics_csv import X_AXIS, MetricsCSV
from few_shot_nas.spaces.space import Decision

CHOICES = "choices.csv"


def column(decision: str, choice: str | int | tuple[int, int]) -> str:
    """Name the column of one choice: ``normal/2/op=skip_connect``; a pair of inputs is ``normal/2/inputs=0+1``."""
    return f"{decision}={'+'.join(map(str, choice)) if isinstance(choice, tuple) else choice}"


class ChoicesCSV(Logger):
    """Logger of the policy alone: one column per choice of each decision, first ``meta_step``; metrics pass it by.

    Every row is flushed, and an existing file is continued, as :class:`MetricsCSV` does.

    Args:
        path: the file; made at the first row, so that a run without a controller leaves none.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.record = MetricsCSV(path)

    @property
    def name(self) -> str:
        """Name of this logger."""
        return "choices"

    @property
    def version(self) -> str:
        """Lightning asks for one; there is only one per run directory."""
        return ""

    @property
    def save_dir(self) -> str:
        """Folder of the file."""
        return self.record.save_dir

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the flags of a run are in config.yaml."""

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Do nothing: metrics are in metrics.csv."""

    def log_choices(
        self, meta_step: int, decisions: Sequence[Decision], probabilities: Sequence[Sequence[float]]
    ) -> None:
        """Append one row.

        Args:
            meta_step: outer updates done.
            decisions: the decisions of the space.
            probabilities: for each decision the probability of each of its choices.
        """
        row: dict[str, Any] = {X_AXIS: meta_step}
        for decision, values in zip(decisions, probabilities, strict=True):
            names = (column(decision.name, choice) for choice in decision.choices)
            row.update(zip(names, values, strict=True))
        self.record.log_metrics(row)
