"""The outer loss of one task: what the query set says about the adapted parameters."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from few_shot_nas.episode import HasQueries, HasSupport
from few_shot_nas.meta.bn_mode import BN_MODES, check_bn_mode, run_queries
from few_shot_nas.meta.functional import Params, call


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy over the images of a task, summed over the tasks.

    Args:
        logits: of one task ``[B, N]``, or of M tasks ``[M, B, N]``.
        labels: ``[B]`` or ``[M, B]``.
        label_smoothing: share of every label that is spread evenly over the classes.

    Returns:
        A scalar; the gradients for the logits of a task are those of the task's own loss.

    Example:
        >>> cross_entropy(torch.zeros(3, 4, 5), torch.zeros(3, 4, dtype=torch.int64)).exp().round()
        tensor(125.)
    """
    if logits.ndim == 2:
        return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    mean = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=label_smoothing)
    return len(logits) * mean


def support_loss(net: nn.Module, task: HasSupport, params: Params, step: int, **inputs: Any) -> Tensor:
    """Mean cross-entropy of ``net`` with ``params`` on the support set of one task: the loss of the inner loop.

    For a whole meta-batch, whose tasks may each have parameters of their own, it is the sum over the tasks.

    Example:
        >>> from few_shot_nas.episode import SupportSet
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
        >>> task = SupportSet(torch.ones(4, 3, 2, 2), torch.tensor([0, 0, 1, 1]))
        >>> zeros = {name: torch.zeros_like(value) for name, value in net.named_parameters()}
        >>> round(support_loss(net, task, zeros, step=0).item(), 4)
        0.6931
    """
    return cross_entropy(call(net, params, task.support_x, step=step, **inputs), task.support_y)


def query_logits(net: nn.Module, task: HasQueries, params: Params, step: int, bn_mode: str, **inputs: Any) -> Tensor:
    """Logits of the query images of one task, or of the tasks of a meta-batch.

    Args:
        net: the network.
        task: one task; or a meta-batch, for a network that takes many tasks at once (see
            :func:`few_shot_nas.meta.functional.call`).
        params: the adapted parameters.
        step: index of the inner step whose per-step statistics apply (the last one taken).
        bn_mode: what normalises the queries, see :func:`few_shot_nas.meta.bn_mode.run_queries`.
        **inputs: further keyword inputs of the network.

    Returns:
        ``[Q, N]``, or ``[M, Q, N]``.

    Raises:
        InputError: for another ``bn_mode``, or ``running`` where the network keeps no running statistics.

    Example:
        >>> from few_shot_nas.episode import Task
        >>> net, labels = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.tensor([0, 1])
        >>> task = Task(torch.ones(2, 3, 2, 2), labels, torch.ones(6, 3, 2, 2), labels.repeat(3))
        >>> query_logits(net, task, {}, 0, "transductive").shape
        torch.Size([6, 2])
    """
    if bn_mode not in BN_MODES:  # which every network has
        check_bn_mode(net, bn_mode, per_query=True)
    run = partial(call, net, params, step=step, **inputs)
    return run_queries(run, task.support_x, task.query_x, bn_mode)


def multi_step_weights(num_steps: int, meta_step: int, until: int) -> list[float] | None:
    """Weights of the query losses after each inner update, annealed towards the last one alone.

    Source: MAML++ (Antoniou et al., ICLR 2019, arXiv:1810.09502, section 4, multi-step loss) with the constants of the
    authors' code: from ``1/T`` each, the weights before the last fall linearly with slope ``1/(T * until)`` to
    ``0.03/T``, and what they lose goes to the last; from ``until`` on the last loss counts alone. Deviation: time is
    counted in meta-steps, in the authors' code in epochs of 500.

    Args:
        num_steps: number of inner updates T.
        meta_step: outer updates so far.
        until: meta-steps that the multi-step loss lasts; 0 for none.

    Returns:
        ``[T]`` weights that sum to one; None for the last loss alone.

    Example:
        >>> [round(weight, 3) for weight in multi_step_weights(4, 0, 100)], multi_step_weights(4, 100, 100)
        ([0.25, 0.25, 0.25, 0.25], None)
        >>> [round(weight, 3) for weight in multi_step_weights(4, 50, 100)]
        [0.125, 0.125, 0.125, 0.625]
    """
    if meta_step >= until or num_steps == 1:
        return None
    early = max(1 / num_steps - meta_step / (num_steps * until), 0.03 / num_steps)
    return [early] * (num_steps - 1) + [1 - (num_steps - 1) * early]


def weighted_sum(losses: Sequence[Tensor], weights: Sequence[float] | Tensor) -> Tensor:
    """Return ``sum_s weights[s] * losses[s]``, a scalar.

    Example:
        >>> weighted_sum([torch.tensor(1.0), torch.tensor(4.0)], [0.5, 0.25]).item()
        1.5
    """
    return torch.stack([weight * loss for weight, loss in zip(weights, losses, strict=True)]).sum()


def nil_logits(support: Tensor, labels: Tensor, queries: Tensor, n_way: int) -> Tensor:
    """Score classes without a head: support labels weighted by cosine similarity.

    Source: the NIL test of Raghu et al., ICLR 2020, arXiv:1909.09157, section 5. Class n gets the sum of the
    similarities between the query and the support images of class n.

    Args:
        support: penultimate features ``[S, D]``.
        labels: their labels ``[S]`` in 0..n_way-1.
        queries: features ``[Q, D]``.
        n_way: number of classes N.

    Returns:
        ``[Q, N]``.

    Example:
        >>> support, labels = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0, 1])
        >>> nil_logits(support, labels, torch.tensor([[5.0, 0.0]]), 2).tolist()
        [[2.0, 0.0]]
    """
    similarity = F.normalize(queries, dim=1) @ F.normalize(support, dim=1).T
    return similarity @ F.one_hot(labels, n_way).to(similarity.dtype)
