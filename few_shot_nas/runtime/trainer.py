"""A Lightning Trainer with the settings that episodes need."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from few_shot_nas.errors import InputError
from few_shot_nas.runtime.progress import EpisodeProgress
from few_shot_nas.runtime.strategy import NAME as EPISODIC_DDP

#: What the framework needs to be so, with the reason for the message.
FIXED: dict[str, tuple[Any, str]] = {
    "max_epochs": (-1, "a run ends at max_meta_steps"),
    "reload_dataloaders_every_n_epochs": (1, "a loader holds the meta-steps up to the next validation"),
    "use_distributed_sampler": (False, "the data module gives every process its own tasks"),
    "inference_mode": (False, "the inner loop takes gradients in evaluation too"),
}


def episodic_trainer(*, progress: bool = True, callbacks: list[Callback] | None = None, **flags: Any) -> pl.Trainer:
    """Return a Trainer under which an EpisodicModule can be trained, tested and used for predictions.

    By default it logs nothing and writes no checkpoint: give a ``logger`` and, for checkpoints by meta-step, a
    :class:`few_shot_nas.runtime.checkpoint.MetaCheckpoint` among ``callbacks``.

    Args:
        progress: show meta-steps, loss and validation accuracy by
            :class:`~few_shot_nas.runtime.progress.EpisodeProgress`; Lightning's own bar is off unless
            ``enable_progress_bar=True`` asks for it.
        callbacks: further callbacks.
        **flags: any other argument of Lightning's Trainer, such as ``accelerator`` and ``devices``. Several devices use
            the episodic strategy, which averages functional gradients.

    Raises:
        InputError: for an argument that episodes need to be otherwise.
    """
    for name, (value, reason) in FIXED.items():
        if flags.get(name, value) != value:
            raise InputError(f"episodic_trainer: {name}={flags[name]} given, it has to be {value}: {reason}")
    several = flags.get("num_nodes", 1) > 1 or str(flags.get("devices", "auto")) not in ("auto", "1")
    defaults: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    defaults |= {"enable_model_summary": False, "num_sanity_val_steps": 0}
    defaults |= {"strategy": EPISODIC_DDP} if several else {}
    shown = [EpisodeProgress()] if progress else []
    fixed = {name: value for name, (value, _) in FIXED.items()}
    return pl.Trainer(**{**defaults, **flags, **fixed}, callbacks=[*(callbacks or []), *shown])
