"""Ways to compute the same meta-gradient: one interface, one file each."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from few_shot_nas.meta.engines.folded import folded
from few_shot_nas.meta.engines.graph import Graph
from few_shot_nas.meta.engines.sweep import sweep
from few_shot_nas.meta.engines.unroll import unroll
from few_shot_nas.meta.engines.vmap import mapped
from few_shot_nas.meta.functional import takes_tasks
from few_shot_nas.meta.problem import MakeProblem, Outcome, Plan

#: (make, data, plan) -> outcome; the data are a Task, or an Episode for an engine with ``whole_batch``.
Run = Callable[[MakeProblem, Any, Plan], Outcome]


class Engine(NamedTuple):
    """An entry of ``ENGINES``.

    Attributes:
        start: the tensors that are trained -> the function that runs the engine.
        whole_batch: whether the engine takes the tasks of a meta-batch at once.
        takes_any_network: whether the network need not pass :func:`few_shot_nas.meta.functional.takes_tasks`.
    """

    start: Callable[[Sequence[Tensor]], Run]
    whole_batch: bool
    takes_any_network: bool

    def serves(self, net: nn.Module) -> bool:
        """Whether the engine can run ``net``."""
        return self.takes_any_network or takes_tasks(net)


ENGINES: Mapping[str, Engine] = {
    "unroll": Engine(lambda trained: unroll, whole_batch=False, takes_any_network=True),
    "sweep": Engine(lambda trained: sweep, whole_batch=False, takes_any_network=True),
    "folded": Engine(lambda trained: folded, whole_batch=True, takes_any_network=False),
    "vmap": Engine(lambda trained: mapped, whole_batch=True, takes_any_network=True),
    "graph": Engine(Graph, whole_batch=True, takes_any_network=False),
}
