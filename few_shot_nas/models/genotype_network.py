"""A found architecture as an ordinary network."""

from few_shot_nas.ranges import Ways
from few_shot_nas.spaces.genotype import Genotype
from few_shot_nas.spaces.supernet import DerivedNetwork


class GenotypeNetwork(DerivedNetwork):
    """The network of one architecture, read from the ``genotype.json`` of a search.

    Nothing of the search is left in it: any meta-learner can train it. See
    :class:`few_shot_nas.spaces.supernet.DerivedNetwork` for how it takes over a supernet's weights.

    Args:
        n_way: number of classes N.
        in_channels: channels of the images.
        image_size: height and width of the images.
        genotype: path of the JSON file.

    Raises:
        InputError: naming the file if it is missing or damaged; naming the op, edge or space if the architecture is
            not one of the space that it names.
    """

    def __init__(self, n_way: Ways, in_channels: int, image_size: int, genotype: str) -> None:
        super().__init__(n_way, in_channels, image_size, Genotype.load(genotype))
