"""A state that many ops of a mixture read: what several of them need of it is computed once."""

from collections.abc import Callable, Mapping
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from few_shot_nas.nn.norm import BatchNorm2d
from few_shot_nas.spaces.ops import FactorizedReduce


class Source:
    """One state of a mixed supernet, with what ops on all edges from it share.

    The edges from a state have one stride. So the ReLU with which convolutions begin, the pools, and their BN where it
    learns nothing, are the same on all of them. The weight of an op that ends with a BN scales the BN, which costs no
    pass over the images. All of it equals ``weight * op(x)`` up to rounding, and at weight 1 to the last bit.

    Args:
        x: the state ``[B, C, H, W]``.
    """

    def __init__(self, x: Tensor) -> None:
        self.x = x
        self._known: dict[object, Tensor] = {}
        self._halves: tuple[Tensor, Tensor] | None = None

    def terms(self, ops: nn.Module, weights: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the terms of an edge's mixed op, ``weight * op(x)`` each; ``none`` adds no term.

        Args:
            ops: the edge's ops by name.
            weights: the weights of the ops that are to run.
        """
        held = cast(nn.ModuleDict, ops)
        return [self._term(name, held[name], weight) for name, weight in weights.items() if name != "none"]

    def _term(self, name: str, op: nn.Module, weight: Tensor) -> Tensor:
        if isinstance(op, FactorizedReduce):
            if self._halves is None:
                self._halves = op.halves(self._once("relu", F.relu, self.x))
            return op.joined(*self._halves, times=weight)
        first, *rest = op if isinstance(op, nn.Sequential) else [op]
        pools = isinstance(first, nn.MaxPool2d | nn.AvgPool2d)
        key = "relu" if isinstance(first, nn.ReLU) else name if pools else None
        out = first(self.x) if key is None else self._once(key, first, self.x)
        if not rest:
            return weight * out
        *inner, last = rest
        for layer in inner:
            out = layer(out)
        watched = bool(last._forward_pre_hooks)  # by someone who wants to see what every layer sees
        if pools and not inner and type(last) is BatchNorm2d and last.weight is None and not watched:
            return weight * self._once((name, "norm"), last, out)
        return last(out, times=weight) if isinstance(last, BatchNorm2d) else weight * last(out)

    def _once(self, key: object, layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Return ``layer(x)``, which an edge before this one may have computed."""
        if key not in self._known:
            self._known[key] = layer(x)
        return self._known[key]
