"""Learning rates as functions of the meta-step."""

import math


def cosine_with_restarts(step: int, first: int, factor: int, floor: float) -> float:
    """Return the fraction of the largest learning rate at a step: SGDR, cosine annealing with warm restarts.

    ``floor + (1 - floor) (1 + cos(pi t / T_i)) / 2``, t steps into the i-th cycle of ``T_i = first * factor^i`` steps.
    Source: Loshchilov and Hutter, ICLR 2017, arXiv:1608.03983, equation 5; ENAS trains its shared weights so, with
    ``first=10`` epochs, ``factor=2`` and rates from 0.05 down to 0.0005.

    Args:
        step: steps done, from 0.
        first: steps of the first cycle T_0.
        factor: each cycle takes this many times the steps of the one before, T_mul.
        floor: smallest rate over the largest, 0..1.

    Example:
        >>> [round(cosine_with_restarts(step, first=2, factor=2, floor=0.0), 3) for step in range(7)]
        [1.0, 0.5, 1.0, 0.854, 0.5, 0.146, 1.0]
    """
    length, inside = first, step
    while inside >= length:
        inside -= length
        length *= factor
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * inside / length))
