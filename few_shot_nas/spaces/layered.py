"""Bodies whose layers are run one after the other, so that architectures with the same first layers can share them."""

from abc import abstractmethod

from torch import Tensor

from few_shot_nas.spaces.genotype import Genotype
from few_shot_nas.spaces.space import Body


class LayeredBody(Body):
    """A stem, then one searched layer per decision of the space, flattened."""

    @abstractmethod
    def begin(self, x: Tensor) -> Tensor:
        """Return what the first searched layer gets of images ``x [B, C, H, W]``."""

    @abstractmethod
    def layer(self, index: int, x: Tensor, op: str) -> Tensor:
        """Run one searched layer through ``op``."""

    def forward(self, x: Tensor, genotype: Genotype) -> Tensor:
        """Run only the genotype's path: ``[B, C, H, W]`` to features ``[B, feature_dim]``."""
        x = self.begin(x)
        for index, edge in enumerate(genotype.edges[0][1]):
            x = self.layer(index, x, edge.op)
        return x.flatten(1)
