"""Drop-path: leave out the whole output of an op for single images, so that no path of a cell is relied on."""

from torch import Tensor, nn

from few_shot_nas.errors import InputError


class DropPath(nn.Module):
    """Zero an output for each image by itself with probability ``rate``, and divide the others by ``1 - rate``.

    Larsson et al., ICLR 2017, arXiv:1605.07648; for each image by itself as in the released codes of DARTS and
    MetaNTK-NAS. The identity in evaluation mode. The masks come from the global generator, as those of dropout do.

    Attributes:
        rate: the probability, set by :func:`set_drop_path`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rate = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to the same shape."""
        if not self.training or not self.rate:
            return x
        kept = x.new_empty(len(x), 1, 1, 1).bernoulli_(1 - self.rate)
        return x * (kept / (1 - self.rate))


def has_drop_path(net: nn.Module) -> bool:
    """Return whether a network has paths to drop.

    Example:
        >>> has_drop_path(nn.Sequential(nn.Linear(3, 2), DropPath())), has_drop_path(nn.Linear(3, 2))
        (True, False)
    """
    return any(isinstance(layer, DropPath) for layer in net.modules())


def set_drop_path(net: nn.Module, rate: float) -> None:
    """Set the probability of all :class:`DropPath` of a network.

    Raises:
        InputError: if ``rate`` is above 0 and the network has none.

    Example:
        >>> net = nn.Sequential(DropPath(), DropPath())
        >>> set_drop_path(net, 0.2)
        >>> [layer.rate for layer in net]
        [0.2, 0.2]
    """
    if rate and not has_drop_path(net):
        raise InputError(
            f"drop_path={rate:g}: {type(net).__name__} has no paths to drop; give a GenotypeNetwork of a space of "
            "cells such as darts_fewshot, or leave drop_path out"
        )
    for layer in net.modules():
        if isinstance(layer, DropPath):
            layer.rate = rate
