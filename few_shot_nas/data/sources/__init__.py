"""The datasets, by the name the command line knows them under."""

from few_shot_nas.data.source import Source
from few_shot_nas.data.sources.cifar_fs import CIFARFS
from few_shot_nas.data.sources.fc100 import FC100
from few_shot_nas.data.sources.glyphs import Glyphs
from few_shot_nas.data.sources.image_folder import ImageFolder
from few_shot_nas.data.sources.mini_imagenet import MiniImagenet
from few_shot_nas.data.sources.mixed import Mixed
from few_shot_nas.data.sources.omniglot import Omniglot
from few_shot_nas.data.sources.tiered_imagenet import TieredImagenet

SOURCES: dict[str, type[Source]] = {
    "CIFARFS": CIFARFS,
    "FC100": FC100,
    "Glyphs": Glyphs,
    "ImageFolder": ImageFolder,
    "Mixed": Mixed,
    "MiniImagenet": MiniImagenet,
    "Omniglot": Omniglot,
    "TieredImagenet": TieredImagenet,
}
