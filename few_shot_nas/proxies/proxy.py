"""What a proxy is: a score of a network on one task, without training it."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from few_shot_nas.episode import SingleTask, SupportSet

#: What a proxy may be asked about; it reads no label of a query.
ScoredTask = SupportSet | SingleTask


@dataclass(frozen=True)
class Proxy:
    """A score of a network at the weights it has.

    Attributes:
        of_copy: (a copy of the network in evaluation mode, the task) -> the score; it may do with the copy what it
            likes. It runs with gradients on, and with the global generator at the same state every time.
        higher_is_better: whether a higher score speaks for the network.
        least_shots: support images of a class that it needs where the task has no queries.
    """

    of_copy: Callable[[nn.Module, ScoredTask], float]
    higher_is_better: bool = True
    least_shots: int = 1

    def score(self, net: nn.Module, task: ScoredTask) -> float:
        """Score a network; the network, its mode and the state of the random generators stay as they are.

        Args:
            net: a network of images ``[B, C, H, W]`` to logits ``[B, N]``, with ``features`` and a linear ``head``.
            task: the images and labels that the proxy may look at. They are those of the support set, and the images
                of the queries where it says so.

        Raises:
            ValueError: if the proxy is not defined for such a network.
        """
        private = copy.deepcopy(net).eval().requires_grad_(True)
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(0)
            return float(self.of_copy(private, task))

    def reward(self, net: nn.Module, task: ScoredTask) -> float:
        """Return the score with the sign that makes the higher one better."""
        return self.score(net, task) if self.higher_is_better else -self.score(net, task)
