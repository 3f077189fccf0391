"""Linear regions: how finely an architecture cuts up the space of its inputs."""

import dataclasses
from collections.abc import Callable

import torch
from torch import nn

from few_shot_nas.errors import InputError
from few_shot_nas.kernels import linear_regions as regions
from few_shot_nas.nn.init import kaiming_init
from few_shot_nas.proxies.proxy import Proxy, ScoredTask
from few_shot_nas.seeding import generator
from few_shot_nas.spaces import SPACES
from few_shot_nas.spaces.cell_space import CellSpace
from few_shot_nas.spaces.genotype import Genotype
from few_shot_nas.spaces.nb201 import Nb201
from few_shot_nas.spaces.space import Body, Menu, SearchSpace

#: Inputs of a pool.
CROPS = 1000
#: Spaces whose networks run on three pixels: their cells keep or halve the size and do not pool it away.
SPACES_OF_CELLS = tuple(name for name, space in SPACES.items() if issubclass(space, (CellSpace, Nb201)))
#: The least image size that bodies are built for; their layers then take smaller images too.
LEAST_SIZE = 8


def thin_body(name: str, nodes: int, menu: Callable[[SearchSpace], Menu]) -> Body:
    """Return a body of one channel with a normal and a reduction cell, for images of one channel.

    Where the stem would turn one channel into one, there is none.

    Args:
        name: the space.
        nodes: nodes of a cell.
        menu: (the space of this size) -> the ops to hold, fixed parts included.

    Raises:
        InputError: if the space has no cells that work on three pixels.
    """
    if name not in SPACES_OF_CELLS:
        raise InputError(
            f"linear_regions: space {name} given, it pools three pixels away; "
            f"needed is one of {', '.join(SPACES_OF_CELLS)}"
        )
    space = SPACES[name](1, 2, nodes)
    body = space.body(1, LEAST_SIZE, menu(space))
    stem = body.get_submodule("stem")
    if any(isinstance(layer, nn.Conv2d) and layer.out_channels == 1 for layer in stem.children()):
        body.set_submodule("stem", nn.Identity())
    return body


def thin_network(genotype: Genotype) -> tuple[Body, Genotype]:
    """Return the thin body of one architecture, and the architecture at its size.

    Weights: Kaiming's normal law by fan-in.

    Raises:
        InputError: as :func:`thin_body`.
    """
    thin = dataclasses.replace(genotype, channels=1, cells=2)
    body = thin_body(genotype.space, genotype.nodes, lambda space: space.menu_of(thin))
    kaiming_init(body, "fan_in")
    return body, thin


def linear_regions(net: nn.Module, task: ScoredTask) -> float:
    """Number of linear regions of the architecture's thin network that 1000 crops of the support images fall into.

    The crops have one channel and 3 x 3 pixels: on larger inputs every architecture has as many regions as there are
    inputs. The network has one channel, two cells and fresh weights; those of ``net`` are not used. Batch
    normalisation takes its statistics from all crops. Needs no labels.

    Source: Chen et al., ICLR 2021, arXiv:2102.11535, section 3.1.2. Deviation: one pool of 1000 crops
    (in the authors' code three).

    Raises:
        InputError: if ``net`` has no genotype, or one whose space has no such thin network.
    """
    genotype = getattr(net, "genotype", None)
    if genotype is None:
        raise InputError(f"linear_regions: counts those of an architecture, but {type(net).__name__} has no genotype")
    pool = regions.crop_pool(task.support_x, CROPS, generator(0, "crops"))
    body, thin = thin_network(genotype)
    body = body.to(task.support_x)
    with torch.no_grad():
        return regions.linear_regions(lambda crops: body(crops, thin), pool, batch=CROPS)


LINEAR_REGIONS = Proxy(linear_regions)
