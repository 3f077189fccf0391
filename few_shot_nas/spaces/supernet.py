"""One network that holds every architecture of a space, and the network of one architecture."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from few_shot_nas.nn.init import xavier_init
from few_shot_nas.registry import lookup
from few_shot_nas.spaces import SPACES
from few_shot_nas.spaces.genotype import Edge, Genotype
from few_shot_nas.spaces.space import SearchSpace

#: Height and width of the map that describes a task.
EMBEDDING_SIDE = 4


def space_of(genotype: Genotype) -> SearchSpace:
    """Return the space a genotype belongs to, after checking that it does.

    Raises:
        InputError: if the space is unknown or the genotype is not in it.
    """
    space = lookup(SPACES, genotype.space, "space")(genotype.channels, genotype.cells, genotype.nodes)
    space.encode(genotype)
    return space


class Supernet(nn.Module):
    """The shared weights of all architectures of a space; a forward pass runs one of them.

    Weights: Xavier-uniform convolutions and head, zero biases (:func:`few_shot_nas.nn.init.xavier_init`).

    Args:
        n_way: number of classes N.
        in_channels: channels of the images.
        image_size: height and width of the images.
        space: the search space, a key of :data:`few_shot_nas.spaces.SPACES`.
        channels: channels of the first cell.
        cells: number of cells or layers; None takes the space's own default.
        nodes: intermediate nodes per cell; None takes the space's own default.

    Attributes:
        space: the :class:`few_shot_nas.spaces.space.SearchSpace`.
        feature_dim: length of the feature vectors.
        embedding_dim: length of a task embedding.

    Raises:
        InputError: for an unknown space, or sizes that do not fit.
    """

    def __init__(
        self,
        n_way: int,
        in_channels: int,
        image_size: int,
        space: str = "darts_fewshot",
        channels: int = 16,
        cells: int | None = None,
        nodes: int | None = None,
    ) -> None:
        super().__init__()
        sizes = {name: value for name, value in (("cells", cells), ("nodes", nodes)) if value is not None}
        self.space = lookup(SPACES, space, "space")(channels=channels, **sizes)
        self.body = self.space.body(in_channels, image_size, self.space.menu())
        self.feature_dim = self.body.feature_dim
        self.head = nn.Linear(self.feature_dim, n_way)
        xavier_init(self)
        self._owner = self._owners()
        with torch.no_grad():
            self.embedding_dim = len(self.task_embedding(torch.zeros(2, in_channels, image_size, image_size)))

    def _owners(self) -> dict[str, tuple[str, Edge] | None]:
        """Map each parameter to the cell type and edge whose op it is a part of; None if it is on every path."""
        prefixes = [(f"body.{prefix}", (cell_type, edge)) for prefix, cell_type, edge in self.body.owned_ops()]
        owners: dict[str, tuple[str, Edge] | None] = {name: None for name, _ in self.named_parameters()}
        for prefix, owner in prefixes:
            owners.update({name: owner for name in owners if name.startswith(prefix)})
        return owners

    def task_embedding(self, x: Tensor) -> Tensor:
        """Describe a set of images ``[B, C, H, W]`` by what all architectures see of it: ``[D]``.

        The mean over the images of the stem's features (of the images, in a space without stem), pooled to at most 4 by
        4 positions: their mean over all positions would be what batch normalisation makes it, the same for all tasks.
        Divided by the root of D.
        """
        stem = getattr(self.body, "stem", None)
        maps = x if stem is None else stem(x)
        places = min(EMBEDDING_SIDE, maps.shape[-1])
        mean = F.adaptive_avg_pool2d(maps, places).mean(dim=0).flatten()
        return mean / mean.numel() ** 0.5

    def features(self, x: Tensor, genotype: Genotype) -> Tensor:
        """Run only the ops of ``genotype``: images ``[B, C, H, W]`` to features ``[B, feature_dim]``.

        Raises:
            InputError: if the genotype is not in the space.
        """
        self.space.encode(genotype)
        return self.body(x, genotype)

    def forward(self, x: Tensor, genotype: Genotype) -> Tensor:
        """Run only the ops of ``genotype``: images ``[B, C, H, W]`` to logits ``[B, N]``.

        Raises:
            InputError: if the genotype is not in the space.
        """
        return self.head(self.features(x, genotype))

    def active_params(self, genotype: Genotype) -> tuple[str, ...]:
        """Return the names of the parameters that a forward pass with ``genotype`` uses, in the module's order.

        Raises:
            InputError: if the genotype is not in the space.
        """
        self.space.encode(genotype)
        chosen = {
            (cell_type, Edge(op, *place))
            for cell_type, places in self.space.menu_of(genotype).items()
            for place, ops in places.items()
            for op in ops
        }
        return tuple(name for name, owner in self._owner.items() if owner is None or owner in chosen)


class DerivedNetwork(nn.Module):
    """The network of one architecture: a :class:`Supernet` with one op per edge, and the same parameter names.

    So ``{name: supernet.state_dict()[name] for name in net.state_dict()}`` loads strictly, and then
    ``net(x) == supernet(x, genotype)``.

    Args:
        n_way: number of classes N.
        in_channels: channels of the images.
        image_size: height and width of the images.
        genotype: the architecture.

    Attributes:
        genotype: the architecture.
        feature_dim: length of the feature vectors.

    Raises:
        InputError: if the genotype's space is unknown or does not contain it, or the images are too small.
    """

    def __init__(self, n_way: int, in_channels: int, image_size: int, genotype: Genotype) -> None:
        super().__init__()
        self.genotype = genotype
        space = space_of(genotype)
        self.body = space.body(in_channels, image_size, space.menu_of(genotype))
        self.feature_dim = self.body.feature_dim
        self.head = nn.Linear(self.feature_dim, n_way)
        xavier_init(self)

    def features(self, x: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` to features ``[B, feature_dim]``."""
        return self.body(x, self.genotype)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` to logits ``[B, N]``."""
        return self.head(self.features(x))
