"""Features of every architecture of a small space, where first layers that architectures share run once."""

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from few_shot_nas.meta.functional import full_precision
from few_shot_nas.search.derivation import Decisions
from few_shot_nas.spaces.layered import LayeredBody
from few_shot_nas.spaces.supernet import Supernet


class Leaf(NamedTuple):
    """One architecture and the features ``[B, D]`` that it gives, float32 or wider."""

    decisions: Decisions
    features: Tensor


def every_architecture(supernet: Supernet, x: Tensor) -> Iterator[Leaf]:
    """Run all architectures of the space on one batch, in the order of ``space.enumerate()``.

    Bodies of layers are walked depth first: with L layers of n ops, ``n + n^2 + .. + n^L`` layers are run instead of
    ``L n^L``, and the stem's output and at most L activations are kept. Other bodies run one forward pass per
    architecture.

    Args:
        supernet: the shared weights.
        x: images ``[B, C, H, W]``. An architecture runs in the forward context that holds when its item is taken.

    Raises:
        InputError: if the space is too large to be enumerated.
    """
    architectures = supernet.space.enumerate()
    if not isinstance(supernet.body, LayeredBody):
        for decisions in architectures:
            genotype = supernet.space.decode(decisions)
            yield Leaf(decisions, full_precision(supernet.features(x, genotype)))
        return
    path: list[Tensor] = [supernet.body.begin(x)]
    before: tuple[int, ...] = ()
    for decisions in architectures:
        shared = next((i for i, (a, b) in enumerate(zip(before, decisions, strict=False)) if a != b), len(before))
        del path[shared + 1 :]
        ops = [edge.op for edge in supernet.space.decode(decisions).edges[0][1]]
        for index in range(shared, len(ops)):
            path.append(supernet.body.layer(index, path[-1], ops[index]))
        before = decisions
        yield Leaf(decisions, full_precision(path[-1].flatten(1)))
