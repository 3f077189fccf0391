"""Which units of a network each image switches on."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_RELUS = (torch.ops.aten.relu.default, torch.ops.aten.relu_.default)


class _Codes(TorchDispatchMode):
    """Records which units are active, at every ReLU of the passes inside the block, functional ones too."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in _RELUS:
            self.seen.append((out.detach() > 0).flatten(1))
        return out


def activation_codes(forward: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Pattern of active units of all ReLUs for each image, ``[B, units]`` of booleans.

    Two images with the same code lie in the same linear region of the network, if it treats each image on its own.

    Args:
        forward: the network, which must call ReLU on batches ``[B, ...]``; nothing is differentiated or modified.
        images: ``[B, C, H, W]``.

    Raises:
        ValueError: if no ReLU ran.

    Example:
        >>> activation_codes(torch.relu, torch.tensor([[-1.0, 2.0], [0.5, 0.0]])).tolist()
        [[False, True], [True, False]]
    """
    with torch.no_grad(), _Codes() as codes:
        forward(images)
    if not codes.seen:
        raise ValueError("activation_codes() needs a network with ReLUs")
    return torch.cat(codes.seen, dim=1)
