"""Make the children of a search from its settings."""

import dataclasses

from torch import nn

from few_shot_nas.algorithms.base import EpisodicModule
from few_shot_nas.algorithms.linear_head import start_head
from few_shot_nas.algorithms.settings import InnerLoop, Scoring
from few_shot_nas.errors import InputError
from few_shot_nas.search.children import Children
from few_shot_nas.spaces.supernet import Supernet


def shared_children(module: EpisodicModule, net: nn.Module, inner: InnerLoop, scoring: Scoring) -> Children:
    """Return the children that a search holds, and note their settings in its ``hparams``.

    Args:
        module: the search.
        net: its network, a supernet.
        inner: the inner loop of every child; without effect under a closed-form head.
        scoring: what a child classifies with and is rewarded for.

    Raises:
        InputError: if the network is no supernet, or the inner loop is to be swept.
    """
    name = type(module).__name__
    if not isinstance(net, Supernet):
        raise InputError(f"{name} searches a Supernet, but model_class is {type(net).__name__}")
    if inner.engine != "unroll":
        raise InputError(f"{name}: engine={inner.engine}: a search unrolls its children; use unroll")
    start_head(net, inner, name)
    module.hparams.update({**dataclasses.asdict(inner), **dataclasses.asdict(scoring)})
    head = scoring.closed_form()
    return Children(net, inner, head=head, reward_function=scoring.reward_function(), outer_loss=module.outer_loss)
