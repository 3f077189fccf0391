"""torchvision's ResNet-18 as a few-shot network."""

from torch import Tensor, nn
from torchvision.models import resnet18

from few_shot_nas.nn.layout import channels_last
from few_shot_nas.nn.norm import BatchNorm2d
from few_shot_nas.ranges import Ways


class ResNetClassifier(nn.Module):
    """torchvision's ``resnet18`` trunk with stateless batch normalisation, and a linear head.

    The trunk is the standard one, with its 7x7 stem of stride 2 and max-pool, for small images too; only its first
    convolution follows ``in_channels`` and its classifier is replaced. No pretrained weights: they were fitted on
    images that few-shot test classes are drawn from. Weights: torchvision's (Kaiming-normal, fan-out); the head
    Xavier-uniform with zero bias. Up to 32 pixels the last maps are one pixel, where a batch needs at least two images.

    Args:
        n_way: number of classes N.
        in_channels: channels of the images.
        image_size: height and width of the images; any size works.

    Attributes:
        feature_dim: length of the feature vectors.
    """

    def __init__(self, n_way: Ways, in_channels: int, image_size: int) -> None:
        super().__init__()
        self.trunk = resnet18(weights=None, norm_layer=BatchNorm2d)
        if in_channels != 3:
            self.trunk.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(self.trunk.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.feature_dim = self.trunk.fc.in_features
        self.trunk.fc = nn.Identity()
        self.head = nn.Linear(self.feature_dim, n_way)
        nn.init.xavier_uniform_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def features(self, x: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` to features ``[B, 512]``."""
        return self.trunk(channels_last(x))

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` to logits ``[B, N]``."""
        return self.head(self.features(x))
