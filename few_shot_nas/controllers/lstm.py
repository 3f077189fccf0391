"""The architecture policy of ENAS: an LSTM that takes one decision after the other."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from few_shot_nas.errors import InputError

INIT_RANGE = 0.1


class Rollout(NamedTuple):
    """One architecture, and what the policy thinks of it.

    Attributes:
        decisions: index of the choice taken at each decision, ``[L]`` int64.
        log_prob: logarithm of the probability of the whole architecture, a scalar, in nats.
        entropy: sum of the entropies of the L distributions met on the way, a scalar, in nats. Its mean over sampled
            architectures is the entropy of the policy.
    """

    decisions: Tensor
    log_prob: Tensor
    entropy: Tensor


class LSTMController(nn.Module):
    """Autoregressive policy over the decisions of a search space (ENAS, Pham et al. 2018).

    At each decision the embedding of the choice taken before (at first a learned start vector) goes into a one-layer
    LSTM, whose output gives the logits; then ``logits / temperature``, then ``tanh_constant * tanh(logits)``. As in
    ENAS the LSTM is one matrix ``[2H, 4H]`` without bias and every parameter starts uniform in [-0.1, 0.1], so the
    initial policy is nearly uniform. It is written out, because fused LSTM kernels have no second derivative on GPUs.

    Deviations: decisions of one kind share one embedding and one output layer; a decision with fewer choices than
    others of its kind uses their first rows, so the rest are never sampled, enter no sum and get zero gradient. The
    state an edge comes from is a choice like any other, without ENAS's attention over nodes.

    Args:
        decision_sizes: number of choices of each decision, L of them.
        kinds: kind of each decision, L of them.
        hidden: width H of the LSTM and of the embeddings.
        tanh_constant: bounds each logit to [-c, c], and so the policy away from certainty; None leaves them free.
        temperature: divides the logits before the bound; None is 1.

    Raises:
        InputError: if a size, ``hidden``, ``tanh_constant`` or ``temperature`` is not positive.
        ValueError: if sizes and kinds differ in length or are empty.
    """

    def __init__(
        self,
        decision_sizes: Sequence[int],
        kinds: Sequence[str],
        hidden: int = 64,
        tanh_constant: float | None = 2.5,
        temperature: float | None = None,
    ) -> None:
        super().__init__()
        if len(decision_sizes) != len(kinds) or not kinds:
            raise ValueError(f"{len(decision_sizes)} decision sizes and {len(kinds)} kinds; need as many, at least 1")
        flags = {"hidden": hidden, "tanh_constant": tanh_constant, "temperature": temperature}
        for flag, value in {**flags, "decision_sizes": min(decision_sizes)}.items():
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"LSTM controller: {flag}={value} given, it must be positive and finite")
        self.decision_sizes = tuple(decision_sizes)
        self.kinds = tuple(kinds)
        self.hidden = hidden
        self.tanh_constant = tanh_constant
        self.temperature = temperature
        widest: dict[str, int] = {}
        for kind, size in zip(self.kinds, self.decision_sizes, strict=True):
            widest[kind] = max(size, widest.get(kind, 0))
        self.start = nn.Parameter(torch.empty(1, hidden))
        self.cell = nn.Parameter(torch.empty(2 * hidden, 4 * hidden))
        self.embedding = nn.ModuleDict({kind: nn.Embedding(size, hidden) for kind, size in widest.items()})
        self.output = nn.ModuleDict({kind: nn.Linear(hidden, size, bias=False) for kind, size in widest.items()})
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -INIT_RANGE, INIT_RANGE)

    def forward(
        self, decisions: Tensor | None = None, *, generator: torch.Generator | None = None, greedy: bool = False
    ) -> Rollout:
        """Take all decisions, or replay given ones.

        Exactly one of the three arguments says how.

        Args:
            decisions: choices to replay, ``[L]`` int64.
            generator: the only source of randomness for sampling; on any device.
            greedy: take the likeliest choice each time; of equals the first.

        Returns:
            The rollout; ``log_prob`` and ``entropy`` are differentiable, any number of times.

        Raises:
            ValueError: if not exactly one way is given, or ``decisions`` has the wrong shape or a choice out of range.
        """
        if (decisions is not None) + (generator is not None) + greedy != 1:
            raise ValueError("exactly one of decisions, generator and greedy says how the controller decides")
        if decisions is not None:
            self._check(decisions)
            decisions = decisions.to(self.start.device)
        log_probs, entropies, taken = [], [], []
        x = self.start
        hidden = memory = torch.zeros_like(x)
        for step, (kind, size) in enumerate(zip(self.kinds, self.decision_sizes, strict=True)):
            hidden, memory = self._lstm(x, hidden, memory)
            log_p = F.log_softmax(self._logits(hidden, kind, size), dim=1)  # [1, size]
            if decisions is not None:
                choice = decisions[step : step + 1]
            elif generator is not None:
                choice = _draw(log_p, generator)
            else:
                choice = log_p.argmax(dim=1)
            log_probs.append(log_p.gather(1, choice.unsqueeze(1)))
            entropies.append(-(log_p.exp() * log_p).sum())
            taken.append(choice)
            x = self.embedding[kind](choice)
        return Rollout(torch.cat(taken), torch.cat(log_probs).sum(), torch.stack(entropies).sum())

    def _check(self, decisions: Tensor) -> None:
        if decisions.dtype != torch.int64 or decisions.shape != (len(self.kinds),):
            raise ValueError(
                f"decisions must be int64 [{len(self.kinds)}], got {decisions.dtype} {list(decisions.shape)}"
            )
        for step, (choice, size) in enumerate(zip(decisions.tolist(), self.decision_sizes, strict=True)):
            if not 0 <= choice < size:
                raise ValueError(f"decision {step} is {choice}, it must lie in 0..{size - 1}")

    def _lstm(self, x: Tensor, hidden: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the cell, all ``[1, H]``. Gates in the matrix: input, forget, output, candidate."""
        gates = torch.cat((x, hidden), dim=1) @ self.cell
        into, keep, out = gates[:, : 3 * self.hidden].sigmoid().chunk(3, dim=1)
        memory = keep * memory + into * gates[:, 3 * self.hidden :].tanh()
        return out * memory.tanh(), memory

    def _logits(self, hidden: Tensor, kind: str, size: int) -> Tensor:
        logits = F.linear(hidden, self.output[kind].weight[:size])  # type: ignore[index]  # a Tensor, typed as Module
        if self.temperature is not None:
            logits = logits / self.temperature
        return logits if self.tanh_constant is None else self.tanh_constant * logits.tanh()

    def sample(self, generator: torch.Generator) -> Rollout:
        """Draw an architecture; ``generator`` is the only source of randomness."""
        return self(generator=generator)

    def greedy(self) -> Tensor:
        """Return the decisions ``[L]`` that take the likeliest choice each time; not always the likeliest whole."""
        return self(greedy=True).decisions

    def log_prob(self, decisions: Tensor) -> Tensor:
        """Return the log-probability of an architecture ``[L]``, a scalar."""
        return self(decisions).log_prob

    def entropy(self, decisions: Tensor) -> Tensor:
        """Return the sum of the entropies met on the way to an architecture ``[L]``, a scalar."""
        return self(decisions).entropy

    def max_entropy(self) -> float:
        """Return the entropy of the uniform policy, in nats: the sum of the logarithms of the decision sizes."""
        return math.fsum(math.log(size) for size in self.decision_sizes)

    def p_max(self) -> float:
        """Return the least upper bound of the probability of one architecture, over all parameters.

        With logits in [-c, c] a decision among n choices reaches at most ``e^c / (e^c + (n - 1) e^-c)``; the bound is
        the product. It is 1 without ``tanh_constant``. The temperature divides the logits before they are bounded, so
        it slows the way to the bound but does not move it.
        """
        if self.tanh_constant is None:
            return 1.0
        odds = math.exp(-2.0 * self.tanh_constant)
        return math.prod(1.0 / (1.0 + (size - 1) * odds) for size in self.decision_sizes)


def _draw(log_p: Tensor, generator: torch.Generator) -> Tensor:
    """Draw one index from ``log_p [1, n]``, as ``[1]``, wherever the generator lives."""
    probabilities = log_p.detach().exp().to(generator.device)
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(1).to(log_p.device)
