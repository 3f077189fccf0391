"""The last layer of the networks as the learners treat it: which parameters it has, and where it starts."""

from torch import nn

from few_shot_nas.algorithms.settings import InnerLoop
from few_shot_nas.errors import InputError


def head_names(net: nn.Module, algorithm: str) -> frozenset[str]:
    """Return the names of the parameters of ``net.head``.

    Raises:
        InputError: if the network has no head.
    """
    if not isinstance(getattr(net, "head", None), nn.Linear):
        raise InputError(f"{algorithm} needs a network whose last layer is the linear `head`, not {type(net).__name__}")
    return frozenset(f"head.{name}" for name, _ in net.head.named_parameters())  # type: ignore[union-attr]


def start_head(net: nn.Module, inner: InnerLoop, algorithm: str) -> None:
    """Set ``net.head`` to 0 where ``inner.zero_head`` asks for it; does nothing elsewhere.

    Ye & Chao (ICLR 2022, arXiv:2106.16245, section 5) let all classes start from one learned vector. The labels of a
    task are arbitrary, so a head that prefers one of them before it has seen the support set only adds variance. Here
    all classes start at 0, and the outer loop may let them differ later. The first inner step from there does not move
    the body. It gives class c the weights ``inner_lr * mean_i (1[y_i = c] - 1/N) f_i``: the class means of the support
    features, centred.

    Raises:
        InputError: if the network has no head.
    """
    if inner.zero_head:
        own = dict(net.named_parameters())
        for name in head_names(net, f"{algorithm} with zero_head"):
            nn.init.zeros_(own[name])
