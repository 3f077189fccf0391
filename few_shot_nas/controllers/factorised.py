"""The simplest architecture policy: one softmax per decision, independent of all others."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from few_shot_nas.controllers.base import Controller


class FactorisedController(Controller):
    """Independent softmax per decision, ``pi(a) = prod_t softmax(logits_t)[a_t]``.

    It is the control of the LSTM: it shares no weights between decisions and cannot express that the best choice of one
    decision depends on another. What the LSTM gains over it is the value of conditioning. Logits start at zero, which
    is the uniform policy. The same step size moves the two policies by different amounts, so choose the inner rate
    anew.

    Args:
        decision_sizes: number of choices of each decision, L of them.
        kinds: kind of each decision, L of them; without effect here.
        tanh_constant: bounds each logit to [-c, c], and so the policy away from certainty; None leaves them free.
        temperature: divides the logits before the bound; None is 1.
        embedding_dim: length of the task embedding that every call then takes as ``context``. A linear map that starts
            at zero turns it into a summand of the logits. None takes none.

    Raises:
        InputError: if a size, ``tanh_constant``, ``temperature`` or ``embedding_dim`` is not positive.
        ValueError: if sizes and kinds differ in length or are empty.
    """

    name: ClassVar[str] = "Factorised"

    def __init__(
        self,
        decision_sizes: Sequence[int],
        kinds: Sequence[str],
        tanh_constant: float | None = 2.5,
        temperature: float | None = None,
        embedding_dim: int | None = None,
    ) -> None:
        super().__init__(decision_sizes, kinds, tanh_constant, temperature, embedding_dim)
        self.logits = nn.Parameter(torch.zeros(sum(self.decision_sizes)))
        self.task = None if embedding_dim is None else nn.Parameter(torch.zeros(self.logits.numel(), embedding_dim))

    def _begin(self, context: Tensor | None) -> tuple[Tensor, ...]:
        logits: Tensor = self.logits
        if self.task is not None and context is not None:
            logits = logits + F.linear(context, self.task)
        return logits.unsqueeze(0).split(self.decision_sizes, dim=1)

    def _logits(self, step: int, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        return state[step], state

    def _take(self, step: int, choice: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return state
