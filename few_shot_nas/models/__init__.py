"""Networks: ``Model(n_way, in_channels, image_size, **flags)`` gives logits ``[B, n_way]``."""

from torch import nn

from few_shot_nas.models.conv4 import Conv4
from few_shot_nas.models.genotype_network import GenotypeNetwork
from few_shot_nas.models.resnet12 import ResNet12
from few_shot_nas.models.resnet_classifier import ResNetClassifier
from few_shot_nas.spaces.mixed_supernet import MixedSupernet
from few_shot_nas.spaces.pair_mixed_supernet import PairMixedSupernet
from few_shot_nas.spaces.supernet import Supernet

MODELS: dict[str, type[nn.Module]] = {
    "Conv4": Conv4,
    "ResNet12": ResNet12,
    "ResNetClassifier": ResNetClassifier,
    "GenotypeNetwork": GenotypeNetwork,
    "Supernet": Supernet,
    "MixedSupernet": MixedSupernet,
    "PairMixedSupernet": PairMixedSupernet,
}
