"""One network that holds every architecture of a space, and the network of one architecture."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from few_shot_nas.errors import InputError
from few_shot_nas.nn.init import xavier_init
from few_shot_nas.ranges import Cells, Count, Nodes, Ways, Width
from few_shot_nas.registry import lookup
from few_shot_nas.spaces import SPACES
from few_shot_nas.spaces.genotype import Edge, Genotype
from few_shot_nas.spaces.limits import Limits
from few_shot_nas.spaces.op_costs import Cost, OpCosts
from few_shot_nas.spaces.ops import LayerStyle
from few_shot_nas.spaces.space import Menu, Mixture, SearchSpace

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

    With ``affine=False`` and ``norm_pools`` it is the search network of DARTS and T-NAS: their derived networks have
    affine BN and bare pools.

    Weights: Xavier-uniform convolutions and head, zero biases (:func:`few_shot_nas.nn.init.xavier_init`).

    Args:
        n_way: number of classes N.
        in_channels: channels of the images.
        image_size: height and width of the images.
        space: the search space, a key of :data:`few_shot_nas.spaces.SPACES`.
        channels: channels of the first cell.
        cells: number of cells or layers; None takes the space's own default.
        nodes: intermediate nodes per cell; None takes the space's own default.
        affine: whether the BN of the searched layers learn a scale and a shift; that of the stem always does.
        norm_pools: whether pools without a BN of their own get one.
        pad: where a factorised reduction pads odd sizes; T-NAS does it at the left and top.
        menu: which ops of the space to hold; a cell type that it does not name keeps all. None holds all.
        max_params: most parameters of an architecture that a search may end with; null sets no limit. Searches that
            draw architectures draw only such. Searches that weigh or prune ops change what they end with until it fits.
        max_macs: most multiply-accumulates per image of an architecture that a search may end with, likewise.

    Attributes:
        limits: what architectures may cost.
        space: the :class:`few_shot_nas.spaces.space.SearchSpace`.
        menu: the ops held, on every searched edge.
        pad: as given; the network of one architecture takes it over with the weights.
        feature_dim: length of the feature vectors.
        embedding_dim: length of a task embedding.

    Raises:
        InputError: for an unknown space, or sizes that do not fit.
    """

    def __init__(
        self,
        n_way: Ways,
        in_channels: int,
        image_size: int,
        space: str = "darts_fewshot",
        channels: Width = 16,
        cells: Cells | None = None,
        nodes: Nodes | None = None,
        affine: bool = True,
        norm_pools: bool = False,
        pad: Literal["right", "left"] = "right",
        menu: Menu | None = None,
        max_params: Count | None = None,
        max_macs: Count | None = None,
    ) -> None:
        super().__init__()
        sizes = {name: value for name, value in (("cells", cells), ("nodes", nodes)) if value is not None}
        self.space = lookup(SPACES, space, "space")(channels=channels, **sizes)
        self.menu = self.space.restricted(menu or {})
        self._holds_all = self.menu == self.space.menu()
        self.pad = pad
        style = LayerStyle(affine, norm_pools, pad)
        self.body = self.space.body(in_channels, image_size, self.space.with_fixed_parts(self.menu), style)
        self.feature_dim = self.body.feature_dim
        self.head = nn.Linear(self.feature_dim, n_way)
        xavier_init(self)
        self._shape = (n_way, in_channels, image_size)
        self._op_costs: OpCosts | None = None
        self._checked: Genotype | None = None
        self.limits = Limits(self.space, self.cost, max_params, max_macs)
        self._owner = self._owners()
        with torch.no_grad():
            self.embedding_dim = len(self.task_embedding(torch.zeros(2, in_channels, image_size, image_size)))

    def cost(self, genotype: Genotype) -> Cost:
        """Return what the network of an architecture costs, for the images and classes of this supernet."""
        if self._op_costs is None:
            self._op_costs = OpCosts(self.space, *self._shape)
        return self._op_costs.cost(genotype)

    def _owners(self) -> dict[str, tuple[str, Edge] | None]:
        """Map each parameter to the cell type and edge whose op it is a part of; None if it is on every path."""
        prefixes = [(f"body.{prefix}", (cell_type, edge)) for prefix, cell_type, edge in self.body.owned_ops()]
        owners: dict[str, tuple[str, Edge] | None] = {name: None for name, _ in self.named_parameters()}
        for prefix, owner in prefixes:
            owners.update({name: owner for name in owners if name.startswith(prefix)})
        return owners

    def task_embedding(self, x: Tensor) -> Tensor:
        """Describe a set of images ``[B, C, H, W]`` by what all architectures see of it: ``[D]``.

        It is the mean over the images of the stem's features (of the images, in a space without stem), pooled to at
        most 4 by 4 positions and divided by the root of D. A mean over all positions would be the same for all tasks,
        because batch normalisation fixes it.
        """
        stem = getattr(self.body, "stem", None)
        maps = x if stem is None else stem(x)
        places = min(EMBEDDING_SIDE, maps.shape[-1])
        mean = F.adaptive_avg_pool2d(maps, places).mean(dim=0).flatten()
        return mean / mean.numel() ** 0.5

    def features(self, x: Tensor, genotype: Genotype) -> Tensor:
        """Run only the ops of ``genotype``: images ``[B, C, H, W]`` to features ``[B, feature_dim]``.

        Raises:
            InputError: if the genotype is not in the space, or has an op that is not held.
        """
        self._check(genotype)
        return self.body(x, genotype)

    def _check(self, genotype: Genotype) -> None:
        """Refuse a genotype that the network cannot run; the one that was looked at last is not looked at again."""
        if genotype is self._checked:
            return
        self.space.encode(genotype)
        if not self._holds_all:
            for cell_type, edges in self.space.chosen(genotype).items():
                for place, (op,) in edges.items():
                    if op not in self.menu[cell_type][place]:
                        raise InputError(
                            f"genotype: op {op} on edge {place[0]}->{place[1]} of {cell_type} is not held by this "
                            f"supernet; it has {', '.join(self.menu[cell_type][place]) or 'none of its ops'} there"
                        )
        self._checked = genotype

    def forward(self, x: Tensor, genotype: Genotype) -> Tensor:
        """Run only the ops of ``genotype``: images ``[B, C, H, W]`` to logits ``[B, N]``.

        Raises:
            InputError: if the genotype is not in the space.
        """
        return self.head(self.features(x, genotype))

    def mixed_features(self, x: Tensor, mixture: Mixture, active: Menu | None = None) -> Tensor:
        """Run a mixture of the ops held: images ``[B, C, H, W]`` to features ``[B, feature_dim]``.

        Args:
            x: the images.
            mixture: weights ``[edges, ops]`` for each cell type, over all ops of the space's menu, such as softmaxes of
                alphas. Those of ops that are not held have no effect.
            active: the ops to run; None runs all that are held. For weights of which some are exactly 0,
                :meth:`few_shot_nas.spaces.space.SearchSpace.active_ops` says which, once for many passes.

        Raises:
            ValueError: if the mixture has not the shapes of the space's menu.
        """
        kept = (self.menu,) if active is None else (self.menu, active)
        return self.body.mixed(x, self.space.edge_weights(mixture, *kept))

    def active_params(self, genotype: Genotype) -> tuple[str, ...]:
        """Return the names of the parameters that a forward pass with ``genotype`` uses, in the module's order.

        Raises:
            InputError: if the genotype is not in the space, or has an op that is not held.
        """
        self._check(genotype)
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
        pad: where a factorised reduction pads odd sizes; T-NAS does it at the left and top.

    Attributes:
        genotype: the architecture.
        feature_dim: length of the feature vectors.

    Raises:
        InputError: if the genotype's space is unknown or does not contain it, or the images are too small.
    """

    def __init__(
        self,
        n_way: int,
        in_channels: int,
        image_size: int,
        genotype: Genotype,
        pad: Literal["right", "left"] = "right",
    ) -> None:
        super().__init__()
        self.genotype = genotype
        space = space_of(genotype)
        self.body = space.body(in_channels, image_size, space.menu_of(genotype), LayerStyle(pad=pad))
        self.feature_dim = self.body.feature_dim
        self.head = nn.Linear(self.feature_dim, n_way)
        xavier_init(self)

    def features(self, x: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` to features ``[B, feature_dim]``."""
        return self.body(x, self.genotype)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` to logits ``[B, N]``."""
        return self.head(self.features(x))
