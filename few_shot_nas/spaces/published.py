"""Published architectures by name: what papers and their authors' code call the result of a search.

Architectures as data, in the notation of their authors, with the sizes they were published for. The counts of
parameters that follow from them are checked against the published ones.
"""

from typing import NamedTuple


class Published(NamedTuple):
    """One published architecture.

    Attributes:
        space: a key of :data:`few_shot_nas.spaces.SPACES`.
        channels: channels of the first cell.
        cells: number of cells.
        text: ``Genotype(..)`` in the notation of DARTS.
    """

    space: str
    channels: int
    cells: int
    text: str


_SHORT = {
    "avg": "avg_pool_3x3",
    "max": "max_pool_3x3",
    "maxbn": "max_pool_3x3BN",
    "skip": "skip_connect",
    "sep3": "sep_conv_3x3",
    "sep5": "sep_conv_5x5",
    "dil3": "dil_conv_3x3",
    "dil5": "dil_conv_5x5",
    "conv3": "conv_3x3",
    "conv5": "conv_1x5_5x1",
}


def _cells(normal: str, reduce: str) -> str:
    """Write two cells, each given as ``op input, op input; ..`` node by node, as ``Genotype(..)``."""
    cells = []
    for cell in (normal, reduce):
        pairs = [[entry.split() for entry in node.split(",")] for node in cell.split(";")]
        cells.append([[(_SHORT[op], int(src)) for op, src in node] for node in pairs])
    concat = list(range(2, 2 + len(cells[0])))
    return f"Genotype(normal={cells[0]}, normal_concat={concat}, reduce={cells[1]}, reduce_concat={concat})"


def _auto_maml(normal: str, reduce: str) -> Published:
    """Lian et al., ICLR 2020: the cells released with T-NAS."""
    return Published("darts", 16, 2, _cells(normal, reduce))


def _metantk(cells: int, normal: str, reduce: str) -> Published:
    """Wang et al., CVPR 2022: searched examples, named by data set and number of cells."""
    return Published("metantk", 48, cells, _cells(normal, reduce))


def _metanas(normal: str, reduce: str) -> Published:
    """Elsken et al., CVPR 2020: searched with 28 channels, trained with 96."""
    return Published("metanas", 28, 5, _cells(normal, reduce))


PUBLISHED: dict[str, Published] = {
    "AUTO_MAML_2": _auto_maml(
        "avg 0, avg 1; avg 1, avg 2; avg 1, avg 2; dil3 3, avg 2",
        "avg 0, dil5 1; avg 0, dil5 1; skip 3, dil5 2; skip 4, skip 3",
    ),
    "AUTO_MAML_3": _auto_maml(
        "dil5 1, dil5 0; dil5 2, dil3 1; sep5 2, sep3 3; skip 4, dil3 3",
        "sep5 0, avg 1; avg 1, skip 2; skip 2, avg 1; skip 2, max 1",
    ),
    "METANTK_MINI_5_A": _metantk(
        5, "sep3 0, sep3 1; sep3 1, sep3 2; conv3 0, sep3 2", "sep3 0, sep3 1; conv5 1, dil3 2; dil3 2, dil3 3"
    ),
    "METANTK_MINI_5_B": _metantk(
        5, "sep3 0, sep3 1; sep3 1, sep3 2; conv3 2, sep3 3", "sep3 0, dil3 1; conv5 1, sep3 2; sep3 1, conv5 3"
    ),
    "METANTK_MINI_5_C": _metantk(
        5, "sep3 0, sep3 1; sep3 0, maxbn 2; dil3 2, sep3 3", "dil3 0, sep3 1; conv3 1, sep3 2; sep3 2, sep3 3"
    ),
    "METANTK_MINI_8_A": _metantk(
        8, "sep3 0, maxbn 1; conv5 0, sep3 1; sep3 2, conv3 3", "skip 0, sep3 1; conv3 1, sep3 2; dil3 0, conv5 1"
    ),
    "METANTK_MINI_8_B": _metantk(
        8, "conv3 0, sep3 1; conv5 0, conv3 1; sep3 0, dil3 2", "sep3 0, sep3 1; sep3 0, sep3 2; sep3 0, sep3 2"
    ),
    "METANTK_MINI_8_C": _metantk(
        8, "sep3 0, conv5 1; sep3 0, sep3 1; conv3 0, sep3 1", "sep3 0, sep3 1; conv5 1, sep3 2; conv3 0, sep3 3"
    ),
    "METANTK_TIERED_5_A": _metantk(
        5, "conv3 0, dil3 1; sep3 1, sep3 2; sep3 0, sep3 3", "skip 0, dil3 1; sep3 0, conv5 2; maxbn 2, conv5 3"
    ),
    "METANTK_TIERED_5_B": _metantk(
        5, "sep3 0, sep3 1; sep3 1, maxbn 2; conv3 2, conv3 3", "dil3 0, conv5 1; conv3 0, sep3 1; sep3 2, sep3 3"
    ),
    "METANTK_TIERED_5_C": _metantk(
        5, "sep3 0, conv5 1; dil3 0, sep3 2; sep3 0, maxbn 3", "sep3 0, sep3 1; conv5 0, conv5 2; dil3 1, sep3 3"
    ),
    "METANTK_TIERED_8_A": _metantk(
        8, "conv5 0, sep3 1; conv5 0, conv5 1; sep3 0, conv5 2", "skip 0, conv3 1; conv3 0, conv5 1; sep3 0, sep3 3"
    ),
    "METANTK_TIERED_8_B": _metantk(
        8, "conv5 0, dil3 1; sep3 0, sep3 1; sep3 0, conv3 2", "conv3 0, sep3 1; sep3 1, sep3 2; conv3 0, sep3 1"
    ),
    "METANTK_TIERED_8_C": _metantk(
        8, "conv5 0, conv5 1; sep3 0, conv5 2; sep3 2, sep3 3", "conv3 0, conv3 1; sep3 0, sep3 1; sep3 1, conv5 3"
    ),
    "METANAS_V1": _metanas(
        "conv3 0, conv3 1; conv5 0, dil3 2; conv5 0, max 3", "dil3 0, sep3 1; conv3 0, max 1; dil3 2, conv5 3"
    ),
    "METANAS_IN_V2": _metanas(
        "conv5 0, conv3 1; conv3 0, sep3 2; dil3 1, conv5 3", "sep3 0, conv3 1; conv3 0, sep3 2; conv3 0, dil3 1"
    ),
}
