"""What searches over a supernet have in common: the network is the supernet."""

from typing import Any, cast

from torch import nn

from few_shot_nas.algorithms.base import EpisodicModule
from few_shot_nas.algorithms.settings import OuterLoop
from few_shot_nas.errors import InputError
from few_shot_nas.spaces.supernet import Supernet

#: Under this name checkpoints of earlier versions hold the network a second time.
SECOND_NAME = "supernet."


class OnSupernet(EpisodicModule):
    """A learner whose network is a supernet.

    Args:
        net: the supernet.
        outer: the outer loop.
        seed: names every random stream of the run.

    Raises:
        InputError: if the network is no supernet.
    """

    def __init__(self, net: nn.Module, *, outer: OuterLoop, seed: int) -> None:
        super().__init__(net, outer=outer, seed=seed)
        if not isinstance(net, Supernet):
            raise InputError(f"{type(self).__name__} searches a Supernet, but model_class is {type(net).__name__}")
        self.register_load_state_dict_pre_hook(_forget_second_name)

    @property
    def supernet(self) -> Supernet:
        """The network. A second attribute would put its tensors into every checkpoint twice."""
        return cast(Supernet, self.net)


def _forget_second_name(module: nn.Module, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
    for name in [name for name in state_dict if name.startswith(prefix + SECOND_NAME)]:
        del state_dict[name]
