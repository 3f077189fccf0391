"""Time meta-steps: every engine against a plain loop and, where installed, learn2learn and higher.

``python benchmarks/run.py`` prints a table, and with ``--output`` writes it as JSON: times, ratios, the memory that a
step needs at its peak. ``--sweep=inner_steps,tasks,n_way,size`` changes one thing at a time. Contestants are timed in
turn, over and over, in one process: a ratio is the median of the ratios of neighbours, which a busy machine disturbs
less than the times. ``--precision=bfloat16`` runs our engines with convolutions in bf16, the others in float32.
"""

import argparse
import ctypes
import gc
import importlib.util
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import baseline  # noqa: E402
from benchmarks.contestants import LIBRARIES, Step, ours, plain  # noqa: E402
from benchmarks.work import ROWS, SWEEPS, TINY, Work  # noqa: E402
from few_shot_nas.meta.engines import ENGINES  # noqa: E402
from training.allocator import keep_freed_memory  # noqa: E402


def wait(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


#: What is read before and after: the time that passes, or the processor time of this process.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def timed(step: Step, device: torch.device, clock: str = "wall") -> float:
    """Seconds of one call."""
    wait(device)
    started = CLOCKS[clock]()
    step()
    wait(device)
    return CLOCKS[clock]() - started


class Peak:
    """The most memory beyond what was there at the start, in MiB.

    On a GPU what tensors take; on Linux the resident memory of the process, after memory that is free has been given
    back to the system; elsewhere None.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        gc.collect()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.before: float | None = torch.cuda.memory_allocated(device) / 2**20
            return
        try:
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
            self.before = self._resident("VmRSS")
        except (AttributeError, OSError):
            self.before = None

    @staticmethod
    def _resident(line: str) -> float:
        found = Path("/proc/self/status").read_text().split(f"{line}:")[1].split()[0]
        return int(found) / 2**10

    def mib(self) -> float | None:
        """Return the peak since the start."""
        if self.before is None:
            return None
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20 - self.before
        return self._resident("VmHWM") - self.before


def cast(step: Step, device: torch.device, precision: str) -> Step:
    """Return a step whose convolutions are in this precision."""
    if precision == "float32":
        return step

    def narrow() -> None:
        with torch.autocast(device.type, getattr(torch, precision)):
            step()

    return narrow


def gradient_of(net: torch.nn.Module) -> torch.Tensor:
    """The gradients that a step left behind, in a row."""
    return torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in net.parameters()])


def contestants(
    work: Work, device: torch.device, engines: list[str], libraries: list[str], precision: str
) -> dict[str, Any]:
    """Return name -> (network, step), each with a network of its own."""
    batch, made = work.batch(device), {}
    for name in ["plain loop", *libraries, *engines]:
        net = work.net().to(device)
        if name == "plain loop":
            made[name] = (net, plain(work, net, batch))
        elif name in LIBRARIES:
            made[name] = (net, LIBRARIES[name](work, net, batch))
        else:
            made[name] = (net, cast(ours(work, net, batch, name), device, precision))
    return made


def gflop(work: Work, device: torch.device) -> float:
    """Floating-point operations of the plain loop's convolutions and matrix products, in 1e9."""
    net, batch = work.net().to(device), work.batch(device)
    with FlopCounterMode(display=False) as counter:
        baseline.meta_gradient(work, net, batch)
    return counter.get_total_flops() / 1e9


def measure(
    work: Work, device: torch.device, engines: list[str], libraries: list[str], repeats: int, clock: str,
    precision: str = "float32",
) -> dict[str, Any]:  # fmt: skip
    """Time all contestants on one row."""
    made = contestants(work, device, engines, libraries, precision)
    seconds: dict[str, list[float]] = {name: [] for name in made}
    memory: dict[str, float | None] = {}
    cosines: dict[str, float] = {}
    failed: dict[str, str] = {}
    for name, (net, step) in list(made.items()):
        try:
            peak = Peak(device)
            timed(step, device)
            net.zero_grad(set_to_none=True)
            if device.type != "cuda":  # a graph takes its memory when it is captured, the C library's is what is in use
                peak = Peak(device)
            timed(step, device)
            memory[name] = peak.mib()
            if name in engines and "plain loop" in made:
                pair = gradient_of(made["plain loop"][0]), gradient_of(net)
                cosines[name] = float(torch.cosine_similarity(*pair, dim=0))
        except Exception as error:  # one engine that a network or device does not allow must not end the table
            failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            del made[name]
    for _ in range(repeats):
        for name, (net, step) in made.items():
            net.zero_grad(set_to_none=True)
            seconds[name].append(timed(step, device, clock))
    row: dict[str, Any] = {"gflop": gflop(work, device), "contestants": {}, "failed": failed}
    for name, own in seconds.items():
        if name not in made:
            continue
        entry: dict[str, Any] = {"ms": 1e3 * statistics.median(own), "mib": memory.get(name)}
        entry["cosine"] = cosines.get(name)
        for other in ("plain loop", *libraries):
            if other in made and other != name:
                entry[f"times {other}"] = statistics.median(b / a for a, b in zip(own, seconds[other], strict=True))
        row["contestants"][name] = entry
    return row


def roofline(device: torch.device, clock: str, repeats: int = 5) -> dict[str, float]:
    """GFLOP/s of a matrix product and of a 3x3 convolution of 32 channels, and GB/s of a copy, on this device."""
    a = torch.randn(2048, 2048, device=device)
    x = torch.randn(80, 32, 42, 42, device=device).to(memory_format=torch.channels_last)
    w, big = torch.randn(32, 32, 3, 3, device=device), torch.randn(2**25, device=device)
    found = {}
    for name, call, amount in (
        ("matmul_gflops", lambda: a @ a, 2 * 2048**3),
        ("conv32_gflops", lambda: torch.nn.functional.conv2d(x, w, padding=1), 2 * 80 * 42 * 42 * 32 * 32 * 9),
        ("copy_gbytes", lambda: big.clone(), 2 * 4 * 2**25),
    ):
        call()
        found[name] = amount / min(timed(call, device, clock) for _ in range(repeats)) / 1e9
    return found


def show(name: str, row: dict[str, Any]) -> None:
    """Print one row."""
    limit = f"{row['limit_ms']:.0f} ms at the limit of convolutions"
    print(f"\n{name} ({row['gflop']:.1f} GFLOP in the plain loop, {limit})")
    for contestant, entry in row["contestants"].items():
        ratios = "  ".join(f"{value:6.2f} x {key[6:]}" for key, value in entry.items() if key.startswith("times "))
        memory = "" if entry["mib"] is None else f"{entry['mib']:8.0f} MiB"
        cosine = "" if entry["cosine"] is None else f"  gradient's cosine {entry['cosine']:.4f}"
        print(f"  {contestant:12s} {entry['ms']:9.2f} ms {memory}  {ratios}{cosine}")
    for contestant, why in row["failed"].items():
        print(f"  {contestant:12s} FAILED {why}")


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--engines", default=None, help="comma-separated; default: all")
    parser.add_argument("--rows", default=None, help="comma-separated parts of row names; default: all")
    parser.add_argument("--sweep", default="", help=f"comma-separated, of {', '.join(SWEEPS)}: these rows instead")
    parser.add_argument("--tiny", action="store_true", help="tiny rows alone, to try the script")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: where others use the processor too")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32", help="of our convolutions")
    parser.add_argument("--output", default=None, help="JSON file for the results")
    options = parser.parse_args()
    keep_freed_memory()
    device = torch.device(options.device)
    engines = list(ENGINES) if options.engines is None else options.engines.split(",")
    if options.engines is None and device.type != "cuda":
        engines.remove("graph")
    libraries = [name for name in LIBRARIES if importlib.util.find_spec(name) is not None]
    rows = TINY if options.tiny else ROWS
    if options.sweep:
        unknown = set(options.sweep.split(",")) - set(SWEEPS)
        if unknown:
            parser.error(f"--sweep={options.sweep}: {', '.join(sorted(unknown))} is not one of {', '.join(SWEEPS)}")
        rows = {name: work for kind in options.sweep.split(",") for name, work in SWEEPS[kind].items()}
    if options.rows is not None:
        rows = {name: work for name, work in rows.items() if any(part in name for part in options.rows.split(","))}
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    limits = roofline(device, options.clock)
    results: dict[str, Any] = {"device": where, "torch": torch.__version__, "clock": options.clock}
    results["precision"] = options.precision
    results.update({"roofline": limits, "rows": {}})
    print(f"{where}, torch {torch.__version__}; " + ", ".join(f"{k} {v:.0f}" for k, v in limits.items()))
    for name, work in rows.items():
        how = options.repeats, options.clock, options.precision
        row = results["rows"][name] = measure(work, device, engines, libraries, *how)
        row["limit_ms"] = 1e3 * row["gflop"] / limits["conv32_gflops"]
        show(name, row)
        if options.output is not None:
            Path(options.output).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
