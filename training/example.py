"""example.json: the first test task of a run with the answers to some of its queries, for the report."""

import base64
import io
from typing import Any

import numpy as np
import torch
from PIL import Image

from few_shot_nas.data.sampler import draw_task
from few_shot_nas.episode import fitted, tasks

#: Longer side of a stored image in pixels.
SIDE = 64
#: Support images and queries that are kept.
MOST = 25


def png(pixels: np.ndarray) -> str:
    """Return an image, uint8 ``[H, W, C]``, in small as PNG in base64."""
    picture = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    picture.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def example(parts: Any, split_name: str) -> dict[str, Any]:
    """Answer the queries of the first test task.

    Args:
        parts: source, data module and learner of a finished run.
        split_name: the split that was tested.

    Returns:
        The content of example.json: ``task_id``, ``bn_mode``, ``classes`` (names by label), ``right`` and ``queries``
        (counts over the whole task), ``support`` and ``query`` with images, and the number of classes per split.
    """
    data, source, module = parts.datamodule, parts.source, parts.module
    split, rotation = source.split(split_name), source.rotation(split_name)
    task_id, shape = data.first_test_task, data.shape(split_name, scored=True)
    plan = draw_task(split, seed=data.seed, split_name=split_name, task_id=task_id, rotation=rotation, **shape)
    (task,) = tasks(fitted(data.episode(split_name, [task_id]), next(module.parameters())))
    mode = module.outer.bn_mode
    with torch.no_grad():
        logits = module.logits_in(task, mode)
    # A diverged network gives no numbers, so it is sure of nothing.
    likely, predicted = logits.softmax(dim=1).nan_to_num(0.0).max(dim=1)
    first = plan.n_support
    pictures = [
        png(np.rot90(split.images[int(plan.index[place])], int(plan.rotation[place])))
        for place in (*range(min(first, MOST)), *range(first, min(first + MOST, len(plan.label))))
    ]
    shown = min(first, MOST)
    query = zip(task.query_y.tolist(), predicted.tolist(), likely.tolist(), pictures[shown:], strict=False)
    return {
        "task_id": task_id,
        "bn_mode": mode,
        "classes": [data.class_name(split_name, number) for number in data.classes(split_name, task_id)],
        "right": int((predicted == task.query_y).sum()),
        "queries": len(task.query_y),
        "support": [{"label": y, "png": p} for y, p in zip(task.support_y.tolist(), pictures[:shown], strict=False)],
        "query": [{"label": y, "predicted": a, "probability": round(p, 4), "png": i} for y, a, p, i in query],
        "split_classes": {name: len(source.split(name).class_names) for name in source.split_names()},
    }
