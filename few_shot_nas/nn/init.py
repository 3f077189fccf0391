"""The initial weights of all networks that are written here."""

from torch import nn


def xavier_init(net: nn.Module) -> None:
    """Draw the weights of all convolutions and linear layers from Xavier's uniform law and set their biases to 0.

    This is the initialisation of MAML's convolutional network on mini-ImageNet. Normalisation layers keep theirs
    (scale 1, shift 0). Uses the global generator, as all of torch's initialisers do by default.
    """
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
