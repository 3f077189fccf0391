"""The flags of Lightning's Trainer that pass through under their own names.

Written down so that ``--help`` and a mistyped flag need not wait for Lightning's import; a test compares the table with
the installed Trainer. ``legacy.FIXED`` says why the other parameters of the Trainer are not flags.
"""

from typing import Annotated, Literal

from few_shot_nas.ranges import Range
from training.flags import Flag, made_flag

Precision = Literal[
    "32-true", "64-true", "bf16-mixed", "bf16-true", "16-mixed", "16-true",
]  # fmt: skip


def _flag(name: str, kind: object, default: object, text: str) -> Flag:
    return made_flag(name, kind, default, text, "Trainer")


TRAINER_FLAGS = (
    _flag("accelerator", Literal["auto", "cpu", "gpu", "cuda", "mps"], "auto", "kind of device"),
    _flag("strategy", str, "auto", "auto, ddp or episodic_ddp; several devices always use episodic_ddp"),
    _flag("devices", int | str, "auto", "number of devices, or their indices such as 0,1"),
    _flag("num_nodes", Annotated[int, Range(1, 1024)], 1, "number of machines"),
    _flag("precision", Precision | None, None, "number format; bf16-mixed is the safe half precision"),
    _flag("fast_dev_run", int | bool, False, "try all stages on so many meta-batches, without checkpoints"),
    _flag("max_time", str | None, None, "stop after DD:HH:MM:SS"),
    _flag("num_sanity_val_steps", int | None, 0, "validation meta-batches to try before the first meta-step"),
    _flag("enable_checkpointing", bool | None, True, "write checkpoints/last.ckpt and checkpoints/best.ckpt"),
    _flag("enable_progress_bar", bool | None, True, "a bar on a terminal, else one line every few seconds"),
    _flag("enable_model_summary", bool | None, False, "print the table of layers before the first meta-step"),
    _flag("deterministic", bool | Literal["warn"] | None, None, "use only deterministic operations"),
    _flag("benchmark", bool | None, None, "let cuDNN time its algorithms"),
    _flag("profiler", str | None, None, "simple, advanced or pytorch"),
    _flag("detect_anomaly", bool, False, "name the operation that made a NaN; slow"),
    _flag("enable_autolog_hparams", bool, False, "let Lightning log constructor arguments beside our flat flags"),
)
