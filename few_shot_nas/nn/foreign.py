"""Layers from elsewhere that would make a network learn one thing and be scored on another."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from few_shot_nas.errors import InputError
from few_shot_nas.nn.norm import BatchNorm2d


def _is_foreign(module: nn.Module) -> bool:
    """Whether a layer normalises by a batch and is not ours, or by running statistics that no inner loop trains."""
    own = hasattr(module, "keeps_running_statistics")
    return isinstance(module, _BatchNorm) or (getattr(module, "running_mean", None) is not None and not own)


def refuse_foreign_norms(net: nn.Module) -> None:
    """Refuse a network with batch normalisation that is not :class:`few_shot_nas.nn.norm.BatchNorm2d`.

    Torch's own normalises by the batch in training and by running statistics in evaluation. An inner loop leaves the
    running statistics where they started, so that the network is at chance in every validation, without a word.
    Without running statistics torch's layer normalises support and queries together, whatever the bn_mode says.

    Raises:
        InputError: naming the first of the layers and what to do.

    Example:
        >>> refuse_foreign_norms(nn.Sequential(BatchNorm2d(8), nn.GroupNorm(4, 8)))
        >>> refuse_foreign_norms(nn.Sequential(nn.BatchNorm2d(8)))
        Traceback (most recent call last):
        few_shot_nas.errors.InputError: Sequential: 1 layers such as 0 (BatchNorm2d) would be at chance ...
    """
    foreign = [(name, module) for name, module in net.named_modules() if _is_foreign(module)]
    if foreign:
        name, module = foreign[0]
        raise InputError(
            f"{type(net).__name__}: {len(foreign)} layers such as {name} ({type(module).__name__}) would be at chance "
            "in validation, where they normalise by running statistics that no inner loop trains; build the network "
            "with few_shot_nas.nn.norm.BatchNorm2d, or pass it through "
            "few_shot_nas.nn.foreign.replace_foreign_norms first"
        )


def written_buffers(net: nn.Module, images: Tensor) -> list[str]:
    """Return the names of the buffers that a pass in train mode changes; the network itself is left as it is.

    Args:
        net: a network that takes images alone.
        images: ``[B, C, H, W]``.

    Example:
        >>> written_buffers(nn.BatchNorm2d(3), torch.ones(2, 3, 4, 4))
        ['running_mean', 'running_var', 'num_batches_tracked']
        >>> written_buffers(BatchNorm2d(3), torch.ones(2, 3, 4, 4))
        []
    """
    trained = copy.deepcopy(net).train()
    with torch.no_grad(), torch.random.fork_rng([images.device] if images.device.type == "cuda" else []):
        trained(images)
    before = dict(net.named_buffers())
    return [name for name, value in trained.named_buffers() if name in before and not value.equal(before[name])]


def refuse_written_buffers(net: nn.Module, images: Tensor) -> None:
    """Refuse a network that remembers what it was trained on in buffers, whatever its layers are called.

    An inner loop runs a network on copies of its buffers (:func:`few_shot_nas.meta.functional.call`), so what a layer
    writes there is dropped. A layer that reads the buffer in evaluation would then act as it did before training.

    Args:
        net: a network that takes images alone.
        images: ``[B, C, H, W]``; two are enough.

    Raises:
        InputError: naming the first of the buffers and what to do.

    Example:
        >>> refuse_written_buffers(nn.Sequential(BatchNorm2d(3), nn.Dropout()), torch.ones(2, 3, 4, 4))
    """
    written = written_buffers(net, images)
    if written:
        raise InputError(
            f"{type(net).__name__}: training writes to {len(written)} buffers such as {written[0]}, and an inner loop "
            "drops what is written there, so that evaluation would read the untrained buffer; take a layer that keeps "
            "nothing, or a learner without inner loop such as ProtoNet"
        )


def replace_foreign_norms(net: nn.Module) -> nn.Module:
    """Replace every ``torch.nn.BatchNorm2d`` of a network by ours, in place, and return the network.

    In train mode the two compute the same. Scale and shift are kept as they are, as the same parameters; running
    statistics are dropped.

    Example:
        >>> replace_foreign_norms(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, eps=1e-3)))[1]
        BatchNorm2d(8, eps=0.001, affine=True)
    """
    for name, module in list(net.named_modules()):
        if type(module) is nn.BatchNorm2d:
            norm = BatchNorm2d(module.num_features, eps=module.eps, affine=module.affine)
            norm.weight, norm.bias = module.weight, module.bias
            if not name:
                return norm
            parent, _, own = name.rpartition(".")
            setattr(net.get_submodule(parent), own, norm)
    return net
