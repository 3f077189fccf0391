"""Capture a whole meta-step as one CUDA graph, and replay it: no kernel waits for the host."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from few_shot_nas.episode import Episode
from few_shot_nas.meta.attach import attach
from few_shot_nas.meta.engines.folded import folded
from few_shot_nas.meta.functional import Params
from few_shot_nas.meta.problem import MakeProblem, Outcome, Plan

#: Runs before the capture, in which libraries choose their kernels and get their memory.
WARM_UP = 3


class _Captured(NamedTuple):
    """One captured meta-step.

    Attributes:
        batch: where the graph reads the episodes.
        weights: where the graph reads the weights of the query losses; None if the last loss alone counts.
        loss: where the graph writes the loss.
        logits: where the graph writes the logits.
        trajectory: where the graph writes the iterates.
        gradients: where the graph writes the gradient of each trained tensor.
        graph: what is replayed; None on devices without graphs, where every call computes anew.
    """

    batch: Episode
    weights: Tensor | None
    loss: Tensor
    logits: Tensor
    trajectory: list[Params]
    gradients: list[Tensor | None]
    graph: "torch.cuda.CUDAGraph | None"


class Graph:
    """The engine :func:`folded`, captured on its first call for every shape of meta-batch and replayed from then on.

    The graph reads the trained tensors where they are, so these must keep their memory, as they do under optimizers and
    ``load_state_dict``, which write in place. A replay sees new episodes and new weights of the query losses. The rest
    of what a step depends on is captured as it was and must not change. Nothing waits for the device. On other devices
    it is :func:`folded` with the gradients computed at once.

    Args:
        trained: every tensor that the outer gradient is wanted for.
    """

    def __init__(self, trained: Sequence[Tensor]) -> None:
        self.trained = list(trained)
        self._captured: dict[tuple, _Captured] = {}

    def __call__(self, make: MakeProblem, batch: Episode, plan: Plan) -> Outcome:
        """As :func:`folded`; what is returned is overwritten by the next call."""
        weights = None if plan.weights is None else torch.as_tensor(plan.weights, dtype=torch.float32)
        if batch.support_x.device.type != "cuda":
            return _attached(self._run(make, batch, plan, weights), self.trained)
        shapes = tuple((value.shape, value.dtype) for value in batch if value is not None)
        key = (*shapes, plan.num_steps, plan.second_order, weights is None)
        if key not in self._captured:
            self._captured[key] = self._capture(make, batch, plan, weights)
        captured = self._captured[key]
        for static, value in zip(captured.batch, batch, strict=True):
            if static is not None and value is not None:
                static.copy_(value, non_blocking=True)
        if captured.weights is not None and weights is not None:
            captured.weights.copy_(weights, non_blocking=True)
        if captured.graph is not None:
            captured.graph.replay()
        return _attached(captured, self.trained)

    def _run(self, make: MakeProblem, batch: Episode, plan: Plan, weights: Tensor | None) -> _Captured:
        with torch.enable_grad():
            outcome = folded(make, batch, plan._replace(weights=weights))
            gradients = torch.autograd.grad(outcome.loss, self.trained, allow_unused=True)
        iterates = [{name: value.detach() for name, value in params.items()} for params in outcome.trajectory]
        return _Captured(
            batch, weights, outcome.loss.detach(), outcome.logits.detach(), iterates, list(gradients), graph=None
        )

    def _capture(self, make: MakeProblem, batch: Episode, plan: Plan, weights: Tensor | None) -> _Captured:
        copies = {name: None if value is None else value.clone() for name, value in batch._asdict().items()}
        static = Episode(**copies)  # type: ignore[arg-type]
        on_device = None if weights is None else weights.to(batch.support_x.device)
        # A matrix product in place of a convolution has the convolution's precision.
        matmul, convolution = torch.backends.cuda.matmul, torch.backends.cudnn
        before = matmul.allow_tf32, convolution.benchmark
        matmul.allow_tf32, convolution.benchmark = convolution.allow_tf32, True
        try:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    self._run(make, static, plan, on_device)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # Other threads, such as those that watch over collectives, may go on calling CUDA meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                captured = self._run(make, static, plan, on_device)
        finally:
            matmul.allow_tf32, convolution.benchmark = before
        return captured._replace(graph=graph)


def _attached(captured: _Captured, trained: Sequence[Tensor]) -> Outcome:
    return Outcome(attach(captured.loss, captured.gradients, trained), captured.logits, captured.trajectory)
