"""The initial weights of all networks that are written here."""

from typing import Literal

from torch import nn


def xavier_init(net: nn.Module) -> None:
    """Draw the weights of all convolutions and linear layers from Xavier's uniform law and set their biases to 0.

    This is the initialisation of MAML's convolutional network on mini-ImageNet. Normalisation layers keep theirs
    (scale 1, shift 0). Uses the global generator, as all of torch's initialisers do by default.

    Example:
        >>> net = nn.Linear(30, 20)
        >>> xavier_init(net)
        >>> bool(net.weight.abs().max() <= (6 / (30 + 20)) ** 0.5), bool(net.bias.any())
        (True, False)
    """
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def kaiming_init(net: nn.Module, mode: Literal["fan_in", "fan_out"]) -> None:
    """Draw the weights of all convolutions and linear layers from Kaiming's normal law and set their biases to 0.

    For ReLUs: the standard deviation is ``sqrt(2 / fan)``. He et al., ICCV 2015, arXiv:1502.01852, equations 10 and 14.
    Normalisation layers keep their scales and shifts. Uses the global generator.

    Args:
        net: changed in place.
        mode: whether the variance of activations (``fan_in``) or of gradients (``fan_out``) is kept.

    Example:
        >>> net = nn.Linear(2000, 200)
        >>> kaiming_init(net, "fan_in")
        >>> abs(net.weight.std().item() / (2 / 2000) ** 0.5 - 1) < 0.02, bool(net.bias.any())
        (True, False)
    """
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
