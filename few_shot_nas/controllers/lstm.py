"""The architecture policy of ENAS: an LSTM that takes one decision after the other."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from few_shot_nas.controllers.base import Controller

INIT_RANGE = 0.1


def lstm_step(x: Tensor, hidden: Tensor, memory: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """One step of the LSTM of ENAS, without bias: ``(hidden, memory)`` after the input ``x``, ``[1, H]`` each.

    Written out, because fused LSTM kernels have no second derivative on GPUs.

    Args:
        x: the input, ``[1, H]``.
        hidden: the output of the step before, ``[1, H]``.
        memory: the cell after the step before, ``[1, H]``.
        weight: ``[2H, 4H]``, columns for the gates input, forget and output, then for the candidate.
    """
    size = hidden.shape[1]
    gates = torch.cat((x, hidden), dim=1) @ weight
    into, keep, out = gates[:, : 3 * size].sigmoid().chunk(3, dim=1)
    memory = keep * memory + into * gates[:, 3 * size :].tanh()
    return out * memory.tanh(), memory


def widest_of_kinds(kinds: Sequence[str], sizes: Sequence[int]) -> dict[str, int]:
    """Return the most choices that a decision of each kind has, in the order in which kinds come first.

    >>> widest_of_kinds(("op", "skip", "op"), (3, 2, 5))
    {'op': 5, 'skip': 2}
    """
    widest: dict[str, int] = {}
    for kind, size in zip(kinds, sizes, strict=True):
        widest[kind] = max(size, widest.get(kind, 0))
    return widest


class State(NamedTuple):
    """What the LSTM carries from decision to decision: its next input and its two states, all ``[1, H]``."""

    x: Tensor
    hidden: Tensor
    memory: Tensor


class LSTMController(Controller):
    """Autoregressive policy over the decisions of a search space (ENAS, Pham et al. 2018).

    At each decision the embedding of the choice taken before (at first a learned start vector) goes into a one-layer
    LSTM, whose output gives the logits. These are divided by ``temperature`` and bounded to
    ``tanh_constant * tanh(logits)``. As in ENAS the LSTM (:func:`lstm_step`) is one matrix ``[2H, 4H]`` without bias
    and every parameter starts uniform in [-0.1, 0.1], so the initial policy is nearly uniform.

    Deviations: decisions of one kind share one embedding and one output layer. A decision with fewer choices than
    another one of the kind uses the first rows of both layers; for it the other rows are never sampled, enter no sum
    and get no gradient. The state that an edge comes from is a choice like any other, without ENAS's attention over
    nodes. A task embedding, which ENAS does not have, is mapped linearly and added to the start vector.

    Args:
        decision_sizes: number of choices of each decision, L of them.
        kinds: kind of each decision, L of them.
        hidden: width H of the LSTM and of the embeddings.
        tanh_constant: bounds each logit to [-c, c], and so the policy away from certainty; None leaves them free.
        temperature: divides the logits before the bound; None is 1.
        embedding_dim: length of the task embedding that every call then takes as ``context``; None takes none.

    Raises:
        InputError: if a size, ``hidden``, ``tanh_constant``, ``temperature`` or ``embedding_dim`` is not positive.
        ValueError: if sizes and kinds differ in length or are empty.
    """

    name: ClassVar[str] = "LSTM"

    def __init__(
        self,
        decision_sizes: Sequence[int],
        kinds: Sequence[str],
        hidden: int = 64,
        tanh_constant: float | None = 2.5,
        temperature: float | None = None,
        embedding_dim: int | None = None,
    ) -> None:
        super().__init__(decision_sizes, kinds, tanh_constant, temperature, embedding_dim)
        self._require_positive("hidden", hidden)
        self.hidden = hidden
        widest = widest_of_kinds(self.kinds, self.decision_sizes)
        self.start = nn.Parameter(torch.empty(1, hidden))
        self.cell = nn.Parameter(torch.empty(2 * hidden, 4 * hidden))
        self.embedding = nn.ModuleDict({kind: nn.Embedding(size, hidden) for kind, size in widest.items()})
        self.output = nn.ModuleDict({kind: nn.Linear(hidden, size, bias=False) for kind, size in widest.items()})
        self.task = None if embedding_dim is None else nn.Linear(embedding_dim, hidden, bias=False)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -INIT_RANGE, INIT_RANGE)

    def _begin(self, context: Tensor | None) -> State:
        zeros = torch.zeros_like(self.start)
        if self.task is None or context is None:
            return State(self.start, zeros, zeros)
        return State(self.start + self.task(context), zeros, zeros)

    def _logits(self, step: int, state: State) -> tuple[Tensor, State]:
        hidden, memory = lstm_step(state.x, state.hidden, state.memory, self.cell)
        rows = self.output[self.kinds[step]].weight[: self.decision_sizes[step]]  # type: ignore[index]  # a Tensor
        return F.linear(hidden, rows), State(state.x, hidden, memory)

    def _take(self, step: int, choice: Tensor, state: State) -> State:
        return State(self.embedding[self.kinds[step]](choice), state.hidden, state.memory)
