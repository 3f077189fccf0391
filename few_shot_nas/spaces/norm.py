"""Batch normalisation: without running statistics as a rule, with them where a learner asks for it."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from few_shot_nas import forward_context
from few_shot_nas.errors import InputError


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

    def __init__(self, num_features: int, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x [B, C, H, W]``.

        Raises:
            ValueError: if ``stat_rows`` is not in 1..B.
        """
        rows = forward_context.current().stat_rows
        if rows is None or rows == x.shape[0]:
            return self._by_own_statistics(x)
        if not 0 < rows < x.shape[0]:
            raise ValueError(f"stat_rows={rows} does not fit a batch of {x.shape[0]} rows; it must be in 1..rows")
        first, rest = x[:rows], x[rows:]
        variance, mean = torch.var_mean(first, dim=(0, 2, 3), correction=0, keepdim=True)
        scale = (variance + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight.view(1, -1, 1, 1)
        normed = (rest - mean) * scale
        if self.bias is not None:
            normed = normed + self.bias.view(1, -1, 1, 1)
        # The first rows go through the same kernel as when they are alone: equal to the last bit, not to rounding.
        return torch.cat((self._by_own_statistics(first), normed))

    def _by_own_statistics(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)

    def extra_repr(self) -> str:
        """Show the constructor's arguments in ``print(net)``."""
        return f"{self.num_features}, eps={self.eps}, affine={self.weight is not None}"


class RunningBatchNorm2d(BatchNorm2d):
    """A :class:`BatchNorm2d` that also remembers the statistics of its training batches.

    The one stateful layer, for learners that are trained on ordinary batches and evaluated on few images. In train mode
    the buffers ``running_mean`` and ``running_var`` (unbiased) move towards those of the batch by ``momentum``, as in
    :class:`torch.nn.BatchNorm2d`; not where ``stat_rows`` is set, which is evaluation. They normalise only when
    :func:`few_shot_nas.forward_context.current` says ``running``, whatever the mode; else the layer does what its
    parent does.

    Args:
        num_features: channels C.
        eps: added to the variance.
        affine: learn a scale (from 1) and a shift (from 0) per channel.
        momentum: weight of the latest batch.
    """

    keeps_running_statistics = True  # what meta.outer_loss.bn_modes looks for

    def __init__(self, num_features: int, eps: float = 1e-5, affine: bool = True, momentum: float = 0.1) -> None:
        super().__init__(num_features, eps, affine)
        self.momentum = momentum
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x [B, C, H, W]``.

        Raises:
            ValueError: if ``stat_rows`` is not in 1..B.
        """
        context = forward_context.current()
        learns = self.training and context.stat_rows is None
        if not (context.running or learns):
            return super().forward(x)
        mean, var = cast(Tensor, self.running_mean), cast(Tensor, self.running_var)
        return F.batch_norm(
            x, mean, var, self.weight, self.bias, training=not context.running, momentum=self.momentum, eps=self.eps
        )


def keep_running_statistics(net: nn.Module, momentum: float = 0.1) -> None:
    """Put a :class:`RunningBatchNorm2d` in the place of every :class:`BatchNorm2d` of ``net``, with its parameters.

    The network computes what it did; its state_dict gains two buffers for each layer. Layers that remember already are
    left as they are.

    Raises:
        InputError: if there is no such layer.
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
