"""Many architectures of one controller at once, without control flow that depends on values: fit for ``vmap``."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from few_shot_nas.controllers.base import Controller
from few_shot_nas.controllers.factorised import FactorisedController
from few_shot_nas.controllers.lstm import LSTMController
from few_shot_nas.errors import InputError
from few_shot_nas.meta.functional import Params

#: Controllers whose states broadcast over rows.
WITH_ROWS = (LSTMController, FactorisedController)


class Rows(NamedTuple):
    """n rollouts: choices, their log-probabilities, and the entropies met on the way, each ``[n, L]``."""

    decisions: Tensor
    log_probs: Tensor
    entropies: Tensor


class ControllerRows(nn.Module):
    """A controller that takes n decisions at each step; the same distribution as :class:`Controller`, row by row.

    Args:
        controller: LSTM or Factorised.

    Raises:
        InputError: for another controller.
    """

    def __init__(self, controller: Controller) -> None:
        super().__init__()
        if not isinstance(controller, WITH_ROWS):
            names = ", ".join(kind.name for kind in WITH_ROWS)
            raise InputError(f"controller={controller.name}: cannot take many decisions at once; choose one of {names}")
        self.controller: Controller = controller

    def max_entropy(self) -> float:
        """Return the entropy of the uniform policy, in nats."""
        return self.controller.max_entropy()

    def forward(
        self, decisions: Tensor | None = None, *, uniforms: Tensor | None = None, context: Tensor | None = None
    ) -> Rows:
        """Replay given decisions, or sample by inverting the distribution function, or take the likeliest choices.

        Args:
            decisions: choices to replay, ``[n, L]`` int64.
            uniforms: numbers in [0, 1) that choose, ``[n, L]``; not together with ``decisions``. If neither is given,
                the likeliest choices make a single architecture, and n is 1.
            context: embedding of the task, ``[embedding_dim]``.
        """
        log_probs, entropies, taken = [], [], []
        controller: Controller = self.controller
        state: Any = controller._begin(context)
        given = uniforms if decisions is None else decisions
        rows = 1 if given is None else len(given)
        for step in range(len(controller.kinds)):
            logits, state = controller._logits(step, state)
            log_p = F.log_softmax(controller._bounded(logits), dim=1)  # [1 or n, size]
            log_p = log_p.expand(rows, -1)
            if decisions is not None:
                choice = decisions[:, step]
            elif uniforms is not None:
                # The last bound counts as 1 whatever the rounding.
                bounds = log_p.detach().exp().cumsum(1)[:, :-1]
                choice = (uniforms[:, step, None] >= bounds).sum(1)
            else:
                choice = log_p.argmax(dim=1)
            log_probs.append(log_p.gather(1, choice.unsqueeze(1)).squeeze(1))
            entropies.append(-(log_p.exp() * log_p).sum(1))
            taken.append(choice)
            # A state of one row meets n choices at the first decision.
            state = _expanded(controller._take(step, choice, state), rows)
        return Rows(torch.stack(taken, 1), torch.stack(log_probs, 1), torch.stack(entropies, 1))


def _expanded(state: Any, rows: int) -> Any:
    """Return a state whose tensors of one row have ``rows`` of them."""
    parts = [part.expand(rows, -1) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)


class RowsPolicy(NamedTuple):
    """A :class:`ControllerRows` in the context of one task; architectures are tensors ``[n, L]`` int64.

    What :class:`few_shot_nas.controllers.policy.TaskPolicy` is to a search, this is to a table of rewards. It is mapped
    over tasks by ``vmap``, so all n architectures are one tensor and no choice may leave it as an int. It serves only
    controllers whose states broadcast over rows, which that of ENAS does not.

    Attributes:
        rows: the controller, whose own parameters are not used.
        context: embedding of the task, ``[embedding_dim]``, if the controller takes one.
    """

    rows: ControllerRows
    context: Tensor | None = None

    def run(self, params: Params, **inputs: Any) -> Rows:
        """Run the controller with ``params`` in place of its own."""
        found: Rows = functional_call(self.rows, params, (), {**inputs, "context": self.context})
        return found

    def rollouts(self, params: Params, architectures: Tensor) -> tuple[Tensor, Tensor]:
        """Replay n architectures under ``params``: log-probabilities and entropies of all decisions, ``[n, L]``."""
        rolled = self.run(params, decisions=architectures)
        return rolled.log_probs, rolled.entropies

    def log_probs(self, params: Params, architectures: Tensor) -> Tensor:
        """Log-probability of each decision of n architectures under ``params``, ``[n, L]``."""
        return self.rollouts(params, architectures)[0]

    def sample(self, params: Params, uniforms: Tensor) -> Tensor:
        """Return the architectures that numbers in [0, 1) choose, ``[n, L]``."""
        return self.run(params, uniforms=uniforms).decisions

    def greedy(self, params: Params) -> Tensor:
        """Return the architecture that takes the likeliest choice each time, ``[1, L]``."""
        return self.run(params).decisions
