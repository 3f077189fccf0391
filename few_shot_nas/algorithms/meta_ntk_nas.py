"""MetaNTK-NAS: prune by the condition number of the kernel that meta-learning follows."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from few_shot_nas.algorithms.pruning_search import ONE_CANDIDATE, Pruning, PruningSearch
from few_shot_nas.algorithms.settings import OuterLoop
from few_shot_nas.episode import Episode
from few_shot_nas.kernels.spectrum import Condition
from few_shot_nas.nn.group_norm import group_normalised
from few_shot_nas.ranges import Count, NonNegative
from few_shot_nas.search.kernel_network import SearchNetwork, adapted_condition, draw_weights
from few_shot_nas.settings import Settings
from few_shot_nas.spaces.space import Menu

#: From here on the released code takes the time of the inner loop as infinite.
INFINITE = 1000.0


@dataclass(frozen=True)
class MetaKernel(Settings):
    """Which kernel is well conditioned in a good architecture.

    Attributes:
        kernel: the MetaNTK of MAML, whose inner loop adapts all weights, or of ANIL, which adapts the head; NTK is the
            plain kernel of all images of the meta-batch.
        inner_lr_time: rate of the inner loop times its number of steps; 1000 and more is infinite.
        reg: added to the support kernel before it is inverted.
        norm_groups: most groups of channels that are normalised together.
    """

    kernel: Literal["MAML", "ANIL", "NTK"] = "MAML"
    inner_lr_time: NonNegative = 1000.0
    reg: NonNegative = 1e-3
    norm_groups: Count = 16

    @property
    def time(self) -> float:
        """The time of the inner loop, infinite where it is said to be."""
        return math.inf if self.inner_lr_time >= INFINITE else self.inner_lr_time


class MetaNTKNAS(PruningSearch):
    """MetaNTK-NAS (Wang et al., CVPR 2022, arXiv:2203.09137): no weight is trained while it searches.

    Kernel and linear regions of the mixture of all ops are compared with kernel and regions without one op. In every
    round the op with the least sum of ranks goes from each edge, and in the end all edges of a node but two go. The
    kernel is that of ``meta_batch_size`` tasks with ``train_query`` queries a class, of the network with group
    normalisation and a last normalisation and ReLU before its mean. Linear regions are counted in a network of one
    channel and two cells with batch normalisation. The published searches take ``space=metantk``, ``channels=48``, 5 or
    8 cells and images of 32 pixels (``--image_size=32``); ``darts_fewshot`` is the same with a stem that pools to 21.

    Deviations: those of :class:`PruningSearch`; images are not augmented unless ``augment`` says so; the weights of all
    channels are drawn by Kaiming's normal law (fan-out for kernels, fan-in for regions), see ``init``.

    Args:
        net: the supernet; its space is searched.
        meta: which kernel.
        pruning: how candidates are scored and pruned.
        outer: one candidate per meta-step; max_meta_steps must be at least the number of candidates.
        seed: names every random stream of the run.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        meta: MetaKernel = MetaKernel(),
        pruning: Pruning = Pruning(),
        outer: OuterLoop = ONE_CANDIDATE,
        seed: int = 0,
    ) -> None:
        super().__init__(net, pruning=pruning, outer=outer, seed=seed)
        self.meta = meta
        network = SearchNetwork(self.supernet.body, self.supernet.head.out_features)
        self._network = (group_normalised(network, meta.norm_groups),)
        self._sizes = {"n_query": 0, "n_support": 0}
        self.hparams.update(dataclasses.asdict(meta))

    def kernel_images(self, episode: Episode) -> Tensor:
        """Return the queries of all tasks and then their supports."""
        self._sizes = {"n_query": episode.query_x.shape[1], "n_support": episode.support_x.shape[1]}
        return torch.cat([episode.query_x.flatten(0, 1), episode.support_x.flatten(0, 1)])

    def condition(self, menu: Menu, images: Tensor, repeat: int, head: str) -> Condition:
        """Return the condition number of the MetaNTK of the ops left."""
        network = self._network[0]
        assert isinstance(network, SearchNetwork)  # a copy of one
        draw_weights(network, self.pruning.init, "fan_out", *self.stream(repeat), "kernel")
        draw_weights(network.head, "torch_default", "fan_out", *self.stream(repeat), "head", head)
        network.to(next(self.supernet.parameters()))
        how = {"kernel": self.meta.kernel, "inner_lr_time": self.meta.time, "reg": self.meta.reg}
        return adapted_condition(network, self.weights(menu), images, **how, **self._sizes)  # type: ignore[arg-type]
