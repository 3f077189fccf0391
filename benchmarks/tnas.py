"""Time the outer step of T-NAS against the published update as a plain loop: ``python benchmarks/tnas.py --clock cpu``.

The loop has torch's own layers and tape and nothing of ours, runs all eight ops of every edge one after the other, and
passes the queries before the inner loop and after each of its steps, as the authors' script does. Both give the same
gradient (``tests/test_benchmarks.py``). One task is timed: an outer step is four of them.
"""

import argparse
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.run import CLOCKS, timed  # noqa: E402
from few_shot_nas.algorithms.settings import InnerLoop  # noqa: E402
from few_shot_nas.algorithms.tnas import TNAS  # noqa: E402
from few_shot_nas.episode import Episode, tasks  # noqa: E402
from few_shot_nas.spaces.mixed_supernet import MixedSupernet  # noqa: E402
from training.allocator import keep_freed_memory  # noqa: E402

Params = Mapping[str, Tensor]


def search_network(size: int, channels: int, nodes: int = 4) -> MixedSupernet:
    """The search network of T-NAS; that of the paper has 84 pixels, 16 channels and 4 nodes."""
    torch.manual_seed(0)
    sizes = {"channels": channels, "cells": 2, "nodes": nodes}
    return MixedSupernet(5, 3, size, space="darts", affine=False, norm_pools=True, pad="left", **sizes)


# ---- the network written out -----------------------------------------------------------------------------------------


def norm(x: Tensor, params: Params, name: str = "") -> Tensor:
    """Batch normalisation by the batch, with scale and shift where ``name`` has them."""
    return F.batch_norm(x, None, None, params.get(f"{name}.weight"), params.get(f"{name}.bias"), training=True)


def separable(x: Tensor, params: Params, name: str, places: tuple[int, int], stride: int, dilation: int) -> Tensor:
    """ReLU, depthwise, pointwise, BN; ``places`` of the two convolutions within the op."""
    depthwise, pointwise = (params[f"{name}.{place}.weight"] for place in places)
    padding = dilation * (depthwise.shape[-1] - 1) // 2
    x = F.conv2d(F.relu(x), depthwise, None, stride, padding, dilation, groups=len(depthwise))
    return norm(F.conv2d(x, pointwise), params)


def run_op(x: Tensor, params: Params, name: str, stride: int) -> Tensor:
    """One op of an edge by the last word of its name."""
    op = name.rsplit(".", 1)[1]
    if op == "none":
        return 0.0 * x[:, :, ::stride, ::stride]
    if op == "skip_connect" and stride == 1:
        return x
    if op == "skip_connect":
        x = F.relu(x)
        x = F.pad(x, (x.shape[3] % 2, 0, x.shape[2] % 2, 0))
        halves = (x, params[f"{name}.conv_1.weight"]), (x[:, :, 1:, 1:], params[f"{name}.conv_2.weight"])
        return norm(torch.cat([F.conv2d(half, weight, stride=2) for half, weight in halves], 1), params)
    if "pool" in op:
        pooled = F.max_pool2d(x, 3, stride, 1) if "max" in op else F.avg_pool2d(x, 3, stride, 1, False, False)
        return norm(pooled, params)
    if "dil" in op:
        return separable(x, params, name, (1, 2), stride, 2)
    return separable(separable(x, params, name, (1, 2), stride, 1), params, name, (5, 6), 1, 1)


def cell(params: Params, index: int, before: Tensor, last: Tensor, net: MixedSupernet) -> Tensor:
    """One cell; the second is the reduction cell."""
    kind = ("normal", "reduce")[index]
    states = [
        norm(F.conv2d(F.relu(x), params[f"body.cells.{index}.pre{place}.1.weight"]), params)
        for place, x in enumerate((before, last))
    ]
    weights = params[f"alphas.{kind}"].softmax(dim=-1)
    inputs: dict[int, list[Tensor]] = {}
    for row, ((src, dst), ops) in zip(weights, net.space.menu()[kind].items(), strict=True):
        if len(states) < dst:
            states.append(torch.stack(inputs[len(states)]).sum(0))
        name, stride = f"body.cells.{index}.edges.{src}_{dst}", 2 if index and src < 2 else 1
        mixed = [w * run_op(states[src], params, f"{name}.{op}", stride) for w, op in zip(row, ops, strict=True)]
        inputs.setdefault(dst, []).append(sum(mixed[1:], mixed[0]))
    states.append(torch.stack(inputs[len(states)]).sum(0))
    return torch.cat(states[2:], 1)


def logits(params: Params, x: Tensor, net: MixedSupernet) -> Tensor:
    """Images to logits."""
    place = 0
    while f"body.stem.{place}.weight" in params:
        x = F.conv2d(F.relu(x) if place else x, params[f"body.stem.{place}.weight"], padding=1)
        x = norm(x, params, f"body.stem.{place + 1}")
        x, place = F.max_pool2d(x, 2) if x.shape[2] > 21 else x, place + 4
    middle = cell(params, 0, x, x, net)
    last = cell(params, 1, x, middle, net)
    return F.linear(last.mean(dim=(2, 3)), params["head.weight"], params["head.bias"])


def published_step(net: MixedSupernet, batch: Episode, inner: InnerLoop, alpha_inner_lr: float) -> None:
    """Leave the mean first-order gradient of a meta-batch in ``.grad``, by the authors' loop."""
    params = dict(net.named_parameters())
    count = len(batch.support_x)
    for task in tasks(batch):
        fast: dict[str, Tensor] = dict(params)
        with torch.no_grad():
            logits(fast, task.query_x, net)
        for _ in range(inner.inner_steps):
            loss = F.cross_entropy(logits(fast, task.support_x, net), task.support_y)
            gradients = torch.autograd.grad(loss, list(fast.values()))
            rates = [alpha_inner_lr if name.startswith("alphas") else inner.inner_lr for name in fast]
            stepped = zip(fast.items(), rates, gradients, strict=True)
            fast = {name: (value - rate * g).detach().requires_grad_() for (name, value), rate, g in stepped}
            query_loss = F.cross_entropy(logits(fast, task.query_x, net), task.query_y)
        for value, gradient in zip(params.values(), torch.autograd.grad(query_loss, list(fast.values())), strict=True):
            value.grad = gradient / count if value.grad is None else value.grad + gradient / count


def our_step(net: nn.Module, batch: Episode, inner: InnerLoop) -> None:
    """The same by the learner."""
    module = TNAS(net, inner=inner)
    parts, count = module.parts(batch)
    for part in parts:
        (module.task_loss(part)[0] / count).backward()


def meta_batch(size: int, count: int, queries: int, dtype: torch.dtype = torch.float32) -> Episode:
    """Tasks of noise, 5-way 1-shot."""
    stream = torch.Generator().manual_seed(1)

    def images(per_class: int) -> tuple[Tensor, Tensor]:
        shape = (count, 5 * per_class, 3, size, size)
        return torch.randn(shape, generator=stream, dtype=dtype), torch.arange(5).repeat(count, per_class)

    return Episode(*images(1), *images(queries))


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image_size", type=int, default=84)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--queries", type=int, default=15)
    parser.add_argument("--inner_steps", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: where others use the processor too")
    options = parser.parse_args()
    keep_freed_memory()
    net = search_network(options.image_size, options.channels)
    batch = meta_batch(options.image_size, 1, options.queries)
    inner = InnerLoop(inner_lr=0.01, inner_steps=options.inner_steps, first_order=True)
    steps = {"published": lambda: published_step(net, batch, inner, 30.0), "ours": lambda: our_step(net, batch, inner)}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.repeats + 1):
        for name, step in steps.items():
            net.zero_grad(set_to_none=True)
            seconds[name].append(timed(step, torch.device("cpu"), options.clock))
    pairs = list(zip(seconds["published"][1:], seconds["ours"][1:], strict=True))  # the first pair warms up
    for one, other in pairs:
        print(f"published {one:.2f} s, ours {other:.2f} s: {one / other:.2f} times as fast")
    print(f"median {statistics.median(one / other for one, other in pairs):.2f}, {options.clock} clock, one task")
    return 0


if __name__ == "__main__":
    sys.exit(main())
