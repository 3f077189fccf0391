"""What ProtoNet would gain from all tasks of a meta-batch in one batch: ``python benchmarks/proto_net.py --clock cpu``.

It has no inner loop, so that an engine could save calls alone. Rounds of both ways in turn; a ratio is their median.
"""

import argparse
import statistics
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.run import CLOCKS, timed  # noqa: E402
from benchmarks.work import MINI, OMNIGLOT, Work  # noqa: E402
from few_shot_nas.algorithms.proto_net import ProtoNet  # noqa: E402
from few_shot_nas.episode import Episode, tasks  # noqa: E402
from few_shot_nas.forward_context import forward_context  # noqa: E402
from few_shot_nas.meta.functional import by_task, in_one_batch  # noqa: E402
from few_shot_nas.meta.metric import prototypes, squared_euclidean_logits  # noqa: E402
from training.allocator import keep_freed_memory  # noqa: E402

#: Distances between untrained features are of the order of their number.
SCALE = 0.01
ROWS = {
    "mini, 4 tasks, 15 queries a class": MINI,
    "Omniglot, 4 tasks, 5 queries a class": replace(OMNIGLOT, network="pool", tasks=4, n_query=5),
    "Omniglot, 32 tasks, 1 query a class": replace(OMNIGLOT, network="pool"),
}


def one_by_one(net: nn.Module, batch: Episode) -> Tensor:
    """The mean loss of the tasks, each run alone and differentiated into ``.grad`` before the next."""
    learner, total = ProtoNet(net, distance_scale=SCALE), torch.zeros(())
    for task in tasks(batch):
        loss = learner.task_loss(task)[0] / len(batch.support_x)
        loss.backward()
        total = total + loss.detach()
    return total


def together(net: nn.Module, batch: Episode) -> Tensor:
    """The same with all tasks in one batch, normalised each on its own."""

    def features(x: Tensor) -> Tensor:
        with forward_context(tasks=len(x)):
            return by_task(net.features(in_one_batch(x)), x)  # type: ignore[operator]

    support, query = features(batch.support_x), features(batch.query_x)
    ways = int(batch.support_y.max()) + 1
    centres = torch.stack([prototypes(own, y, ways) for own, y in zip(support, batch.support_y, strict=True)])
    logits = SCALE * squared_euclidean_logits(query, centres)
    loss = F.cross_entropy(logits.flatten(0, 1), batch.query_y.flatten())
    loss.backward()
    return loss.detach()


def ratio(work: Work, rounds: int, clock: str) -> tuple[float, float]:
    """Return the milliseconds one by one, and how many times as long that is as together."""
    device, pairs = torch.device("cpu"), []
    net, batch = work.net(), work.batch(device)
    for _ in range(rounds + 1):
        pairs.append([timed(partial(way, net, batch), device, clock) for way in (one_by_one, together)])
    alone, times = zip(*((a, a / b) for a, b in pairs[1:]), strict=True)
    return 1e3 * statistics.median(alone), statistics.median(times)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: where others use the processor too")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds={options.rounds}: at least one round is timed")
    keep_freed_memory()
    for name, work in ROWS.items():
        milliseconds, times = ratio(work, options.rounds, options.clock)
        print(f"{name}: {milliseconds:.0f} ms one by one, {times:.2f} times as long as together", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
