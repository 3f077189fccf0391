"""A name for the weights of a network."""

import hashlib

import torch
from torch import nn


def weights_digest(net: nn.Module) -> str:
    """Return 12 hex digits that change with any tensor of the network, its name or its bytes.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> before = weights_digest(net)
        >>> with torch.no_grad():
        ...     _ = net.weight.add_(1e-3)
        >>> len(before), before == weights_digest(net)
        (12, False)
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        # numpy has no bfloat16, but it has bytes.
        digest.update(name.encode() + tensor.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]
