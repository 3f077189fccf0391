"""Scores of architectures by a proxy, at fresh weights."""

from collections.abc import Sequence

import torch
from torch import nn

from few_shot_nas.nn.init import xavier_init
from few_shot_nas.proxies import PROXIES
from few_shot_nas.proxies.proxy import ScoredTask
from few_shot_nas.registry import lookup
from few_shot_nas.seeding import derived_seed
from few_shot_nas.spaces.genotype import Genotype
from few_shot_nas.spaces.supernet import DerivedNetwork


def untrained_score(name: str, genotype: Genotype, tasks: Sequence[ScoredTask], seed: int) -> float:
    """Mean of a proxy over tasks, each with a freshly initialised network of one architecture; higher is better.

    A task starts all architectures from the same seed, so that what they share (a stem) starts equal.

    Args:
        name: the proxy, a key of :data:`few_shot_nas.proxies.PROXIES`. Where lower is better the sign is turned.
        genotype: the architecture; no weights of a supernet are used.
        tasks: one or more.
        seed: of the initial weights.

    Raises:
        ValueError: if there is no task, or the proxy is not defined for the network.
    """
    if not tasks:
        raise ValueError("untrained_score() needs a task")
    proxy, scores = lookup(PROXIES, name, "proxy"), []
    for number, task in enumerate(tasks):
        images = task.support_x
        ways = int(task.support_y.max()) + 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, name, number))
            net = DerivedNetwork(1, images.shape[1], images.shape[-1], genotype)
            # Drawn last, so that the other weights do not depend on the number of ways.
            net.head = nn.Linear(net.feature_dim, ways)
            xavier_init(net.head)
        scores.append(proxy.reward(net.to(images), task))
    return sum(scores) / len(scores)
