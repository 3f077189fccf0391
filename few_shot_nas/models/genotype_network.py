"""A found or published architecture as an ordinary network."""

from typing import Literal

from few_shot_nas.ranges import Count, Ways
from few_shot_nas.spaces.dialects import read_genotype
from few_shot_nas.spaces.supernet import DerivedNetwork


class GenotypeNetwork(DerivedNetwork):
    """The network of one architecture: of a search's ``genotype.json``, or a published one.

    Nothing of the search is left in it: any meta-learner can train it. See
    :class:`few_shot_nas.spaces.supernet.DerivedNetwork` for how it takes over a supernet's weights.

    Args:
        n_way: number of classes N.
        in_channels: channels of the images.
        image_size: height and width of the images.
        genotype: a genotype.json, a published name such as AUTO_MAML_2, or a text or file in the notation of DARTS,
            NAS-Bench-201 or ENAS; see :func:`few_shot_nas.spaces.dialects.read_genotype`.
        space: the space of an architecture that is given as text; null finds one that has its ops.
        channels: channels of the first cell, where the architecture does not say; null takes the published ones or the
            space's own default.
        cells: number of cells or layers, likewise.
        pad: where a factorised reduction pads odd sizes; T-NAS does it at the left and top.

    Raises:
        InputError: naming the file if it is missing or damaged; naming the op, edge or space if the architecture is
            not one of the space that it names.
    """

    def __init__(
        self,
        n_way: Ways,
        in_channels: int,
        image_size: int,
        genotype: str,
        space: str | None = None,
        channels: Count | None = None,
        cells: Count | None = None,
        pad: Literal["right", "left"] = "right",
    ) -> None:
        super().__init__(n_way, in_channels, image_size, read_genotype(genotype, space, channels, cells), pad)
