"""Make the children of a search from its settings."""

import dataclasses

from few_shot_nas.algorithms.linear_head import start_head
from few_shot_nas.algorithms.on_supernet import OnSupernet
from few_shot_nas.algorithms.settings import InnerLoop, Scoring
from few_shot_nas.errors import InputError
from few_shot_nas.search.children import Children


def shared_children(module: OnSupernet, inner: InnerLoop, scoring: Scoring) -> Children:
    """Return the children that a search holds.

    The settings are noted in the ``hparams`` of the search, and ``uses_head`` is set to whether its children use the
    supernet's head: closed forms take any number of ways.

    Args:
        module: the search.
        inner: the inner loop of every child; without effect under a closed-form head.
        scoring: what a child classifies with and is rewarded for.

    Raises:
        InputError: if the inner loop is to be swept.
    """
    name = type(module).__name__
    if inner.engine != "unroll":
        raise InputError(f"{name}: engine={inner.engine}: a search unrolls its children; use unroll")
    start_head(module.net, inner, name)
    module.hparams.update({**dataclasses.asdict(inner), **dataclasses.asdict(scoring)})
    head = scoring.closed_form()
    module.uses_head = head is None
    return Children(
        module.supernet,
        inner,
        head=head,
        reward_function=scoring.reward_function(),
        outer_loss=module.outer_loss,
    )
