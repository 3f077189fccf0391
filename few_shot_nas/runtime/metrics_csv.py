"""metrics.csv: the record of a run that the report and the user read."""

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from few_shot_nas.errors import InputError
from few_shot_nas.whole_file import read_text, reason, write_text

X_AXIS = "meta_step"


def _cell(value: Any) -> str:
    """Write a number so that it reads back bit for bit; whole numbers without a point."""
    number = float(value)
    if isinstance(value, bool) or not math.isfinite(number):
        return str(number)
    return str(int(number)) if isinstance(value, int) else repr(number)


def _write(path: Path, rows: list[list[str]]) -> None:
    """Replace ``path`` in one step: a killed process leaves the old file or the new one."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())


def _read(path: Path) -> list[list[str]]:
    """Return header and whole rows; a last line cut short by a kill is dropped."""
    try:
        text = read_text(path)
        rows = list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1])))
    except (OSError, ValueError, csv.Error) as error:
        why = str(error) if isinstance(error, csv.Error) else reason(error)
        raise InputError(f"{path}: cannot be read ({why}); move it away to go on without its earlier rows") from error
    return [row for row in rows if len(row) == len(rows[0])] if rows else []


class MetricsCSV(Logger):
    """Logger that appends one row per call to a CSV file whose first column is ``meta_step``.

    Every row is flushed. A metric seen for the first time adds a column: the file is rewritten with blank cells in the
    rows before and renamed into place. An existing file is continued.

    Args:
        path: the file; made at the first row, so that a run that fails early leaves none.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self._columns: list[str] = []

    @property
    def name(self) -> str:
        """Name of this logger."""
        return "metrics"

    @property
    def version(self) -> str:
        """Lightning asks for one; there is only one per run directory."""
        return ""

    @property
    def save_dir(self) -> str:
        """Folder of the file."""
        return str(self.path.parent)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the flags of a run are in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Append one row.

        Args:
            metrics: scalars by name; ``meta_step`` among them wins over ``step``. Lightning's ``epoch`` is dropped, and
                so is ``test/...``, which belongs to results.json.
            step: the meta-step.

        Raises:
            ValueError: if neither names the meta-step.
        """
        kept = (item for item in metrics.items() if item[0] != "epoch" and not item[0].startswith("test/"))
        row = {name: _cell(value) for name, value in kept}
        if not row:
            return
        if X_AXIS not in row:
            if step is None:
                raise ValueError(f"metrics {sorted(row)} come without a step")
            row[X_AXIS] = str(step)
        if not self._columns:
            self._open()
        new = [name for name in row if name not in self._columns]
        if new:
            self._add_columns(new)
        with self.path.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow([row.get(name, "") for name in self._columns])

    def _open(self) -> None:
        rows = _read(self.path) if self.path.is_file() else []
        if rows:
            self._columns = rows[0]
            _write(self.path, rows)
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._columns = [X_AXIS]
            _write(self.path, [self._columns])

    def _add_columns(self, new: list[str]) -> None:
        rows = _read(self.path)
        self._columns = self._columns + new
        _write(self.path, [self._columns] + [row + [""] * len(new) for row in rows[1:]])

    @rank_zero_only
    def truncate_after(self, meta_step: int) -> None:
        """Drop the rows beyond ``meta_step``: a run resumed from there will write them again."""
        rows = _read(self.path) if self.path.is_file() else []
        if rows:
            _write(self.path, [rows[0]] + [row for row in rows[1:] if int(float(row[0])) <= meta_step])
