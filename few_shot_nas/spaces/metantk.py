"""The networks of MetaNTK-NAS: cells of the few-shot ops on images at full size."""

from typing import ClassVar

from few_shot_nas.spaces.darts_fewshot import DartsFewshot


class MetaNtk(DartsFewshot):
    """The space ``darts_fewshot`` behind a stem that does not pool, as MetaNTK-NAS (Wang et al. 2022) builds it.

    With ``channels=48`` and 5 or 8 cells these are its published networks; on images of 84 pixels they cost sixteen
    times as much as those of ``darts_fewshot``, whose stem pools to 21.

    Deviation: no BN and ReLU before the pool of a search network (its evaluated networks have none either).

    Args:
        channels: channels of the first cell.
        cells: number of cells; see :func:`few_shot_nas.spaces.cell.reductions` for which of them reduce.
        nodes: intermediate nodes per cell.
    """

    name: ClassVar[str] = "metantk"
    pools: ClassVar[bool] = False
