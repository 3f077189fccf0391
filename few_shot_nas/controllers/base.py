"""What every controller is: the module of a policy, a distribution over the decisions of a search space."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from few_shot_nas.errors import InputError


class Rollout(NamedTuple):
    """One architecture, and what the policy thinks of it.

    Attributes:
        decisions: index of the choice taken at each decision, ``[L]`` int64.
        log_prob: logarithm of the probability of the whole architecture, a scalar, in nats.
        entropy: sum of the entropies of the L distributions met on the way, a scalar, in nats. Its mean over sampled
            architectures is the entropy of the policy.
        log_probs: logarithm of the probability of each choice given the choices before it, ``[L]``; they sum to
            ``log_prob``.
        entropies: entropy of each distribution met on the way, ``[L]``; they sum to ``entropy``.
    """

    decisions: Tensor
    log_prob: Tensor
    entropy: Tensor
    log_probs: Tensor
    entropies: Tensor


class Controller(nn.Module, ABC):
    """The module of a policy over L decisions, which it takes one by one.

    A subclass says which logits each decision has, given the choices before it.

    Logits are divided by ``temperature``, then bounded: ``tanh_constant * tanh(logits)``.

    Args:
        decision_sizes: number of choices of each decision, L of them.
        kinds: kind of each decision, L of them.
        tanh_constant: bounds each logit to [-c, c], and so the policy away from certainty; None leaves them free.
        temperature: divides the logits before the bound; None is 1.
        embedding_dim: length of the task embedding that every call then takes as ``context``; None takes none.

    Raises:
        InputError: if a size, ``tanh_constant``, ``temperature`` or ``embedding_dim`` is not positive.
        ValueError: if sizes and kinds differ in length or are empty.
    """

    name: ClassVar[str]

    def __init__(
        self,
        decision_sizes: Sequence[int],
        kinds: Sequence[str],
        tanh_constant: float | None = 2.5,
        temperature: float | None = None,
        embedding_dim: int | None = None,
    ) -> None:
        super().__init__()
        if len(decision_sizes) != len(kinds) or not kinds:
            raise ValueError(f"{len(decision_sizes)} decision sizes and {len(kinds)} kinds; need as many, at least 1")
        self._require_positive("tanh_constant", tanh_constant)
        self._require_positive("temperature", temperature)
        self._require_positive("embedding_dim", embedding_dim)
        self._require_positive("decision_sizes", min(decision_sizes))
        self.decision_sizes = tuple(decision_sizes)
        self.kinds = tuple(kinds)
        self.tanh_constant = tanh_constant
        self.temperature = temperature
        self.embedding_dim = embedding_dim

    def _require_positive(self, flag: str, value: float | None) -> None:
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"{self.name} controller: {flag}={value} given, it must be positive and finite")

    @abstractmethod
    def _begin(self, context: Tensor | None) -> Any:
        """Return the state before the first decision."""

    @abstractmethod
    def _logits(self, step: int, state: Any) -> tuple[Tensor, Any]:
        """Return the unbounded logits ``[1, size]`` of a decision, and the state after thinking about it."""

    @abstractmethod
    def _take(self, step: int, choice: Tensor, state: Any) -> Any:
        """Return the state after a decision was taken; ``choice`` is ``[1]`` int64."""

    def forward(
        self,
        decisions: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        greedy: bool = False,
        context: Tensor | None = None,
    ) -> Rollout:
        """Take all decisions, or replay given ones.

        Exactly one of the first three arguments is given and says how.

        Args:
            decisions: choices to replay, ``[L]`` int64.
            generator: the only source of randomness for sampling; on any device.
            greedy: take the likeliest choice each time, of equally likely ones the first.
            context: embedding of the task, ``[embedding_dim]``; given if and only if the controller has
                ``embedding_dim``.

        Returns:
            The rollout; log-probabilities and entropies are differentiable, any number of times.

        Raises:
            ValueError: if not exactly one way is given, ``decisions`` has the wrong shape or a choice out of range, or
                ``context`` does not fit.
        """
        if (decisions is not None) + (generator is not None) + greedy != 1:
            raise ValueError("exactly one of decisions, generator and greedy says how the controller decides")
        self._check_context(context)
        if decisions is not None:
            self._check(decisions)
            decisions = decisions.to(next(self.parameters()).device)
        log_probs, entropies, taken = [], [], []
        for log_p, choice in self._path(decisions, generator, context):
            log_probs.append(log_p.gather(1, choice.unsqueeze(1)).squeeze(1))
            entropies.append(-(log_p.exp() * log_p).sum())
            taken.append(choice)
        log_prob, entropy = torch.cat(log_probs), torch.stack(entropies)
        return Rollout(torch.cat(taken), log_prob.sum(), entropy.sum(), log_prob, entropy)

    def _path(
        self, decisions: Tensor | None, generator: torch.Generator | None, context: Tensor | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the log-probabilities ``[1, size]`` and the choice ``[1]`` of each decision.

        Without decisions and generator the choice is the likeliest one.
        """
        state = self._begin(context)
        for step in range(len(self.kinds)):
            logits, state = self._logits(step, state)
            log_p = F.log_softmax(self._bounded(logits), dim=1)
            if decisions is not None:
                choice = decisions[step : step + 1]
            elif generator is not None:
                choice = _draw(log_p, generator)
            else:
                choice = log_p.argmax(dim=1)
            yield log_p, choice
            state = self._take(step, choice, state)

    def marginals(self, generator: torch.Generator, paths: int, context: Tensor | None = None) -> list[Tensor]:
        """Estimate the probability of each choice of each decision, whatever the choices before it.

        The mean, over sampled architectures, of the distributions met on the way: unbiased, with less variance than
        counting choices, and exact for the first decision and for a policy whose decisions are independent.

        Args:
            generator: the only source of randomness.
            paths: architectures that are sampled.
            context: as in :meth:`forward`.

        Returns:
            One ``[size]`` per decision; each sums to 1.

        Raises:
            ValueError: if ``context`` does not fit.
        """
        self._check_context(context)
        with torch.no_grad():
            sampled = [[log_p.exp()[0] for log_p, _ in self._path(None, generator, context)] for _ in range(paths)]
        return [torch.stack(met).mean(dim=0) for met in zip(*sampled, strict=True)]

    def _check(self, decisions: Tensor) -> None:
        if decisions.dtype != torch.int64 or decisions.shape != (len(self.kinds),):
            raise ValueError(
                f"decisions must be int64 [{len(self.kinds)}], got {decisions.dtype} {list(decisions.shape)}"
            )
        for step, (choice, size) in enumerate(zip(decisions.tolist(), self.decision_sizes, strict=True)):
            if not 0 <= choice < size:
                raise ValueError(f"decision {step} is {choice}, it must lie in 0..{size - 1}")

    def _check_context(self, context: Tensor | None) -> None:
        given = None if context is None else tuple(context.shape)
        needed = None if self.embedding_dim is None else (self.embedding_dim,)
        if given != needed:
            raise ValueError(f"{self.name} controller with embedding_dim={self.embedding_dim} got context {given}")

    def _bounded(self, logits: Tensor) -> Tensor:
        if self.temperature is not None:
            logits = logits / self.temperature
        return logits if self.tanh_constant is None else self.tanh_constant * logits.tanh()

    def sample(self, generator: torch.Generator, context: Tensor | None = None) -> Rollout:
        """Draw an architecture; ``generator`` is the only source of randomness."""
        return self(generator=generator, context=context)

    def greedy(self, context: Tensor | None = None) -> Tensor:
        """Return the decisions ``[L]`` that take the likeliest choice each time.

        Together they are not always the likeliest architecture.
        """
        return self(greedy=True, context=context).decisions

    def log_prob(self, decisions: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the log-probability of an architecture ``[L]``, a scalar."""
        return self(decisions, context=context).log_prob

    def entropy(self, decisions: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the sum of the entropies met on the way to an architecture ``[L]``, a scalar."""
        return self(decisions, context=context).entropy

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
