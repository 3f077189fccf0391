"""How far a meta-gradient in mixed precision points from that in float32: measured, and said, before it is trusted."""

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

logger = logging.getLogger(__name__)

#: The meta-gradient of a meta-batch, a tensor for each that is trained.
MetaGradient = Callable[[], Sequence[Tensor]]


def cosine_with_float32(gradient: MetaGradient, device: torch.device) -> float:
    """Return the cosine between a meta-gradient under the casts in force and the same without them.

    Args:
        gradient: computes the meta-gradient, each time of the same meta-batch; leaves nothing behind.
        device: where it is computed.

    Example:
        >>> x = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
        >>> def gradient():
        ...     w = x.clone().requires_grad_()
        ...     return torch.autograd.grad((w @ x).float().square().sum(), [w])
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     0.99 < cosine_with_float32(gradient, torch.device("cpu")) < 1
        True
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        narrow = gradient()
    with torch.random.fork_rng(devices), torch.autocast(device.type, enabled=False):
        exact = gradient()
    one, other = (torch.cat([value.flatten().double() for value in side]) for side in (narrow, exact))
    return float(cosine_similarity(one, other, dim=0))


def say_cosine(gradient: MetaGradient, device: torch.device, learner: str) -> None:
    """Log the cosine of the meta-gradient with float32's where casts are in force; do nothing elsewhere."""
    if torch.is_autocast_enabled(device.type):
        kind = str(torch.get_autocast_dtype(device.type)).removeprefix("torch.")
        cosine = cosine_with_float32(gradient, device)
        logger.info(
            "%s: the first meta-gradient with convolutions in %s has cosine %.3f with that in float32%s",
            learner, kind, cosine, "" if cosine > TRUSTED else "; float32 is safer (--precision=32-true)",
        )  # fmt: skip


#: A cosine below which the mixed precision is another method rather than a faster one.
TRUSTED = 0.95
