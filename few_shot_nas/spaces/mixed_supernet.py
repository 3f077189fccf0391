"""A supernet with alphas: an ordinary network, whose architecture parameters are among its parameters."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from few_shot_nas import seeding
from few_shot_nas.ranges import Ways
from few_shot_nas.spaces.genotype import Genotype
from few_shot_nas.spaces.space import Decision, Mixture
from few_shot_nas.spaces.supernet import Supernet

#: Standard deviation of the first alphas, as in DARTS and T-NAS.
ALPHA_STD = 1e-3


class MixedSupernet(Supernet):
    """A :class:`few_shot_nas.spaces.supernet.Supernet` that runs all its ops, weighted by the softmax of its alphas.

    The continuous relaxation of DARTS (Liu et al., ICLR 2019, arXiv:1806.09055, equation 2) and of T-NAS (Lian et al.,
    ICLR 2020). Any learner of networks can train it; one that knows the alphas by name can give them a rate of their
    own. ``space=darts, channels=16, affine=False, norm_pools=True`` on images of 84 pixels is the search network of
    T-NAS.

    Deviations: weights start by Xavier's law (T-NAS: torch's default), and ``pad="left"`` must be asked for.

    Args:
        n_way: number of classes N.
        in_channels: channels of the images.
        image_size: height and width of the images.
        seed: names the stream of the first alphas, 1e-3 times a standard normal.
        **supernet: space, sizes and style, as :class:`few_shot_nas.spaces.supernet.Supernet` takes them.

    Attributes:
        alphas: cell type -> architecture parameters ``[edges, ops]``, rows and columns in the order of the space's
            menu. In a network with a smaller menu the alphas of the missing ops have no effect and no gradient.
    """

    def __init__(
        self,
        n_way: Ways,
        in_channels: int,
        image_size: int,
        seed: int = 0,
        **supernet: Any,
    ) -> None:
        super().__init__(n_way, in_channels, image_size, **supernet)
        stream = seeding.generator(seed, "alphas")
        self.alphas = nn.ParameterDict()
        self._missing: dict[str, Tensor] = {}
        for cell_type, edges in self.space.menu().items():
            held = torch.tensor([[op in self.menu[cell_type][place] for op in ops] for place, ops in edges.items()])
            self.alphas[cell_type] = nn.Parameter(ALPHA_STD * torch.randn(held.shape, generator=stream))
            if not held.all():
                self._missing[cell_type] = ~held

    def mixture(self) -> Mixture:
        """Return the softmax of each edge's alphas over the ops held; ops that are not held have weight 0."""
        return self.mixture_of(dict(self.alphas.items()))

    def mixture_of(self, alphas: Mapping[str, Tensor]) -> Mixture:
        """Return :meth:`mixture` for other alphas, such as alphas that were adapted to a task.

        Args:
            alphas: cell type -> ``[edges, ops]``.
        """
        return {cell_type: self._softmax(cell_type, own) for cell_type, own in alphas.items()}

    def _softmax(self, cell_type: str, alphas: Tensor) -> Tensor:
        if cell_type not in self._missing:
            return alphas.softmax(dim=-1)
        # Copied to the device once. No buffer, because the menu says it already and a state_dict need not.
        missing = self._missing[cell_type] = self._missing[cell_type].to(alphas.device)
        alphas = alphas.masked_fill(missing, torch.finfo(alphas.dtype).min)
        return alphas.softmax(dim=-1).masked_fill(missing, 0.0)

    def choices(self) -> list[tuple[Decision, Tensor]]:
        """Return every choice that the alphas make and the weights of what it is between, ``[choices]``, their sum 1.

        One choice for each edge that holds ops, between these ops.
        """
        found = []
        for cell_type, edges in self.menu.items():
            weights = self._softmax(cell_type, self.alphas[cell_type])
            all_ops = self.space.menu()[cell_type]
            for row, ((src, dst), ops) in zip(weights, edges.items(), strict=True):
                if ops:
                    columns = [all_ops[src, dst].index(op) for op in ops]
                    found.append((Decision(f"{cell_type}/{src}_{dst}", "edge", tuple(ops)), row[columns]))
        return found

    def features(self, x: Tensor, genotype: Genotype | None = None) -> Tensor:
        """Images ``[B, C, H, W]`` to features ``[B, feature_dim]``: of the mixture, or of one architecture alone.

        Raises:
            InputError: if the genotype is not in the space.
        """
        return self.mixed_features(x, self.mixture()) if genotype is None else super().features(x, genotype)

    def forward(self, x: Tensor, genotype: Genotype | None = None) -> Tensor:
        """Images ``[B, C, H, W]`` to logits ``[B, N]``: of the mixture, or of one architecture alone.

        Raises:
            InputError: if the genotype is not in the space.
        """
        return self.head(self.features(x, genotype))

    def discretise(self) -> Genotype:
        """Return the architecture that the alphas stand for."""
        return self.discretise_alphas(dict(self.alphas.items()))

    def discretise_alphas(self, alphas: Mapping[str, Tensor]) -> Genotype:
        """Return the architecture that other alphas stand for, such as alphas that were adapted to a task.

        Args:
            alphas: cell type -> ``[edges, ops]``.

        Raises:
            InputError: if an alpha is not a number.
        """
        return self.limits.discretise(self.mixture_of(alphas))
