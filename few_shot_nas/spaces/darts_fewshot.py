"""The cell space of MetaNTK-NAS and MetaNAS: three nodes, seven ops, two inputs per node."""

from typing import ClassVar

from few_shot_nas.spaces.cell_space import CellSpace, input_pairs

__all__ = ["DARTS_FEWSHOT_OPS", "DartsFewshot", "input_pairs"]

DARTS_FEWSHOT_OPS = (
    "skip_connect",
    "sep_conv_3x3",
    "dil_conv_3x3",
    "avg_pool_3x3BN",
    "max_pool_3x3BN",
    "conv_1x5_5x1",
    "conv_3x3",
)


class DartsFewshot(CellSpace):
    """A normal and a reduction cell, as in DARTS, with the few-shot ops.

    ``none`` of the published list is left out: it is never derived. With three nodes a cell has
    ``18 * 49**3 = 2,117,682`` forms and the space ``4.48e12``.

    Args:
        channels: channels of the first cell.
        cells: number of cells; see :func:`few_shot_nas.spaces.cell.reductions` for which of them reduce.
        nodes: intermediate nodes per cell.
    """

    name: ClassVar[str] = "darts_fewshot"
    ops: ClassVar[tuple[str, ...]] = DARTS_FEWSHOT_OPS
