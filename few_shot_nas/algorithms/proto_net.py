"""ProtoNet: learn features in which the nearest class mean classifies."""

from typing import Literal

import torch
from torch import Tensor, nn

from few_shot_nas.algorithms.feature_learner import Classifier, FeatureModule
from few_shot_nas.algorithms.settings import OuterLoop
from few_shot_nas.episode import SingleTask
from few_shot_nas.errors import InputError
from few_shot_nas.meta.metric import cosine_logits, prototypes, squared_euclidean_logits, ways
from few_shot_nas.ranges import Positive
from few_shot_nas.settings import require_choice

Distance = Literal["euclidean", "cosine"]
INITIAL_SCALE = 10.0  # of the cosines: softmax over values in [-1, 1] would hardly tell classes apart


class ProtoNet(FeatureModule):
    """Prototypical networks (Snell et al., NeurIPS 2017, arXiv:1703.05175, Algorithm 1).

    Logits are minus the *squared* Euclidean distance to the class means, equations 1 and 2. The paper trains with more
    ways than it tests: give ``train_way`` (60 on Omniglot, 30 and 20 on mini-ImageNet) and ``train_query``.

    Deviations: support and query images are normalised separately, in training as in the transductive bn_mode. The
    authors' code runs both through the network as one batch in training and uses running statistics in the test.
    ``cosine`` is the paper's comparison with a factor on the cosines, which is learned, from 10. A
    ``distance_scale`` below 1 is not in the paper: distances between untrained features of D numbers are of order D,
    the softmax of their negatives is saturated (loss 29 instead of log 20 with Conv4-64 at 84x84 pixels), and hundreds
    of meta-steps pass before the features have shrunk.

    Args:
        net: any network of MODELS; its head is not used.
        distance: what compares a query with a prototype: squared euclidean, or cosine with a learned scale.
        distance_scale: factor on the squared euclidean distances, 1 in the paper; a few over the number of features
            shortens the start.
        outer: the outer loop.
        seed: names every random stream of the run.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        distance: Distance = "euclidean",
        distance_scale: Positive = 1.0,
        outer: OuterLoop = OuterLoop(),
        seed: int = 0,
    ) -> None:
        super().__init__(net, outer=outer, seed=seed)
        require_choice("distance", distance, Distance)
        if not distance_scale > 0:
            raise InputError(f"ProtoNet: distance_scale={distance_scale} given, it must be greater than 0")
        self.distance = distance
        self.distance_scale = distance_scale
        self.scale = nn.Parameter(torch.tensor(INITIAL_SCALE)) if distance == "cosine" else None
        self.hparams.update({"distance": distance, "distance_scale": distance_scale})

    def classifier(self, features: Tensor, labels: Tensor, task: SingleTask) -> Classifier:
        """Compare queries with the class means of the support features."""
        centres = prototypes(features, labels, ways(labels))
        if self.scale is None:
            return lambda query: self.distance_scale * squared_euclidean_logits(query, centres)
        scale = self.scale
        return lambda query: cosine_logits(query, centres, scale)
