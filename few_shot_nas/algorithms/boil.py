"""BOIL: adapt the body and leave the head."""

from torch import nn

from few_shot_nas.algorithms.gradient_learner import GradientLearner
from few_shot_nas.algorithms.linear_head import head_names
from few_shot_nas.algorithms.settings import InnerLoop, OuterLoop
from few_shot_nas.errors import InputError


class BOIL(GradientLearner):
    """BOIL (Oh et al., ICLR 2021, arXiv:2008.08882): MAML whose inner loop moves everything but the last layer.

    The head's rate is 0 in the paper; here it is not among the adapted parameters at all, so that no gradient is
    computed for it in the inner loop and its bits stay. Defaults as published: rate 0.5, one step.

    Deviations: those of MAML.

    Args:
        net: any network of MODELS with a linear ``head``.
        inner: the inner loop.
        outer: the outer loop.
        seed: names every random stream of the run.

    Raises:
        InputError: if ``inner.zero_head`` is set: no gradient would reach the body.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        inner: InnerLoop = InnerLoop(inner_lr=0.5),
        outer: OuterLoop = OuterLoop(),
        seed: int = 0,
    ) -> None:
        if inner.zero_head:
            raise InputError(
                "BOIL: zero_head=True: its inner loop leaves the head as it is, and no gradient passes a head of "
                "zeros; set zero_head=false"
            )
        super().__init__(net, inner=inner, outer=outer, seed=seed)
        self.head_names = head_names(net, "BOIL")

    def is_adapted(self, name: str) -> bool:
        """All but the head."""
        return name not in self.head_names
