"""TE-NAS: prune by the condition number of the tangent kernel of a thin network."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from few_shot_nas.algorithms.pruning_search import ONE_CANDIDATE, Pruning, PruningSearch
from few_shot_nas.algorithms.settings import OuterLoop
from few_shot_nas.episode import Episode
from few_shot_nas.kernels.spectrum import Condition
from few_shot_nas.ranges import Count, check_arguments
from few_shot_nas.search.kernel_network import SearchNetwork, batch_condition, draw_weights, search_network
from few_shot_nas.spaces.space import Menu

#: Channels of the thin network of the kernel: 1, and 3 in nb201.
CHANNELS = {"nb201": 3}


class TENAS(PruningSearch):
    """TE-NAS (Chen et al., ICLR 2021, arXiv:2102.11535) on images of few-shot training tasks.

    As :class:`few_shot_nas.algorithms.meta_ntk_nas.MetaNTKNAS`, but with the plain tangent kernel of a thin network (a
    normal and a reduction cell of one channel; three in nb201) under batch statistics, of
    ``kernel_batch`` images, by every parameter named weight. ``prune_number`` is 3 in the published search on CIFAR-10,
    2 on ImageNet, and 1 in nb201.

    Deviations: those of :class:`few_shot_nas.algorithms.pruning_search.PruningSearch`; the stem of the thin network
    pools images larger than 21 pixels.

    Args:
        net: the supernet; its space is searched.
        pruning: how candidates are scored and pruned.
        kernel_batch: images of the kernel, the first of the meta-batch; 14, 24 and 72 in the published searches.
        outer: one candidate per meta-step; max_meta_steps must be at least the number of candidates.
        seed: names every random stream of the run.
    """

    thin_cells: ClassVar[int] = 2

    def __init__(
        self,
        net: nn.Module,
        *,
        pruning: Pruning = Pruning(),
        kernel_batch: Count = 30,
        outer: OuterLoop = ONE_CANDIDATE,
        seed: int = 0,
    ) -> None:
        super().__init__(net, pruning=pruning, outer=outer, seed=seed)
        check_arguments(TENAS.__init__, {"kernel_batch": kernel_batch})
        self.kernel_batch = kernel_batch
        self.hparams["kernel_batch"] = kernel_batch
        self._network: tuple[SearchNetwork, ...] = ()

    def kernel_images(self, episode: Episode) -> Tensor:
        """Return the first images of the meta-batch, queries before supports."""
        images = torch.cat([episode.query_x.flatten(0, 1), episode.support_x.flatten(0, 1)])
        return images[: self.kernel_batch]

    def network(self, images: Tensor) -> SearchNetwork:
        """Return the thin network for images like these."""
        if not self._network:
            own = self.supernet.space
            space = type(own)(CHANNELS.get(own.name, 1), self.thin_cells, own.nodes)
            ways = self.supernet.head.out_features
            self._network = (search_network(space, images.shape[1], images.shape[-1], ways),)
        return self._network[0]

    def condition(self, menu: Menu, images: Tensor, repeat: int, head: str) -> Condition:
        """Return the condition number of the tangent kernel of the ops left."""
        network = self.network(images)
        draw_weights(network, self.pruning.init, "fan_out", *self.stream(repeat), "kernel")
        draw_weights(network.head, "torch_default", "fan_out", *self.stream(repeat), "head", head)
        network.to(next(self.supernet.parameters()))
        return batch_condition(network, self.weights(menu), images)
