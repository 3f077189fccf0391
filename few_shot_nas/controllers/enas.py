"""The controller of ENAS as published: anchors, and attention over them for skips and input indices."""

import math
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from few_shot_nas.controllers.base import Controller
from few_shot_nas.controllers.lstm import INIT_RANGE, lstm_step, widest_of_kinds
from few_shot_nas.errors import InputError


class State(NamedTuple):
    """What is carried from decision to decision.

    Attributes:
        x: next input of the LSTM, ``[1, H]``.
        hidden: output of the LSTM, ``[1, H]``.
        memory: cell of the LSTM, ``[1, H]``.
        anchors: what stands for each layer or block so far, ``[1, H]`` each.
        keys: what the attention compares for each anchor, ``[1, H]``: W1 times the LSTM's output when it was made.
        skips: skip decisions taken so far in the layer at hand, ``[1]`` each.
    """

    x: Tensor
    hidden: Tensor
    memory: Tensor
    anchors: tuple[Tensor, ...] = ()
    keys: tuple[Tensor, ...] = ()
    skips: tuple[Tensor, ...] = ()


class ENASController(Controller):
    """ENAS' LSTM (Pham et al. 2018, sections 2.2 and 2.4) with its attention over earlier layers or blocks.

    The kind of a decision says how it is taken:

    - ``skip`` (macro space): after each op the LSTM runs once more on the op's embedding, and its output h is the
      layer's anchor. Skip j has logits ``[-q_j, q_j]``, ``q_j = v . tanh(W1 anchor_j + W2 h)``. The next input is the
      sum of the chosen anchors over one plus their number (zero if none is chosen), and the start vector after layer 0.
    - ``index`` (micro space): logits ``v . tanh(W1 anchor_j + W2 h)`` over the earlier states; the next input is the
      chosen anchor. After a block's ops the LSTM runs once more to give its anchor, and the next block begins with the
      start vector. The two inputs of a cell have zero anchors, with keys from two LSTM steps on the start vector. The
      second cell continues with the LSTM's state of the first. Ops then have an output bias.
    - any other, such as ``op``: an embedding and an output layer per kind. A decision with fewer choices than another
      one of the kind uses the first rows of both layers.

    With 64 units 41,856 parameters for the macro space of 12 layers and 41,733 for the micro space, as published. The
    authors' settings are ``tanh_constant=1.5`` (macro), ``tanh_constant=1.1, op_tanh_reduce=2.5`` (micro).

    Deviations: the output bias starts at 0. In the authors' code it starts at 10 for the separable convolutions, where
    tanh has no gradient, and a constant 0.25 is added in the first cell. The skip probability is that of the softmax
    wherever it is used; the prior of the authors' code takes the sigmoid of one logit, which is another number.

    Args:
        decision_sizes: number of choices of each decision, L of them.
        kinds: kind of each decision, L of them.
        hidden: width H of the LSTM and of the embeddings.
        tanh_constant: bounds each logit to [-c, c], and so the policy away from certainty; None leaves them free.
        temperature: divides the logits before the bound; None is 1.
        embedding_dim: length of the task embedding that every call then takes as ``context``; it is mapped linearly
            and added to the first input. None takes none.
        op_tanh_reduce: the bound of all decisions that are neither skip nor index is divided by this, from 1.

    Raises:
        InputError: if a size or flag is out of range, or skips and indices are not in the order of the macro or the
            micro space.
        ValueError: if sizes and kinds differ in length or are empty.
    """

    name: ClassVar[str] = "ENAS"

    def __init__(
        self,
        decision_sizes: Sequence[int],
        kinds: Sequence[str],
        hidden: int = 64,
        tanh_constant: float | None = 1.5,
        temperature: float | None = None,
        embedding_dim: int | None = None,
        op_tanh_reduce: float = 1.0,
    ) -> None:
        super().__init__(decision_sizes, kinds, tanh_constant, temperature, embedding_dim)
        self._require_positive("hidden", hidden)
        if not op_tanh_reduce >= 1:
            raise InputError(f"ENAS controller: op_tanh_reduce={op_tanh_reduce} given, it must be at least 1")
        self.hidden = hidden
        self.op_tanh_reduce = op_tanh_reduce
        of_kind = widest_of_kinds(self.kinds, self.decision_sizes)
        widest = {kind: size for kind, size in of_kind.items() if kind not in ("skip", "index")}
        self._cell_starts = self._check_order()
        self.start = nn.Parameter(torch.empty(1, hidden))
        self.cell = nn.Parameter(torch.empty(2 * hidden, 4 * hidden))
        self.embedding = nn.ModuleDict({kind: nn.Embedding(size, hidden) for kind, size in widest.items()})
        self.output = nn.ModuleDict({kind: nn.Linear(hidden, size, bias=False) for kind, size in widest.items()})
        self.task = None if embedding_dim is None else nn.Linear(embedding_dim, hidden, bias=False)
        self.attends = "skip" in self.kinds or "index" in self.kinds
        if self.attends:
            self.key = nn.Parameter(torch.empty(hidden, hidden))
            self.query = nn.Parameter(torch.empty(hidden, hidden))
            self.score = nn.Parameter(torch.empty(hidden, 1))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -INIT_RANGE, INIT_RANGE)
        biased = widest if "index" in self.kinds else {}
        self.bias = nn.ParameterDict({kind: nn.Parameter(torch.zeros(size)) for kind, size in biased.items()})

    def _check_order(self) -> frozenset[int]:
        """Return the steps at which a cell of the micro space begins, after checking the order of decisions."""
        if "index" in self.kinds and "skip" in self.kinds:
            raise InputError("ENAS controller: skip and index decisions given, a space has one of them at most")
        starts, anchors = set(), 0
        for step, (kind, size) in enumerate(zip(self.kinds, self.decision_sizes, strict=True)):
            new_block = kind == "index" and self._kind(step - 1) != "index"
            if new_block and size == 2:
                starts.add(step)
                anchors = 2
            wrong = kind == "index" and size != anchors
            if "skip" in self.kinds and kind != "skip":
                following = self.kinds[step + 1 :]
                run = next((place for place, later in enumerate(following) if later != "skip"), len(following))
                wrong = run != anchors
                anchors += 1
            if wrong or (kind == "skip" and size != 2):
                raise InputError(
                    f"ENAS controller: decision {step} of kind {kind} with {size} choices does not fit the order of "
                    f"the macro or micro space, {anchors} earlier layers or states are known there"
                )
            anchors += self._ends_block(step)
        return frozenset(starts)

    def _kind(self, step: int) -> str | None:
        return self.kinds[step] if 0 <= step < len(self.kinds) else None

    def _ends_block(self, step: int) -> bool:
        return "index" in self.kinds and self.kinds[step] != "index" and self._kind(step + 1) in ("index", None)

    # ---- the walk -------------------------------------------------------------------------------------------------

    def _begin(self, context: Tensor | None) -> State:
        zeros = torch.zeros_like(self.start)
        x = self.start if self.task is None or context is None else self.start + self.task(context)
        return State(x, zeros, zeros)

    def _lstm(self, state: State) -> State:
        hidden, memory = lstm_step(state.x, state.hidden, state.memory, self.cell)
        return state._replace(hidden=hidden, memory=memory)

    def _anchored(self, state: State, anchor: Tensor) -> State:
        """Remember ``anchor``, with the key of the LSTM's present output."""
        return state._replace(anchors=(*state.anchors, anchor), keys=(*state.keys, state.hidden @ self.key))

    def _logits(self, step: int, state: State) -> tuple[Tensor, State]:
        kind = self.kinds[step]
        if kind == "skip":
            key = state.keys[len(state.skips)]
            q = (key + state.hidden @ self.query).tanh() @ self.score
            return torch.cat((-q, q), dim=1), state
        if step in self._cell_starts:
            state = state._replace(anchors=(), keys=())
            for _ in range(2):
                state = self._lstm(state)
                state = self._anchored(state, torch.zeros_like(self.start))
        state = self._lstm(state)
        if kind == "index":
            scores = (torch.cat(state.keys) + state.hidden @ self.query).tanh() @ self.score
            return scores.T, state
        rows = self.output[kind].weight[: self.decision_sizes[step]]  # type: ignore[index]  # a Tensor, typed as Module
        logits = F.linear(state.hidden, rows)
        if kind in self.bias:
            logits = logits + self.bias[kind][: self.decision_sizes[step]]
        return self._reduced(logits), state

    def _reduced(self, logits: Tensor) -> Tensor:
        """Return logits that end within ``tanh_constant / op_tanh_reduce`` when the base class bounds them."""
        if self.op_tanh_reduce == 1 or self.tanh_constant is None:
            return logits
        heat = 1.0 if self.temperature is None else self.temperature
        return heat * ((logits / heat).tanh() / self.op_tanh_reduce).atanh()

    def _take(self, step: int, choice: Tensor, state: State) -> State:
        kind = self.kinds[step]
        if kind == "index":
            return state._replace(x=torch.cat(state.anchors)[choice])
        if kind == "skip":
            state = state._replace(skips=(*state.skips, choice))
            return state if self._kind(step + 1) == "skip" else self._end_layer(state)
        state = state._replace(x=self.embedding[kind](choice))
        if self._ends_block(step):
            state = self._lstm(state)
            return self._anchored(state, state.hidden)._replace(x=self.start)
        if "skip" in self.kinds:
            state = self._lstm(state)
            if self._kind(step + 1) != "skip":
                return self._anchored(state, state.hidden)._replace(x=self.start)
        return state

    def _end_layer(self, state: State) -> State:
        """Turn a layer's skips into the next input, and remember its anchor."""
        chosen = torch.stack(state.skips).to(state.hidden.dtype)  # [layers before, 1]
        x = (chosen * torch.cat(state.anchors)).sum(dim=0, keepdim=True) / (1 + chosen.sum())
        return self._anchored(state, state.hidden)._replace(x=x, skips=())

    def p_max(self) -> float:
        """Return the least upper bound of the probability of one architecture, over all parameters.

        As in the base class, with the smaller bound of ``op_tanh_reduce`` for what is neither skip nor index.
        """
        if self.tanh_constant is None:
            return 1.0
        attended = math.exp(-2.0 * self.tanh_constant)
        plain = math.exp(-2.0 * self.tanh_constant / self.op_tanh_reduce)
        return math.prod(
            1.0 / (1.0 + (size - 1) * (attended if kind in ("skip", "index") else plain))
            for size, kind in zip(self.decision_sizes, self.kinds, strict=True)
        )
