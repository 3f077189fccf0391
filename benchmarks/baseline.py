"""MAML and ANIL as a plain loop over the tasks: torch's own layers and tape, and nothing of ours.

What everyone writes first. It shares no code with the engines, and both must give the same gradient.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.work import Work
from few_shot_nas.episode import Episode

Params = Mapping[str, Tensor]


def features(work: Work, params: Params, x: Tensor) -> Tensor:
    """The blocks of the network written out."""
    stride, padding = (2 if work.network == "stride" else 1), (0 if work.network == "unpadded" else 1)
    layers = 3 if work.network == "stride" else 4
    for block in range(3 if work.network == "unpadded" else 4):
        conv, norm = f"body.{layers * block}", f"body.{layers * block + 1}"
        x = F.conv2d(x, params[f"{conv}.weight"], params[f"{conv}.bias"], stride, padding)
        x = F.relu(F.batch_norm(x, None, None, params[f"{norm}.weight"], params[f"{norm}.bias"], training=True))
        x = F.max_pool2d(x, 2) if work.network != "stride" else x
    return x.mean(dim=(2, 3)) if work.network == "stride" else x.flatten(1)


def head(params: Params, x: Tensor) -> Tensor:
    """The linear head."""
    return F.linear(x, params["head.weight"], params["head.bias"])


def task_loss(work: Work, params: Params, support: Tensor, labels: Tensor, query: Tensor, wanted: Tensor) -> Tensor:
    """Query loss of one task after its inner steps."""
    order = not work.first_order
    if work.head_only:
        fast = {name: value for name, value in params.items() if name.startswith("head")}
        support, query = features(work, params, support), features(work, params, query)
    else:
        fast = dict(params)

    def logits(current: Params, x: Tensor) -> Tensor:
        return head(current, x) if work.head_only else head(current, features(work, current, x))

    for _ in range(work.inner_steps):
        loss = F.cross_entropy(logits(fast, support), labels)
        grads = torch.autograd.grad(loss, list(fast.values()), create_graph=order)
        fast = {name: value - work.inner_lr * g for (name, value), g in zip(fast.items(), grads, strict=True)}
    return F.cross_entropy(logits(fast, query), wanted)


def meta_gradient(work: Work, net: nn.Module, batch: Episode) -> None:
    """Leave the mean meta-gradient in ``.grad``."""
    params = dict(net.named_parameters())
    for task in range(work.tasks):
        parts = batch.support_x[task], batch.support_y[task], batch.query_x[task], batch.query_y[task]
        (task_loss(work, params, *parts) / work.tasks).backward()
