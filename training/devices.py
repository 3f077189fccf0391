"""What the flags accelerator, devices, num_nodes and strategy mean on this machine."""

import os
import platform
import re
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch

from few_shot_nas.errors import InputError
from few_shot_nas.runtime.strategy import NAME as EPISODIC_DDP

#: Processes that any machine can run, if slowly.
_FEW_PROCESSES = 8


def _count(devices: int | str, available: int) -> int:
    """Return how many devices a flag such as auto, -1, 2 or 0,1 means."""
    text = str(devices).strip("[] ")
    if text in ("auto", "-1"):
        return available
    if "," in text and re.fullmatch(r"[0-9]{1,6}(\s*,\s*[0-9]{1,6})*\s*,?", text):
        return len(set(part.strip() for part in text.split(",") if part.strip()))
    if not re.fullmatch(r"0*[1-9][0-9]{0,5}", text):
        raise InputError(f"--devices={devices}: expected auto, a number above 0, or indices such as 0,1")
    return int(text)


def hardware(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the Trainer's accelerator, devices and strategy.

    Several devices always use the episodic strategy: Lightning's wrapper does not see functional gradients, and the
    ranks would drift apart silently.

    Raises:
        InputError: if GPUs are asked for that are not there, or a strategy that cannot work.
    """
    accelerator, devices, strategy = values["accelerator"], values["devices"], values["strategy"]
    gpus = torch.cuda.device_count()
    wants_gpu = accelerator in ("gpu", "cuda") or (accelerator == "auto" and gpus > 0)
    # torchrun says how many processes it has started on this machine; there is nothing left to choose.
    started = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if str(devices) == "auto" and started > 1:
        devices = started
    count = _count(devices, max(gpus, 1) if wants_gpu else 1)
    if wants_gpu and gpus < count:
        raise InputError(
            f"--accelerator={accelerator} --devices={devices}: this machine has {gpus} GPUs; "
            "use --accelerator=auto --devices=auto for what there is"
        )
    if not wants_gpu and count > max(_FEW_PROCESSES, os.cpu_count() or 1):
        raise InputError(
            f"--devices={devices}: {count} processes on the CPU, and this machine has {os.cpu_count()} cores; give at "
            "most one process per core"
        )
    if strategy not in ("auto", "ddp", EPISODIC_DDP):
        raise InputError(
            f"--strategy={strategy}: would not average functional gradients over the ranks; use --strategy=ddp"
        )
    several = count > 1 or values["num_nodes"] > 1
    resolved = str(devices).strip("[]") if isinstance(devices, str) and devices != "auto" else devices
    if not wants_gpu and str(resolved) in ("auto", "-1"):
        resolved = 1
    return {"accelerator": accelerator, "devices": resolved, "strategy": EPISODIC_DDP if several else "auto"}


def hardware_text(trainer: pl.Trainer) -> str:
    """Describe the devices of a run in a few words."""
    if torch.cuda.is_available() and trainer.accelerator.name() == "cuda":
        return f"{trainer.world_size} x {torch.cuda.get_device_name()}"
    return f"{trainer.world_size} process(es) on {platform.machine()} CPU, {os.cpu_count()} cores"
