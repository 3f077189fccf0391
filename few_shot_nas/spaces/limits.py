"""Upper limits on the parameters and multiply-accumulates of the architectures that a search may end with."""

from collections.abc import Callable
from functools import cached_property

from torch import Tensor

from few_shot_nas.errors import InputError
from few_shot_nas.spaces.genotype import Genotype
from few_shot_nas.spaces.op_costs import Cost
from few_shot_nas.spaces.space import Mixture, SearchSpace

#: Draws of which none fits before the smallest architecture is taken instead.
TRIES = 50
#: Weight of an op that is ruled out. No weight of a mixture is negative.
_OUT = -1.0


class Limits:
    """What the architectures of a space may cost.

    - Draws are repeated until one fits. So a policy draws from its distribution given that the limit holds. The score
      of that distribution differs from the policy's score by the same vector at every draw. A baseline under which the
      advantages sum to zero cancels this vector. After ``TRIES`` draws the smallest architecture is taken.
    - A mixture stands for the architecture that it stands for without limits, changed until it fits: op by op, first
      where the least weight is given up for what is saved.

    Args:
        space: the space.
        cost_of: the cost of the network of an architecture.
        max_params: largest number of parameters; None sets no limit.
        max_macs: largest number of multiply-accumulates per image; None sets no limit.

    Raises:
        InputError: if the smallest architecture that is found does not fit.
    """

    def __init__(
        self,
        space: SearchSpace,
        cost_of: Callable[[Genotype], Cost],
        max_params: int | None = None,
        max_macs: int | None = None,
    ) -> None:
        self.space = space
        self.max_params = max_params
        self.max_macs = max_macs
        self.cost = cost_of
        if self.active and not self.admits(space.decode(self.smallest)):
            least = self.cost(space.decode(self.smallest))
            raise InputError(
                f"max_params={max_params}, max_macs={max_macs}: the smallest architecture of space {space.name} "
                f"that was found has {least.params:,} parameters and {least.macs:,} multiply-accumulates; raise the "
                "limit, or lower channels or cells"
            )

    @property
    def active(self) -> bool:
        """Whether there is a limit."""
        return self.max_params is not None or self.max_macs is not None

    def excess(self, genotype: Genotype) -> float:
        """Return the larger of both costs over their limits; up to 1 the architecture fits."""
        pairs = zip(self.cost(genotype), (self.max_params, self.max_macs), strict=True) if self.active else ()
        return max((value / limit for value, limit in pairs if limit is not None), default=0.0)

    def admits(self, genotype: Genotype) -> bool:
        """Return whether an architecture fits."""
        return self.excess(genotype) <= 1.0

    @cached_property
    def smallest(self) -> tuple[int, ...]:
        """The decisions of the smallest architecture: each in turn takes its best choice until none gets smaller.

        That is the smallest of all where every decision costs its own, as in all spaces here but for strides.
        """
        best = tuple(0 for _ in self.space.decisions)
        least, before = self.excess(self.space.decode(best)), float("inf")
        while least < before:
            before = least
            for place, decision in enumerate(self.space.decisions):
                for choice in range(len(decision.choices)):
                    tried = (*best[:place], choice, *best[place + 1 :])
                    found = self.excess(self.space.decode(tried))
                    if found < least:
                        best, least = tried, found
        return best

    def sample(self, draw: Callable[[], tuple[int, ...]]) -> tuple[int, ...]:
        """Return the decisions of the first draw that fits, of the smallest architecture if none does.

        Args:
            draw: returns the decisions of one architecture; called once where there is no limit.
        """
        if not self.active:
            return draw()
        draws = (draw() for _ in range(TRIES))
        return next((drawn for drawn in draws if self.admits(self.space.decode(drawn))), self.smallest)

    def discretise(self, mixture: Mixture) -> Genotype:
        """Return the architecture that a mixture stands for, changed until it fits.

        In each turn every op of the architecture is ruled out for trial. If trials come nearer to the limits, the one
        of them is taken that saves most for the weight that its edge gives up. If none does, because the next op of
        each edge costs as much, the trial is taken whose edge gives up least. When nothing is left to rule out, the
        smallest architecture is returned.

        Args:
            mixture: weights, not negative.

        Raises:
            InputError: if a weight is not a number.
        """
        genotype = self.space.discretise(mixture)
        while not self.admits(genotype):
            trials = [
                (self.excess(genotype) - self.excess(found), lost, tried, found)
                for lost, tried in self._trials(mixture, genotype)
                if (found := self.space.discretise(tried)) != genotype
            ]
            if not trials:
                return self.space.decode(self.smallest)
            nearer = [trial for trial in trials if trial[0] > 0]
            if nearer:
                _, _, mixture, genotype = max(nearer, key=lambda trial: trial[0] / max(trial[1], 1e-12))
            else:
                _, _, mixture, genotype = min(trials, key=lambda trial: trial[1])
        return genotype

    def _trials(self, mixture: Mixture, genotype: Genotype) -> list[tuple[float, dict[str, Tensor]]]:
        """Return for each op of an architecture the weight its edge gives up without it, and the mixture without it."""
        found = []
        for cell_type, edges in self.space.chosen(genotype).items():
            own = self.space.menu()[cell_type]
            for row, (place, ops) in enumerate(own.items()):
                (op,) = edges.get(place, ("none",))
                weights = mixture[cell_type][row].tolist()
                others = [weight for other, weight in zip(ops, weights, strict=True) if other not in (op, "none")]
                if op == "none" or max(others, default=_OUT) < 0:
                    continue  # nothing to rule out, or nothing left
                tried = {name: value.detach().clone() for name, value in mixture.items()}
                tried[cell_type][row, ops.index(op)] = _OUT
                found.append((weights[ops.index(op)] - max(others), tried))
        return found
