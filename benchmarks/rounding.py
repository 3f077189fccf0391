"""How far the float32 gradients of engines are from float64, task by task, and whether chance decides it.

``python benchmarks/rounding.py`` takes the tasks of the second-order mini-ImageNet row one by one. With ``--nudges``
the images of ``--task`` are changed by about the last bit of float32: where the gradient in float64 stays what it is
and the errors of the engines change places, rounding flips ties of pools or ReLUs, and no engine is the less precise.
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.contestants import ours  # noqa: E402
from benchmarks.run import gradient_of  # noqa: E402
from benchmarks.work import MINI, TINY, Work  # noqa: E402
from few_shot_nas.episode import Episode  # noqa: E402

#: Largest relative change of a pixel: half the distance between numbers in float32, at most.
NUDGE = 6e-8


def gradient(work: Work, batch: Episode, engine: str, dtype: torch.dtype) -> Tensor:
    """The meta-gradient of a meta-batch, in a row, in float64."""
    net = work.net().to(dtype)
    ours(work, net, Episode(*(v.to(dtype) if v.is_floating_point() else v for v in batch[:4])), engine)()
    return gradient_of(net).double()


def relative(found: Tensor, exact: Tensor) -> float:
    """Length of the difference in lengths of ``exact``."""
    return float((found - exact).norm() / exact.norm())


def errors(work: Work, batch: Episode) -> tuple[Tensor, str]:
    """Return the gradient in float64, and in words how far the engines are from it in float32."""
    exact = gradient(work, batch, "unroll", torch.float64)
    found = {name: relative(gradient(work, batch, name, torch.float32), exact) for name in ("unroll", "folded")}
    return exact, ", ".join(f"{name} {value:.1e}" for name, value in found.items())


def nudged(batch: Episode, seed: int) -> Episode:
    """Return float64 images, every pixel changed by at most :data:`NUDGE` of its value."""
    stream = torch.Generator().manual_seed(seed)

    def images(x: Tensor) -> Tensor:
        return x.double() * (1 + NUDGE * (2 * torch.rand(x.shape, generator=stream, dtype=torch.float64) - 1))

    return batch._replace(support_x=images(batch.support_x), query_x=images(batch.query_x))


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nudges", type=int, default=0, help="how often the images of one task are changed")
    parser.add_argument("--task", type=int, default=0, help="of which task")
    parser.add_argument("--tiny", action="store_true", help="a tiny row, to try the script")
    options = parser.parse_args()
    work = TINY["tiny second order"] if options.tiny else MINI
    if options.task not in range(work.tasks):
        parser.error(f"--task={options.task}: the row has the tasks 0 to {work.tasks - 1}")
    whole = work.batch(torch.device("cpu"))
    alone = [Episode(*(value[task : task + 1] for value in whole[:4])) for task in range(work.tasks)]
    known = {}
    for task, batch in enumerate(alone):
        known[task], said = errors(work, batch)
        print(f"task {task}: {said}", flush=True)
    for seed in range(options.nudges):
        changed = nudged(alone[options.task], seed)
        moved = relative(gradient(work, changed, "unroll", torch.float64), known[options.task])
        rounded = changed._replace(support_x=changed.support_x.float(), query_x=changed.query_x.float())
        print(f"task {options.task}, nudged: {errors(work, rounded)[1]}; float64 moved by {moved:.1e}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
