"""The networks whose kernels and linear regions a search by pruning measures, run as mixtures of the ops left."""

from collections.abc import Callable
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from few_shot_nas.kernels.meta_ntk import meta_ntk
from few_shot_nas.kernels.ntk import jacobian_ntk, nngp, ntk
from few_shot_nas.kernels.spectrum import Condition, condition_number
from few_shot_nas.nn.init import kaiming_init
from few_shot_nas.nn.norm import BatchNorm2d
from few_shot_nas.seeding import derived_seed
from few_shot_nas.spaces.cell import CellBody
from few_shot_nas.spaces.space import Body, EdgeWeights, Menu, SearchSpace

Init = Literal["kaiming", "torch_default"]


def equal_weights(menu: Menu, like: Tensor) -> EdgeWeights:
    """Return the mixture in which the ops left on an edge have equal weights: ``1 / k`` of k; an empty edge has none.

    Args:
        menu: the ops left.
        like: a tensor of the type and on the device of the network.
    """
    return {
        cell_type: {place: dict.fromkeys(ops, like.new_tensor(1 / max(len(ops), 1))) for place, ops in edges.items()}
        for cell_type, edges in menu.items()
    }


class SearchNetwork(nn.Module):
    """A network that runs mixtures of ops: the body of a space, a last normalisation and ReLU, mean, linear head.

    The last normalisation belongs to the search networks of MetaNTK-NAS and TE-NAS alone; bodies of nb201 have their
    own.

    Args:
        body: a body with all ops of the space.
        n_way: outputs of the head.
    """

    def __init__(self, body: Body, n_way: int) -> None:
        super().__init__()
        self.body = body
        self.norm = BatchNorm2d(body.feature_dim) if isinstance(body, CellBody) else None
        self.head = nn.Linear(body.feature_dim, n_way)

    def features(self, x: Tensor, weights: EdgeWeights) -> Tensor:
        """Images ``[B, C, H, W]`` to features ``[B, D]``."""
        if self.norm is None:
            return self.body.mixed(x, weights)
        return F.relu(self.norm(cast(CellBody, self.body).mixed_maps(x, weights))).mean(dim=(2, 3))

    def forward(self, x: Tensor, weights: EdgeWeights) -> Tensor:
        """Images ``[B, C, H, W]`` to logits ``[B, N]``."""
        return self.head(self.features(x, weights))


def search_network(space: SearchSpace, in_channels: int, image_size: int, n_way: int) -> SearchNetwork:
    """Return the network of a space with all ops that a search starts with."""
    return SearchNetwork(space.body(in_channels, image_size, space.with_fixed_parts(space.menu())), n_way)


def draw_weights(net: nn.Module, init: Init, mode: Literal["fan_in", "fan_out"], *words: int | str) -> None:
    """Draw all weights of a network from the stream that ``words`` name; the global generator stays as it is.

    Args:
        net: changed in place.
        init: ``kaiming``: the normal law by ``mode``, as the papers say; ``torch_default``: what PyTorch's layers
            start with, as the released codes of TE-NAS and MetaNTK-NAS really do, because they do not know the name of
            the law that their launchers ask for.
        mode: by which fan the variance is scaled.
        *words: name of the stream.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(*words))
        on_device = next(net.parameters()).device
        net.cpu()
        if init == "kaiming":
            kaiming_init(net, mode)
        else:
            for layer in net.modules():
                if isinstance(layer, (nn.Conv2d, nn.Linear)):
                    layer.reset_parameters()
        net.to(on_device)


def adapted_condition(
    net: SearchNetwork,
    weights: EdgeWeights,
    images: Tensor,
    *,
    kernel: Literal["MAML", "ANIL", "NTK"],
    n_query: int,
    n_support: int,
    inner_lr_time: float,
    reg: float,
) -> Condition:
    """Condition number of the MetaNTK of a mixture, or of its NTK.

    Args:
        net: a network that treats each image on its own.
        weights: the mixture.
        images: of some tasks, ordered as :func:`few_shot_nas.kernels.meta_ntk.meta_ntk` says.
        kernel: what the inner loop adapts: MAML all weights, ANIL the head; NTK is the plain kernel of all images.
        n_query: queries of a task.
        n_support: support images of a task.
        inner_lr_time: of the inner loop.
        reg: of the inner loop.
    """
    seen: list[Tensor] = []

    def forward(x: Tensor) -> Tensor:
        features = net.features(x, weights)
        seen.append(features.detach())
        return net.head(features)

    gram, eps = ntk(forward, net.modules(), images), torch.finfo(images.dtype).eps
    if kernel == "NTK":
        return condition_number(gram, eps=eps)
    own = gram if kernel == "MAML" else nngp(seen[0], net.head.out_features)
    sizes = {"n_query": n_query, "n_support": n_support}
    return condition_number(meta_ntk(gram, own, **sizes, inner_lr_time=inner_lr_time, reg=reg), eps=eps)


def batch_condition(net: SearchNetwork, weights: EdgeWeights, images: Tensor) -> Condition:
    """Condition number of the NTK of a mixture whose images share their batch statistics: that of TE-NAS.

    It counts every parameter named weight, scales of normalisation layers and the head included.
    """
    params = [parameter for name, parameter in net.named_parameters() if name.endswith("weight")]
    gram = jacobian_ntk(net(images, weights).sum(dim=1), params)
    return condition_number(gram, eps=torch.finfo(images.dtype).eps)


def mixture_of(body: Body, weights: EdgeWeights) -> Callable[[Tensor], Tensor]:
    """Return the forward pass of a body through a mixture."""
    return lambda x: body.mixed(x, weights)
