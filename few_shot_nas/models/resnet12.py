"""The twelve-layer residual network of the few-shot literature."""

from torch import Tensor, nn
from torch.nn import functional as F

from few_shot_nas.errors import InputError
from few_shot_nas.nn.layout import channels_last
from few_shot_nas.nn.norm import BatchNorm2d
from few_shot_nas.ranges import Share, Ways

WIDTHS = (64, 160, 320, 640)
SLOPE = 0.1


class ResidualBlock(nn.Module):
    """Three 3x3 convolutions with BN, a 1x1 shortcut with BN, LeakyReLU, 2x2 max-pool, dropout."""

    def __init__(self, channels_in: int, channels_out: int, drop_rate: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(3):
            layers += [nn.LeakyReLU(SLOPE)] if index else []
            channels = channels_out if index else channels_in
            layers += [nn.Conv2d(channels, channels_out, 3, padding=1, bias=False), BatchNorm2d(channels_out)]
        self.residual = nn.Sequential(*layers)
        self.shortcut = nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, bias=False), BatchNorm2d(channels_out))
        self.drop_rate = drop_rate

    def forward(self, x: Tensor) -> Tensor:
        """``[B, channels_in, H, W]`` to ``[B, channels_out, H // 2, W // 2]``."""
        x = F.max_pool2d(F.leaky_relu(self.residual(x) + self.shortcut(x), SLOPE), 2)
        return F.dropout(x, self.drop_rate, self.training) if self.drop_rate else x


class ResNet12(nn.Module):
    """ResNet-12 with widths (64, 160, 320, 640), as in MetaOptNet and RFS (Tian et al. 2020); global average pool.

    Weights: Kaiming-normal convolutions (fan-out, for LeakyReLU) as in RFS; the head Xavier-uniform with zero bias.
    Deviation: ``drop_rate`` is plain dropout after every block; RFS has DropBlock after the last two.

    Args:
        n_way: number of classes N.
        in_channels: channels of the images.
        image_size: height and width of the images.
        drop_rate: probability of dropping an activation in train mode.

    Attributes:
        feature_dim: length of the feature vectors.

    Raises:
        InputError: for images smaller than 16 pixels or a ``drop_rate`` outside [0, 1).
    """

    def __init__(self, n_way: Ways, in_channels: int, image_size: int, drop_rate: Share = 0.0) -> None:
        super().__init__()
        if image_size < 16:
            raise InputError(f"ResNet12: image_size={image_size} given, four halvings need at least 16")
        if not 0.0 <= drop_rate < 1.0:
            raise InputError(f"ResNet12: drop_rate={drop_rate} given, it must be at least 0 and less than 1")
        pairs = zip((in_channels, *WIDTHS[:-1]), WIDTHS, strict=True)
        self.body = nn.Sequential(*(ResidualBlock(narrow, wide, drop_rate) for narrow, wide in pairs))
        self.feature_dim = WIDTHS[-1]
        self.head = nn.Linear(self.feature_dim, n_way)
        for module in self.body.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=SLOPE, mode="fan_out", nonlinearity="leaky_relu")
        nn.init.xavier_uniform_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def features(self, x: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` to features ``[B, 640]``."""
        return self.body(channels_last(x)).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` to logits ``[B, N]``."""
        return self.head(self.features(x))
