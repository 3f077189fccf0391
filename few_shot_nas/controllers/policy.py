"""A controller on one task: its parameters come from outside, so that a clone of it is a dict of tensors."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from few_shot_nas.controllers.base import Controller, Rollout
from few_shot_nas.meta.functional import Params

Decisions = tuple[int, ...]


class TaskPolicy(NamedTuple):
    """A controller in the context of one task.

    It takes any controller, and architectures as tuples of ints, one at a time: a search draws each of them anew until
    it is within the limits. :class:`few_shot_nas.controllers.rows.RowsPolicy` takes n architectures as one tensor, for
    tables of rewards; tests/controllers/test_rows.py holds the two to the same log-probabilities.

    Attributes:
        controller: the policy, whose own parameters are not used.
        context: embedding of the task, ``[embedding_dim]``, if the controller takes one.
    """

    controller: Controller
    context: Tensor | None = None

    def rollout(self, params: Params, **inputs: Any) -> Rollout:
        """Run the controller with ``params`` in place of its own."""
        return functional_call(self.controller, params, (), {**inputs, "context": self.context})

    def rollouts(self, params: Params, architectures: Sequence[Decisions]) -> tuple[Tensor, Tensor]:
        """Replay n architectures under ``params``: log-probabilities and entropies of all decisions, ``[n, L]``."""
        replayed = [self.rollout(params, decisions=torch.tensor(a, dtype=torch.int64)) for a in architectures]
        return torch.stack([r.log_probs for r in replayed]), torch.stack([r.entropies for r in replayed])

    def log_probs(self, params: Params, architectures: Sequence[Decisions]) -> Tensor:
        """Log-probability of each decision of n architectures under ``params``, ``[n, L]``."""
        return self.rollouts(params, architectures)[0]

    def sample(self, params: Params, stream: torch.Generator, count: int) -> list[Decisions]:
        """Draw ``count`` architectures; only ``stream`` is used."""
        with torch.no_grad():
            return [tuple(self.rollout(params, generator=stream).decisions.tolist()) for _ in range(count)]

    def greedy(self, params: Params) -> Decisions:
        """Return the architecture that takes the likeliest choice each time."""
        with torch.no_grad():
            return tuple(self.rollout(params, greedy=True).decisions.tolist())
