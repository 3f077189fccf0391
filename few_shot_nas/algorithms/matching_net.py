"""MatchingNet: label a query by attention over the support set."""

from torch import Tensor, nn

from few_shot_nas.algorithms.feature_learner import Classifier, FeatureModule
from few_shot_nas.algorithms.settings import OuterLoop
from few_shot_nas.episode import SingleTask
from few_shot_nas.errors import InputError
from few_shot_nas.meta.metric import attention_logits, ways
from few_shot_nas.ranges import Positive


class MatchingNet(FeatureModule):
    """Matching networks (Vinyals et al., NeurIPS 2016, arXiv:1606.04080, equations 1 and 2).

    Deviations: without the full-context embeddings (the LSTMs over the support set of section 2.1.2), which is the
    paper's variant of 43.4 / 51.1 % on mini-ImageNet; the cosines are multiplied by ``attention_scale``, 100 as in "A
    Closer Look at Few-shot Classification" (Chen et al., ICLR 2019, arXiv:1904.04232), where the paper has 1, with
    which attention is nearly uniform. As in the code of that paper, negative cosines count as 0 and 1e-6 is added to
    each probability before the logarithm. In training support and query images are normalised separately.

    Args:
        net: any network of MODELS; its head is not used.
        attention_scale: factor on the cosines before the softmax over the support set.
        outer: the outer loop.
        seed: names every random stream of the run.
    """

    def __init__(
        self, net: nn.Module, *, attention_scale: Positive = 100.0, outer: OuterLoop = OuterLoop(), seed: int = 0
    ) -> None:
        super().__init__(net, outer=outer, seed=seed)
        if not attention_scale > 0:
            raise InputError(f"MatchingNet: attention_scale={attention_scale} given, it must be greater than 0")
        self.attention_scale = attention_scale
        self.hparams.update({"attention_scale": attention_scale})

    def classifier(self, features: Tensor, labels: Tensor, task: SingleTask) -> Classifier:
        """Attend to the support features by cosine."""
        n_way = ways(labels)
        return lambda query: attention_logits(
            query, features, labels, n_way, self.attention_scale, rectified=True, floor=1e-6
        )
