"""The cell space of DARTS, T-NAS and Auto-MAML: four nodes, seven ops, two inputs per node."""

from typing import ClassVar

from few_shot_nas.spaces.cell_space import CellSpace

DARTS_OPS = (
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)


class Darts(CellSpace):
    """The architectures that DARTS (Liu et al. 2019) and T-NAS (Lian et al. 2020) derive.

    The eighth op of the published list, ``none``, exists in their mixtures only: it is never derived, so it is left
    out. Networks are T-NAS' derived ones: a stem of three times ``channels``, bare pools, affine BN; ``channels=16,
    cells=2`` gives the 23.2K and 26.1K parameters of the paper's two Auto-MAML cells. With four nodes a cell has
    ``180 * 7**8`` forms and the space ``1.08e18``.

    Deviations: the two edges of a node are written lower state first (T-NAS: heavier first), and odd sizes are padded
    at the right and bottom (T-NAS: left and top). Neither changes what can be represented.

    Args:
        channels: channels of the first cell.
        cells: number of cells; see :func:`few_shot_nas.spaces.cell.reductions` for which of them reduce.
        nodes: intermediate nodes per cell.
    """

    name: ClassVar[str] = "darts"
    ops: ClassVar[tuple[str, ...]] = DARTS_OPS
    stem_multiplier: ClassVar[int] = 3

    def __init__(self, channels: int = 16, cells: int = 2, nodes: int = 4) -> None:
        super().__init__(channels, cells, nodes)
