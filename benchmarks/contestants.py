"""Those who are timed: a meta-step each, on the same network, start and episodes."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import baseline
from benchmarks.work import Work
from few_shot_nas.algorithms.anil import ANIL
from few_shot_nas.algorithms.maml import MAML
from few_shot_nas.algorithms.settings import InnerLoop
from few_shot_nas.episode import Episode

#: Computes the mean meta-gradient into ``.grad``.
Step = Callable[[], object]


def ours(work: Work, net: nn.Module, batch: Episode, engine: str) -> Step:
    """A learner of this package with one engine."""
    steps = dict(inner_lr=work.inner_lr, inner_steps=work.inner_steps, first_order=work.first_order)
    inner = InnerLoop(**steps, engine=engine)  # type: ignore[arg-type]
    module = (ANIL if work.head_only else MAML)(net, inner=inner).to(batch.support_x.device)

    def step() -> None:
        parts, count = module.parts(batch)
        for part in parts:
            (module.task_loss(part)[0] / count).backward()

    return step


def plain(work: Work, net: nn.Module, batch: Episode) -> Step:
    """The loop of :mod:`benchmarks.baseline`."""
    return lambda: baseline.meta_gradient(work, net, batch)


def learn2learn(work: Work, net: nn.Module, batch: Episode) -> Step:
    """learn2learn's MAML on a network that it can clone, with the layers of torch."""
    import learn2learn as l2l

    body, head = _torch_body(work, net), _torch_head(net)
    adapted: Any = head if work.head_only else nn.Sequential(body, head)
    maml = l2l.algorithms.MAML(adapted, lr=work.inner_lr, first_order=work.first_order).to(batch.support_x.device)
    body.to(batch.support_x.device)

    def step() -> None:
        for task in range(work.tasks):
            support, query, learner = batch.support_x[task], batch.query_x[task], maml.clone()
            if work.head_only:
                support, query = body(support), body(query)
            for _ in range(work.inner_steps):
                learner.adapt(F.cross_entropy(learner(support), batch.support_y[task]))
            (F.cross_entropy(learner(query), batch.query_y[task]) / work.tasks).backward()

    return step


def higher(work: Work, net: nn.Module, batch: Episode) -> Step:
    """higher's differentiable optimizer on the same network."""
    import higher as library

    body, head = _torch_body(work, net), _torch_head(net)
    adapted: Any = head if work.head_only else nn.Sequential(body, head)
    adapted.to(batch.support_x.device)
    body.to(batch.support_x.device)
    optimizer = torch.optim.SGD(adapted.parameters(), lr=work.inner_lr)

    def step() -> None:
        for task in range(work.tasks):
            support, query = batch.support_x[task], batch.query_x[task]
            if work.head_only:
                support, query = body(support), body(query)
            options: Any = {"copy_initial_weights": False, "track_higher_grads": not work.first_order}
            with library.innerloop_ctx(adapted, optimizer, **options) as (learner, descent):
                for _ in range(work.inner_steps):
                    descent.step(F.cross_entropy(learner(support), batch.support_y[task]))
                (F.cross_entropy(learner(query), batch.query_y[task]) / work.tasks).backward()

    return step


def _torch_head(net: Any) -> nn.Linear:
    head = nn.Linear(net.head.in_features, net.head.out_features)
    head.load_state_dict(net.head.state_dict())
    return head


def _torch_body(work: Work, net: Any) -> nn.Sequential:
    """Return the body with torch's layers and the same weights."""
    layers: list[nn.Module] = []
    for layer in net.body:
        if isinstance(layer, nn.Conv2d):
            new: nn.Module = nn.Conv2d(layer.in_channels, layer.out_channels, 3, layer.stride[0], int(layer.padding[0]))
            new.load_state_dict(layer.state_dict())
        elif hasattr(layer, "num_features"):
            new = nn.BatchNorm2d(layer.num_features, track_running_stats=False)
            new.load_state_dict(layer.state_dict())
        else:
            new = layer
        layers.append(new)
    return nn.Sequential(*layers, _Mean() if work.network == "stride" else nn.Flatten())


class _Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


#: Other libraries, timed where they can be imported.
LIBRARIES: dict[str, Callable[[Work, nn.Module, Episode], Step]] = {"learn2learn": learn2learn, "higher": higher}
