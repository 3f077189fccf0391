"""The four-block convolutional network of the few-shot literature."""

from typing import Literal

from torch import Tensor, nn

from few_shot_nas.errors import InputError
from few_shot_nas.nn.convolution import Conv2d
from few_shot_nas.nn.init import xavier_init
from few_shot_nas.nn.layout import channels_last
from few_shot_nas.nn.linear import Linear
from few_shot_nas.nn.norm import BatchNorm2d
from few_shot_nas.ranges import Ways, Width, check_arguments

BLOCKS = 4
SLOPE = 0.01  # of leaky_relu below zero, in the network of MAML++


class Blocks(nn.Sequential):
    """Convolution, normalisation, activation and, in some networks, a 2x2 max-pool, over and over.

    Computes what its layers compute in their order, faster: a normalisation by own statistics takes away whatever the
    convolution's bias adds, and the activations are monotone, so that the pool can come before them.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` to the last block's."""
        layers = list(self)
        starts = [place for place, layer in enumerate(layers) if isinstance(layer, nn.Conv2d)]
        for start, end in zip(starts, [*starts[1:], len(layers)], strict=True):
            conv, norm, activation, *pools = layers[start:end]
            if isinstance(conv, Conv2d) and isinstance(norm, BatchNorm2d):
                absorbed = conv.bias if norm.absorbs_bias() else None
                x = norm(conv(x, with_bias=absorbed is None), pool=bool(pools), absorbed=absorbed)
                x = activation(x)
            else:  # someone has put layers of their own here
                for layer in layers[start:end]:
                    x = layer(x)
        return x


class Conv4(nn.Module):
    """Four blocks of 3x3 convolution (with bias), BN, activation, each halving the image; then a linear head.

    These are the two networks of MAML (Finn et al. 2017, appendix A.1). ``pool`` halves by a 2x2 max-pool and flattens,
    as on mini-ImageNet with width 32. ``stride`` halves by the convolution's stride and averages over the pixels, as on
    Omniglot with width 64. Deviations: strided convolutions are padded by one pixel on every side, where TensorFlow
    pads bottom and right only; the head starts Xavier-uniform in both, where the authors draw it from a normal with
    deviation 1 on Omniglot.
    With ``pool`` and ``leaky_relu`` it is the network of MAML++ (width 48 on mini-ImageNet, 64 on Omniglot).
    Weights: Xavier-uniform, biases 0.

    Args:
        n_way: number of classes N.
        in_channels: channels of the images.
        image_size: height and width of the images.
        width: channels of every block.
        downsample: how a block halves the image: ``pool`` or ``stride``.
        activation: ``relu``, or ``leaky_relu`` with slope 0.01 as in MAML++.

    Attributes:
        feature_dim: length of the feature vectors.

    Raises:
        InputError: for another ``downsample`` or ``activation``, or images too small to be halved four times.
    """

    def __init__(
        self,
        n_way: Ways,
        in_channels: int,
        image_size: int,
        width: Width = 32,
        downsample: Literal["pool", "stride"] = "pool",
        activation: Literal["relu", "leaky_relu"] = "relu",
    ) -> None:
        super().__init__()
        check_arguments(Conv4.__init__, {"width": width})
        if downsample not in ("pool", "stride"):
            raise InputError(f"Conv4: downsample={downsample} given, it must be pool or stride")
        if activation not in ("relu", "leaky_relu"):
            raise InputError(f"Conv4: activation={activation} given, it must be relu or leaky_relu")
        if image_size < 2**BLOCKS:
            raise InputError(f"Conv4: image_size={image_size} given, four halvings need at least {2**BLOCKS}")
        pooled = downsample == "pool"
        layers: list[nn.Module] = []
        for block in range(BLOCKS):
            channels = width if block else in_channels
            layers += [Conv2d(channels, width, 3, 1 if pooled else 2, padding=1), BatchNorm2d(width)]
            layers += [nn.ReLU() if activation == "relu" else nn.LeakyReLU(SLOPE)]
            layers += [nn.MaxPool2d(2)] if pooled else []
        self.body = Blocks(*layers)
        self.pooled = pooled
        self.feature_dim = width * (image_size // 2**BLOCKS) ** 2 if pooled else width
        self.head = Linear(self.feature_dim, n_way)
        xavier_init(self)

    def features(self, x: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` to features ``[B, feature_dim]``."""
        x = self.body(channels_last(x))
        return x.flatten(1) if self.pooled else x.mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` to logits ``[B, N]``."""
        return self.head(self.features(x))
