"""When to stop waiting for a better validation."""

from typing import NamedTuple


class Waiting(NamedTuple):
    """How long no validation has been the best so far.

    Attributes:
        best: highest accuracy of any validation, a fraction.
        since: validations after it that were not higher.
    """

    best: float
    since: int

    def after(self, accuracy: float) -> "Waiting":
        """Return what holds after one more validation; an accuracy equal to the best is not better."""
        return Waiting(accuracy, 0) if accuracy > self.best else Waiting(self.best, self.since + 1)

    def enough(self, patience: int | None) -> bool:
        """Return whether ``patience`` validations have passed without a better one; never with None."""
        return patience is not None and self.since >= patience


NOTHING_SEEN = Waiting(float("-inf"), 0)
