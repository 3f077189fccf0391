"""Where the time of one meta-step goes: the most expensive operations, and the routes of convolutions by shape."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.contestants import ours  # noqa: E402
from benchmarks.run import timed  # noqa: E402
from benchmarks.work import MINI, TINY, Work  # noqa: E402
from few_shot_nas.nn.columns import Geometry  # noqa: E402
from few_shot_nas.nn.convolution import ROUTES, task_convolution  # noqa: E402


def profiled(work: Work, device: torch.device, engine: str) -> None:
    """Print the operations of one meta-step by the time they take on the device."""
    step = ours(work, work.net().to(device), work.batch(device), engine)
    for _ in range(2):
        timed(step, device)
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=kinds) as recorded:
        timed(step, device)
    key = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    print(f"\n{engine}, one meta-step")
    print(recorded.key_averages().table(sort_by=key, row_limit=25, max_name_column_width=60))


def routes(device: torch.device, tasks: int) -> None:
    """Print the time of forward and backward passes of the task convolutions by every route."""
    print("\nms of a convolution forward and backward, by route")
    for batch in (5, 75):
        for size, channels in ((84, 3), (42, 32), (21, 32), (10, 32)):
            x = torch.randn(tasks * batch, channels, size, size, device=device)
            x = x.to(memory_format=torch.channels_last).requires_grad_()
            weight = torch.randn(tasks, 32, channels, 3, 3, device=device, requires_grad=True)
            found = {}
            for route in ROUTES:
                if route != "shared":
                    def step(route: str = route, x: torch.Tensor = x, weight: torch.Tensor = weight) -> None:
                        out = task_convolution(x, weight, Geometry(3, 1, 1), route)
                        torch.autograd.grad(out.square().mean(), (x, weight))

                    for _ in range(2):
                        timed(step, device)
                    found[route] = min(timed(step, device) for _ in range(3)) * 1e3
            print(f"  {tasks} x {batch} x {channels} x {size} x {size}: ", found)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--engine", default="folded")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    profiled(TINY["tiny second order"] if options.tiny else replace(MINI), device, options.engine)
    if not options.tiny:
        routes(device, MINI.tasks)
    return 0


if __name__ == "__main__":
    sys.exit(main())
