"""What each op of a space costs, so that an architecture's cost is a sum and no network is built for it."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from few_shot_nas.nn.cost import count_parameters
from few_shot_nas.spaces.genotype import Edge, Genotype
from few_shot_nas.spaces.space import SearchSpace


class Cost(NamedTuple):
    """Parameters of a network, and multiply-accumulates per image."""

    params: int
    macs: int


class OpCosts:
    """The cost of every architecture of a space as a fixed part and a part for each of its ops.

    All ops of an edge read the same maps, so one pass through the mixture of all of them says what each costs. The pass
    runs on shapes only.

    Args:
        space: the space.
        n_way: outputs of the head.
        in_channels: channels of the images.
        image_size: height and width of the images.
    """

    def __init__(self, space: SearchSpace, n_way: int, in_channels: int, image_size: int) -> None:
        self.space = space
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            body = space.body(in_channels, image_size, space.with_fixed_parts(space.menu()))
            images = torch.empty(2, in_channels, image_size, image_size)
            mixture = {
                cell_type: torch.ones(len(edges), len(next(iter(edges.values()))))
                for cell_type, edges in space.menu().items()
            }
            counter, spent = FlopCounterMode(display=False), dict[str, int]()

            def count(name: str, sign: int) -> Callable[..., None]:
                def hook(*_: object) -> None:
                    spent[name] = spent.get(name, 0) + sign * counter.get_total_flops()

                return hook

            owned = [(prefix.removesuffix("."), cell_type, edge) for prefix, cell_type, edge in body.owned_ops()]
            for name, _, _ in owned:
                # The op's layers one by one: a mixture may run them apart, and share layers without weights.
                for layer in body.get_submodule(name).modules():
                    if not list(layer.children()):
                        layer.register_forward_pre_hook(count(name, -1))
                        layer.register_forward_hook(count(name, 1))
            with counter, torch.no_grad():
                body.mixed(images, space.edge_weights(mixture))
        self.by_op: dict[tuple[str, Edge], Cost] = {}
        for name, cell_type, edge in owned:
            before = self.by_op.get((cell_type, edge), Cost(0, 0))
            params = before.params + count_parameters(body.get_submodule(name))
            self.by_op[cell_type, edge] = Cost(params, before.macs + spent.get(name, 0) // (2 * len(images)))
        head = body.feature_dim * n_way
        self.fixed = Cost(
            count_parameters(body) + head + n_way - sum(cost.params for cost in self.by_op.values()),
            counter.get_total_flops() // (2 * len(images)) + head - sum(cost.macs for cost in self.by_op.values()),
        )

    def cost(self, genotype: Genotype) -> Cost:
        """Return the cost of the network of an architecture."""
        own = [
            self.by_op[cell_type, Edge(op, *place)]
            for cell_type, edges in self.space.menu_of(genotype).items()
            for place, ops in edges.items()
            for op in ops
            if (cell_type, Edge(op, *place)) in self.by_op
        ]
        params, macs = (sum(column) for column in zip(self.fixed, *own, strict=True))
        return Cost(params, macs)
