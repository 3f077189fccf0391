"""Settings that many algorithms share, as frozen dataclasses. The command line offers their fields as flat flags."""

from dataclasses import dataclass
from typing import Literal

from few_shot_nas.errors import InputError


def require_positive(owner: object, *names: str) -> None:
    """Raise InputError for the first of ``owner``'s attributes ``names`` that is set and not greater than zero."""
    for name in names:
        value = getattr(owner, name)
        if value is not None and not value > 0:
            raise InputError(f"{name}={value}: must be greater than 0")


@dataclass(frozen=True)
class InnerLoop:
    """How one task is adapted to.

    Attributes:
        inner_lr: step size of the inner loop for a loss that is the mean over the support images. The rates of the MAML
            paper refer to a loss N times larger: multiply them by the number of ways.
        inner_steps: updates per task in training.
        eval_inner_steps: updates per task in validation and test; None takes inner_steps.
        first_order: treat the inner gradients as constants (FOMAML): cheaper, slightly less accurate.
    """

    inner_lr: float = 0.4
    inner_steps: int = 1
    eval_inner_steps: int | None = None
    first_order: bool = False

    def __post_init__(self) -> None:
        require_positive(self, "inner_lr", "inner_steps")
        if self.eval_inner_steps is not None and self.eval_inner_steps < 0:
            raise InputError(f"eval_inner_steps={self.eval_inner_steps}: must be 0 (no adaptation) or more")

    def steps(self, training: bool) -> int:
        """Return the number of updates in training or in evaluation."""
        return self.inner_steps if training or self.eval_inner_steps is None else self.eval_inner_steps


#: The default of searches: the second order costs half again as much per child, and T-NAS and Auto-MAML go without it.
FIRST_ORDER = InnerLoop(first_order=True)


@dataclass(frozen=True)
class OuterLoop:
    """How the meta-parameters are updated and watched.

    Attributes:
        max_meta_steps: outer updates in the whole run.
        outer_lr: learning rate of Adam on the meta-parameters.
        outer_schedule: constant, or cosine from outer_lr to zero over max_meta_steps.
        weight_decay: L2 penalty of Adam.
        meta_grad_clip: largest norm of the meta-gradient; None does not clip.
        bn_mode: what normalises the queries in validation: the queries themselves (transductive), the support set, or
            the running statistics of flat pre-training. The test reports all that there are.
        log_every: meta-steps between two rows of training metrics.
        log_grad_norm: order p of the norm of the meta-gradient to log; None logs none.
    """

    max_meta_steps: int = 1000
    outer_lr: float = 1e-3
    outer_schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: float = 0.0
    meta_grad_clip: float | None = None
    bn_mode: Literal["transductive", "support", "running"] = "transductive"
    log_every: int = 50
    log_grad_norm: float | None = None

    def __post_init__(self) -> None:
        require_positive(self, "max_meta_steps", "outer_lr", "meta_grad_clip", "log_every", "log_grad_norm")
        if self.weight_decay < 0:
            raise InputError(f"weight_decay={self.weight_decay}: must be 0 or more")
