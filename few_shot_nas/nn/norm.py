"""Batch normalisation: stateless as a rule; with running statistics, or a set per inner step, on request."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._C import _functorch as functorch
from torch.nn import functional as F

from few_shot_nas import forward_context
from few_shot_nas.errors import InputError
from few_shot_nas.nn.batch_norm import batch_norm, pooled_batch_norm
from few_shot_nas.nn.moments import moments
from few_shot_nas.nn.precision import full_precision
from few_shot_nas.nn.windows import pooled_towards

#: Numbers in a batch from which derivatives written by hand gain more on a CPU than their calls cost.
_MANY = 2**18


def _mapped() -> bool:
    """Whether a ``torch.vmap`` is under way.

    Torch 2.11 differentiates its own batch normalisation wrongly there: the second derivative with scales that differ
    between the mapped calls is off by a tenth and more.
    """
    stack = functorch.get_interpreter_stack()
    return stack is not None and any(level.key() == functorch.TransformType.Vmap for level in stack)


class BatchNorm2d(nn.Module):
    """Normalise every channel of ``[B, C, H, W]`` by the statistics of the batch it is in.

    The layer keeps no buffers and acts alike in train and eval mode, so inner loops can run it functionally. The
    variance is the biased one, as in :class:`torch.nn.BatchNorm2d` in train mode, which it equals.

    When :func:`few_shot_nas.forward_context.current` says ``stat_rows = r``, mean and variance come from the first
    ``r`` rows and normalise every row. The first ``r`` rows then get exactly what they would get alone, and what a
    later row gets does not depend on the other later rows (inductive evaluation: support first, queries after it).

    Args:
        num_features: channels C.
        eps: added to the variance.
        affine: learn a scale (from 1) and a shift (from 0) per channel.
    """

    #: Whether ``running`` of the forward context has an effect on this layer: what meta.bn_mode.bn_modes looks for.
    keeps_running_statistics: bool = False

    def __init__(self, num_features: int, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if affine else None

    def forward(
        self, x: Tensor, pool: bool = False, absorbed: Tensor | None = None, times: Tensor | None = None
    ) -> Tensor:
        """Normalise ``x [B, C, H, W]``, or ``[G*B, C, H, W]`` where the forward context says G ``tasks``.

        Args:
            x: images.
            pool: take a 2x2 max-pool of the result, at a quarter of the work for what follows.
            absorbed: a bias ``[C]`` that was not added to ``x``, because the statistics take it away again: its
                gradient is zero, and not missing.
            times: a number that the result is multiplied by, with no pass over the images.

        Raises:
            ValueError: if ``stat_rows`` is not in 1..B.
        """
        weight, bias = self.scale_and_shift()
        if absorbed is not None:
            bias = 0 * absorbed if bias is None else bias + 0 * absorbed
        if times is not None:
            # A copy: torch 2.11's backward pass reads an expanded scale as if its numbers lay side by side.
            weight = times.expand(self.num_features).contiguous() if weight is None else times * weight
            bias = None if bias is None else times * bias
        context = forward_context.current()
        tasks, rows = context.tasks, context.stat_rows
        if rows is None or rows * tasks == x.shape[0]:
            return self._by_own_statistics(x, weight, bias, tasks, pool)
        return self._by_first_rows(x, weight, bias, tasks, rows, pool)

    def _by_first_rows(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, tasks: int, rows: int, pool: bool
    ) -> Tensor:
        batch = x.shape[0] // tasks
        if not 0 < rows < batch:
            raise ValueError(f"stat_rows={rows} does not fit a batch of {batch} rows; it must be in 1..rows")
        # As [G, B, H, W, C]: put together as [G, B, C, H, W], images lose their layout and pools their speed.
        by_task = full_precision(x).permute(0, 2, 3, 1).unflatten(0, (tasks, batch))
        first = by_task[:, :rows]
        mean, variance = (value.view(tasks, 1, 1, 1, -1) for value in moments(first.flatten(1, 3)))
        scale = (variance + self.eps).rsqrt()
        if weight is not None:
            scale = scale * weight.view(-1, 1, 1, 1, self.num_features)
        shift = -mean * scale
        if bias is not None:
            shift = shift + bias.view(-1, 1, 1, 1, self.num_features)
        if pool:
            by_task = pooled_towards(by_task, scale)
        normed = torch.addcmul(shift, by_task[:, rows:], scale).to(x.dtype)  # one pass over the images
        # The first rows go through the same kernel as when they are alone: equal to the last bit, not to rounding.
        images = first.flatten(0, 1).permute(0, 3, 1, 2).to(x.dtype)
        alone = self._by_own_statistics(images, weight, bias, tasks, pool).permute(0, 2, 3, 1)
        return torch.cat((alone.unflatten(0, (tasks, rows)), normed), 1).flatten(0, 1).permute(0, 3, 1, 2)

    def absorbs_bias(self) -> bool:
        """Whether a number added to a whole channel changes nothing in the current pass."""
        return True

    def scale_and_shift(self) -> tuple[Tensor | None, Tensor | None]:
        """Return scale and shift for the current pass, ``[C]`` each; None without ``affine``."""
        return self.weight, self.bias

    def _by_own_statistics(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, tasks: int, pool: bool
    ) -> Tensor:
        # With few pixels torch's own derivatives cost less than the calls of ours.
        own = tasks > 1 or (weight is not None and weight.ndim > 1) or _mapped()
        if not own and (x.device.type != "cpu" or x.numel() < _MANY):
            out = F.batch_norm(x, None, None, weight, bias, training=True, eps=self.eps)
            return F.max_pool2d(out, 2) if pool else out
        normalise = pooled_batch_norm if pool else batch_norm
        return normalise(full_precision(x), weight, bias, self.eps, tasks).to(x.dtype)

    def extra_repr(self) -> str:
        """Show the constructor's arguments in ``print(net)``."""
        return f"{self.num_features}, eps={self.eps}, affine={self.weight is not None}"


class RunningBatchNorm2d(BatchNorm2d):
    """A :class:`BatchNorm2d` that also remembers the statistics of its training batches.

    It is the one layer whose forward pass writes. It serves learners that are trained on ordinary batches and evaluated
    on few images. In train mode the buffers ``running_mean`` and ``running_var`` (unbiased) move towards the statistics
    of the batch by ``momentum``, as in :class:`torch.nn.BatchNorm2d`. They stay where ``stat_rows`` is set, which is
    evaluation. They normalise only when :func:`few_shot_nas.forward_context.current` says ``running``, whatever the
    mode; else the layer does what its parent does.

    Args:
        num_features: channels C.
        eps: added to the variance.
        affine: learn a scale (from 1) and a shift (from 0) per channel.
        momentum: weight of the latest batch.
    """

    keeps_running_statistics = True

    def __init__(self, num_features: int, eps: float = 1e-5, affine: bool = True, momentum: float = 0.1) -> None:
        super().__init__(num_features, eps, affine)
        self.momentum = momentum
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def absorbs_bias(self) -> bool:
        """Where neither running statistics normalise nor the batch's are remembered."""
        context = forward_context.current()
        return not context.running and not (self.training and context.stat_rows is None)

    def forward(
        self, x: Tensor, pool: bool = False, absorbed: Tensor | None = None, times: Tensor | None = None
    ) -> Tensor:
        """Normalise ``x [B, C, H, W]``; arguments and errors are the parent's."""
        context = forward_context.current()
        if self.absorbs_bias():
            return super().forward(x, pool, absorbed, times)
        mean, var = cast(Tensor, self.running_mean), cast(Tensor, self.running_var)
        out = F.batch_norm(
            x, mean, var, self.weight, self.bias, training=not context.running, momentum=self.momentum, eps=self.eps
        )
        out = F.max_pool2d(out, 2) if pool else out
        return out if times is None else times * out


def keep_running_statistics(net: nn.Module, momentum: float = 0.1) -> None:
    """Put a :class:`RunningBatchNorm2d` in the place of every :class:`BatchNorm2d` of ``net``, with its parameters.

    The network computes what it did; its state_dict gains two buffers for each layer. Layers that remember already are
    left as they are.

    Raises:
        InputError: if there is no such layer.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), BatchNorm2d(4))
        >>> keep_running_statistics(net)
        >>> [name for name, _ in net.named_buffers()]
        ['1.running_mean', '1.running_var']
    """
    for parent in list(net.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is BatchNorm2d:
                stateful = RunningBatchNorm2d(layer.num_features, layer.eps, layer.weight is not None, momentum)
                # First to where the network is, and in its type: without affine, a layer has none of its own.
                stateful.to(next(net.parameters(), torch.empty(0))).train(layer.training)
                stateful.weight, stateful.bias = layer.weight, layer.bias
                setattr(parent, name, stateful)
    if not any(isinstance(module, RunningBatchNorm2d) for module in net.modules()):
        raise InputError(f"{type(net).__name__} has no batch normalisation whose running statistics could be kept")


class PerStepBatchNorm2d(BatchNorm2d):
    """BatchNorm2d that keeps one set of running statistics, of scales and of shifts per inner step.

    Source: Antoniou et al., ICLR 2019, arXiv:1810.09502, section 4 (BNRS, BNWB). Deviation: the authors' code writes
    running statistics and never reads them. Here they normalise when :func:`few_shot_nas.forward_context.current` says
    ``running``. A forward pass writes nothing: see :func:`update_statistics`. A step past the last one uses the set of
    the last one.

    Args:
        like: the layer to take the place of; its scale and shift are where every step starts.
        num_steps: number of steps T.
        statistics: keep running statistics, buffers ``[T, C]`` from mean 0 and variance 1.
        affine: keep scale and shift per step, ``[T, C]``; else ``like``'s one set, if it has one.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, like: BatchNorm2d, num_steps: int, *, statistics: bool, affine: bool) -> None:
        super().__init__(like.num_features, like.eps, affine=False)
        self.num_steps = num_steps
        self.weight, self.bias = like.weight, like.bias
        self.per_step_affine = affine and like.weight is not None
        self.keeps_running_statistics = statistics
        if self.per_step_affine and like.weight is not None and like.bias is not None:
            self.weight = nn.Parameter(like.weight.detach().repeat(num_steps, 1))
            self.bias = nn.Parameter(like.bias.detach().repeat(num_steps, 1))
        if statistics:
            self.register_buffer("running_mean", torch.zeros(num_steps, like.num_features))
            self.register_buffer("running_var", torch.ones(num_steps, like.num_features))
            if like.weight is not None:
                self.to(like.weight)

    def step(self) -> int:
        """Return the step whose set the current pass uses."""
        return min(forward_context.current().step, self.num_steps - 1)

    def scale_and_shift(self) -> tuple[Tensor | None, Tensor | None]:
        """Scale and shift of the current inner step."""
        if not self.per_step_affine or self.weight is None or self.bias is None:
            return self.weight, self.bias
        return self.weight[self.step()], self.bias[self.step()]

    def absorbs_bias(self) -> bool:
        """Where running statistics do not normalise."""
        return not (self.keeps_running_statistics and forward_context.current().running)

    def forward(
        self, x: Tensor, pool: bool = False, absorbed: Tensor | None = None, times: Tensor | None = None
    ) -> Tensor:
        """Normalise ``x [B, C, H, W]``, by the running statistics of the step if the context says so."""
        if self.absorbs_bias():
            return super().forward(x, pool, absorbed, times)
        mean, variance = self.running_mean[self.step()], self.running_var[self.step()]
        weight, bias = self.scale_and_shift()
        out = F.batch_norm(x, mean, variance, weight, bias, training=False, eps=self.eps)
        out = F.max_pool2d(out, 2) if pool else out
        return out if times is None else times * out


def per_step_layers(net: nn.Module) -> dict[str, PerStepBatchNorm2d]:
    """Return the per-step layers of ``net`` by name.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), BatchNorm2d(4))
        >>> make_per_step(net, 5, statistics=True, affine=True)
        >>> list(per_step_layers(net))
        ['1']
    """
    return {name: module for name, module in net.named_modules() if isinstance(module, PerStepBatchNorm2d)}


def make_per_step(net: nn.Module, num_steps: int, *, statistics: bool, affine: bool) -> None:
    """Replace every BatchNorm2d of ``net`` by a per-step one, in place.

    Raises:
        InputError: if there is none.
        ValueError: if one is per step already.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), BatchNorm2d(4))
        >>> make_per_step(net, 5, statistics=False, affine=True)
        >>> net[1].weight.shape
        torch.Size([5, 4])
    """
    layers = {name: module for name, module in net.named_modules() if isinstance(module, BatchNorm2d)}
    if not layers:
        raise InputError(
            f"{type(net).__name__} has no BatchNorm2d to keep anything per step; "
            "set per_step_statistics and per_step_affine to false, or choose another model"
        )
    if per_step_layers(net):
        raise ValueError(f"{type(net).__name__} has per-step BatchNorm2d already")
    for name, layer in layers.items():
        net.set_submodule(name, PerStepBatchNorm2d(layer, num_steps, statistics=statistics, affine=affine))


def norm_parameters(net: nn.Module) -> frozenset[str]:
    """Return the names of the scales and shifts of ``net``'s BatchNorm2d.

    Example:
        >>> sorted(norm_parameters(nn.Sequential(nn.Conv2d(3, 4, 3), BatchNorm2d(4))))
        ['1.bias', '1.weight']
    """
    layers = ((name, module) for name, module in net.named_modules() if isinstance(module, BatchNorm2d))
    return frozenset(f"{name}.{own}" if name else own for name, layer in layers for own, _ in layer.named_parameters())


@contextmanager
def recorded_statistics(net: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Record what the per-step layers see: name -> ``[2, C]``, mean and unbiased variance of the latest pass.

    For passes outside ``torch.func`` transformations, whose tensors may not escape.

    Example:
        >>> net = nn.Sequential(BatchNorm2d(1))
        >>> make_per_step(net, 1, statistics=True, affine=False)
        >>> with recorded_statistics(net) as seen:
        ...     _ = net(torch.tensor([1.0, 3.0]).view(2, 1, 1, 1))
        >>> seen["0"].tolist()
        [[2.0], [2.0]]
    """
    seen: dict[str, Tensor] = {}

    def record(name: str, x: Tensor, absorbed: Tensor | None) -> None:
        variance, mean = torch.var_mean(x.detach(), dim=(0, 2, 3), correction=1)
        seen[name] = torch.stack((mean if absorbed is None else mean + absorbed.detach(), variance))

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], dict[str, Any]], None]:
        return lambda module, inputs, named: record(name, inputs[0], named.get("absorbed"))

    layers = per_step_layers(net)
    handles = [layer.register_forward_pre_hook(hook(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def update_statistics(net: nn.Module, seen: Mapping[str, Tensor], momentum: float = 0.1) -> None:
    """Move the running statistics of every step towards what was seen.

    Args:
        net: the network.
        seen: layer name -> ``[T, 2, C]``, mean and variance per step.
        momentum: weight of what was seen, as in :class:`torch.nn.BatchNorm2d`.

    Example:
        >>> net = nn.Sequential(BatchNorm2d(1))
        >>> make_per_step(net, 1, statistics=True, affine=False)
        >>> update_statistics(net, {"0": torch.tensor([[[2.0], [3.0]]])}, momentum=0.5)
        >>> net[0].running_mean.tolist(), net[0].running_var.tolist()
        ([[1.0]], [[2.0]])
    """
    with torch.no_grad():
        for name, layer in per_step_layers(net).items():
            layer.running_mean.lerp_(seen[name][:, 0].to(layer.running_mean), momentum)
            layer.running_var.lerp_(seen[name][:, 1].to(layer.running_var), momentum)
