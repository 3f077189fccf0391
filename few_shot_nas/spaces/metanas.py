"""The networks of MetaNAS: cells of the few-shot ops whose width stays the same."""

from collections.abc import Mapping
from typing import ClassVar

from few_shot_nas.spaces.cell_space import CellSpace

METANAS_OPS = (
    "max_pool_3x3BN",
    "avg_pool_3x3BN",
    "skip_connect",
    "conv_1x5_5x1",
    "conv_3x3",
    "sep_conv_3x3",
    "dil_conv_3x3",
)


class MetaNas(CellSpace):
    """The ops of ``darts_fewshot`` in the networks of MetaNAS (Elsken et al. 2020).

    The stem does not pool and gives three times ``channels``, and reduction cells do not widen the network. MetaNAS
    searches with 28 channels and 4 cells, and trains what it found with 96 channels and 5 cells.

    Deviations: the third of four cells reduces, not the fourth; odd sizes are padded in factorised reductions, which
    MetaNAS leaves unshifted.

    Args:
        channels: channels of every cell.
        cells: number of cells; see :func:`few_shot_nas.spaces.cell.reductions` for which of them reduce.
        nodes: intermediate nodes per cell.
    """

    name: ClassVar[str] = "metanas"
    ops: ClassVar[tuple[str, ...]] = METANAS_OPS
    stem_multiplier: ClassVar[int] = 3
    pools: ClassVar[bool] = False
    growth: ClassVar[int] = 1
    published_ops: ClassVar[Mapping[str, str]] = {
        "max_pool_3x3": "max_pool_3x3BN",
        "avg_pool_3x3": "avg_pool_3x3BN",
    }
