"""Condition number of the MetaNTK: how evenly a network learns the queries once it has adapted to the support set."""

import math

import torch
from torch import Tensor, nn

from few_shot_nas.episode import SupportSet
from few_shot_nas.kernels.meta_ntk import meta_ntk
from few_shot_nas.kernels.ntk import ntk
from few_shot_nas.kernels.spectrum import condition_number
from few_shot_nas.nn.group_norm import group_normalised
from few_shot_nas.proxies.ntk_condition import GROUPS
from few_shot_nas.proxies.proxy import Proxy, ScoredTask

#: Regularisation of the released searches.
REG = 1e-3


def halves(task: ScoredTask) -> tuple[Tensor, Tensor]:
    """Return the support images and the images that take the part of the queries, without labels.

    An episode has both. Of a support set alone, the first half of each class's images (rounded down) stays support,
    and the others are the queries.

    Raises:
        ValueError: if there are no queries and a class has a single image.
    """
    if not isinstance(task, SupportSet):
        return task.support_x, task.query_x
    by_class = [torch.nonzero(task.support_y == label).flatten() for label in task.support_y.unique()]
    if min(map(len, by_class)) < 2:
        raise ValueError("meta_ntk_condition needs queries, or two support images of each class")
    support, query = zip(*((own[: len(own) // 2], own[len(own) // 2 :]) for own in by_class), strict=True)
    return task.support_x[torch.cat(support)], task.support_x[torch.cat(query)]


def meta_ntk_condition(net: nn.Module, task: ScoredTask) -> float:
    """Logarithm of the condition number of the MetaNTK of one task, MAML's at infinite time; lower is better.

    Uses the images of the queries where there are any, and no labels. Batch normalisation is replaced by group
    normalisation, as in :func:`few_shot_nas.proxies.ntk_condition.ntk_condition`.

    Source: Wang et al., CVPR 2022 (MetaNTK-NAS); ``reg=1e-3``. Deviations: 4 groups of channels (there 16); one task
    at a time; the network's own head; a spectrum that rounding decides counts as the worst.
    """
    support, query = halves(task)
    net = group_normalised(net, GROUPS)
    gram = ntk(net, net.modules(), torch.cat([query, support]))
    meta = meta_ntk(gram, gram, n_query=len(query), n_support=len(support), inner_lr_time=math.inf, reg=REG)
    return condition_number(meta, eps=torch.finfo(support.dtype).eps).log


META_NTK_CONDITION = Proxy(meta_ntk_condition, higher_is_better=False, least_shots=2)
