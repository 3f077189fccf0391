"""What a network costs: parameters, and multiply-accumulates per image."""

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(net: nn.Module) -> int:
    """Return the number of parameters, trainable or not.

    Example:
        >>> count_parameters(nn.Linear(10, 5))
        55
    """
    return sum(parameter.numel() for parameter in net.parameters())


def count_macs(net: nn.Module, in_channels: int, image_size: int) -> int:
    """Return the multiply-accumulates of a forward pass on one image.

    Counts convolutions and matrix products, as :class:`torch.utils.flop_counter.FlopCounterMode` does (it counts a
    multiply-accumulate as two operations); normalisation, activations and pools count nothing. The pass runs on shapes
    only: nothing is computed, and neither the network nor the state of random generators changes.

    Args:
        net: a network that takes images ``[B, C, H, W]``. For an architecture of a supernet, pass the network derived
            from it.
        in_channels: channels of the images.
        image_size: height and width of the images.

    Example:
        >>> count_macs(nn.Conv2d(3, 8, 3, padding=1), in_channels=3, image_size=10) == 3 * 8 * 9 * 100
        True
    """
    shapes = {name: value.detach().to("meta") for name, value in (*net.named_parameters(), *net.named_buffers())}
    dtype = next((value.dtype for value in shapes.values() if value.is_floating_point()), torch.float32)
    # Two images: batch statistics of maps that have shrunk to one pixel need more than one.
    images = torch.empty(2, in_channels, image_size, image_size, dtype=dtype, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        functional_call(net, shapes, (images,))
    return counter.get_total_flops() // (2 * len(images))
