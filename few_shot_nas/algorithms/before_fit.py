"""What is refused before a learner is trained: data, a network or a Trainer that it cannot work with."""

from typing import Any

import pytorch_lightning as pl
from torch import nn

from few_shot_nas.episode import fitted
from few_shot_nas.errors import InputError
from few_shot_nas.nn.foreign import refuse_written_buffers


def refuse_unfit_data(learner: str, data: Any, data_kind: str, uses_head: bool) -> None:
    """Refuse training batches of another kind, or tasks that the network's head cannot label.

    Args:
        learner: name of the class that is trained.
        data: the data module, or None.
        data_kind: kind of the batches that the learner is trained on.
        uses_head: whether training uses the network's head, which has the ways of the test tasks.

    Raises:
        InputError: if the data module's ``kind`` is not ``data_kind``, or ``train_way`` is not ``n_way`` and the head
            is used.
    """
    kind = getattr(data, "kind", data_kind)
    if kind != data_kind:
        raise InputError(f"{learner} is trained on {data_kind}, but {type(data).__name__} gives {kind}")
    train_way = getattr(data, "train_way", None)
    if uses_head and train_way not in (None, data.n_way):
        raise InputError(
            f"{learner}: train_way={train_way} given, but its head has n_way={data.n_way} outputs; "
            "leave train_way out (metric learners such as ProtoNet can use it)"
        )


def refuse_lost_buffers(net: nn.Module, data: Any) -> None:
    """Refuse a network that writes to buffers while it trains, for a learner with an inner loop.

    Args:
        net: the network; two images of the first training task run through a copy of it.
        data: the data module, or None, which checks nothing.

    Raises:
        InputError: if a buffer is written (:func:`few_shot_nas.nn.foreign.refuse_written_buffers`).
    """
    episode = getattr(data, "episode", None)
    if episode is not None and any(True for _ in net.buffers()):
        images = fitted(episode("train", [0]), next(net.parameters())).support_x[0]
        refuse_written_buffers(net, images[:2])


def refuse_inference_mode(trainer: pl.Trainer) -> None:
    """Refuse a Trainer under which the inner loop cannot work.

    Raises:
        InputError: if it has ``inference_mode=True``.
    """
    if getattr(trainer, "_inference_mode", False):
        raise InputError("Trainer(inference_mode=True) forbids the inner loop in evaluation; set inference_mode=False")
