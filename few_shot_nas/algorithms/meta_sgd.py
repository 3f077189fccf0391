"""Meta-SGD: learn the inner step size of every single weight."""

from typing import Literal

import torch
from torch import Tensor, nn

from few_shot_nas.algorithms.gradient_learner import GradientLearner
from few_shot_nas.algorithms.settings import InnerLoop, OuterLoop
from few_shot_nas.seeding import generator
from few_shot_nas.settings import require_choice

RateInit = Literal["uniform", "constant"]
RATE_RANGE = (0.005, 0.1)


class MetaSGD(GradientLearner):
    """Meta-SGD (Li et al. 2017, arXiv:1707.09835, equation 2): MAML with a learned rate for every element.

    ``theta' = theta - alpha * grad L_support(theta)`` with alpha of theta's shape, trained with theta by the outer
    loop. Rates may become negative, as in the paper. They take no weight decay: it would shrink the inner steps.

    Deviations: those of MAML; more than one inner step is allowed and uses the same rates in every step.

    Args:
        net: any network of MODELS.
        inner: the inner loop; inner_lr is where the rates start if rate_init is constant, and else not used.
        outer: the outer loop.
        rate_init: uniform: the rates start uniformly in 0.005..0.1, drawn from the seed (the paper's choice);
            constant: at inner_lr, which makes the first meta-step MAML's.
        seed: names every random stream of the run.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        inner: InnerLoop = InnerLoop(inner_lr=0.05),
        outer: OuterLoop = OuterLoop(),
        rate_init: RateInit = "uniform",
        seed: int = 0,
    ) -> None:
        super().__init__(net, inner=inner, outer=outer, seed=seed)
        require_choice("rate_init", rate_init, RateInit)
        self.hparams.update({"rate_init": rate_init})
        stream = generator(seed, "rates")
        low, high = (inner.inner_lr, inner.inner_lr) if rate_init == "constant" else RATE_RANGE
        for name, value in self.split()[0].items():
            drawn = low + (high - low) * torch.rand(value.shape, generator=stream, dtype=torch.float64)
            self.add_rates(name, drawn.to(value))

    def rate(self, name: str, step: int) -> Tensor:
        """The learned rates of one parameter, of its shape."""
        return self.learned_rates(name)
