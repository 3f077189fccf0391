"""T-NAS++: T-NAS on the inner loop of MAML++."""

import torch
from torch import Tensor, nn

from few_shot_nas.algorithms.alpha_search import AlphaLoop, is_alpha
from few_shot_nas.algorithms.maml_plus_plus import PUBLISHED, Ingredients, MAMLPlusPlus
from few_shot_nas.algorithms.settings import InnerLoop, OuterLoop
from few_shot_nas.algorithms.tnas import PUBLISHED_INNER, TaskDecoding


class TNASPlusPlus(TaskDecoding, MAMLPlusPlus):
    """T-NAS++ (Lian et al., ICLR 2020, section 5): weights and alphas adapted together with MAML++'s ingredients.

    The paper names the combination and gives its results; it says nothing of how the alphas take part and no code of it
    was released. Here the alphas get learned inner rates as every tensor does, one per inner step, which start at
    alpha_inner_lr; the multi-step loss and statistics per inner step are MAML++'s.

    Args:
        net: a MixedSupernet.
        inner: the inner loop of the weights.
        ingredients: the switches of MAML++.
        alphas: how the alphas are learned.
        outer: the outer loop of the weights and the learned rates.
        seed: names every random stream of the run.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        inner: InnerLoop = PUBLISHED_INNER,
        ingredients: Ingredients = PUBLISHED,
        alphas: AlphaLoop = AlphaLoop(),
        outer: OuterLoop = OuterLoop(outer_lr=1e-3, outer_schedule="cosine", outer_lr_min=1e-5),
        seed: int = 0,
    ) -> None:
        super().__init__(net, alphas=alphas, inner=inner, ingredients=ingredients, outer=outer, seed=seed)
        if ingredients.learn_inner_rates:
            with torch.no_grad():
                for name in filter(is_alpha, self.split()[0]):
                    self.learned_rates(name).fill_(alphas.alpha_inner_lr)

    def rate(self, name: str, step: int) -> float | Tensor:
        """The learned rate of one tensor in one step; T-NAS's where rates are not learned."""
        return MAMLPlusPlus.rate(self, name, step) if self.ingredients.learn_inner_rates else super().rate(name, step)
