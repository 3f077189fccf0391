"""Choose an architecture for each task by gradient: alphas on a frozen supernet, a descent on the support set. Pure.

The descent sees no query label. Its loss is the cross-entropy of each support image under the prototypes of the other
support images, which the reward tables hold as ``loo_loss`` of single architectures.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad

from few_shot_nas.episode import HasSupport, Task
from few_shot_nas.errors import InputError
from few_shot_nas.forward_context import forward_context
from few_shot_nas.meta.features import query_features, support_features
from few_shot_nas.meta.functional import full_precision
from few_shot_nas.meta.inner_loop import adapt
from few_shot_nas.meta.prototype_scores import leave_one_out_scores, query_scores
from few_shot_nas.search.derivation import Decisions
from few_shot_nas.spaces.layered import LayeredBody
from few_shot_nas.spaces.supernet import Supernet

#: Forward passes that a gradient costs: one forward, and a backward of about two.
_GRADIENT = 3


@dataclass(frozen=True)
class AlphaDescent:
    """How alphas are adapted to a task.

    Attributes:
        n_way: number of classes.
        steps: gradient steps on the support set.
        rate: step size, in units of alpha per unit gradient.
        bn_mode: what normalises query images, where they are looked at.
    """

    n_way: int
    steps: int
    rate: float
    bn_mode: str = "transductive"

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.rate > 0:
            raise InputError(f"alphas with steps={self.steps}, rate={self.rate:g}: needed are at least 1 and above 0")


def layers_of(supernet: Supernet) -> LayeredBody:
    """Return the body of a supernet whose first layer runs once for many mixtures.

    Raises:
        InputError: if it is not one of layers.
    """
    if not isinstance(supernet.body, LayeredBody):
        raise InputError(
            f"alphas: space {supernet.space.name} has no first layer that many mixtures could share; take a supernet "
            "of space chain or conv4_chain"
        )
    return supernet.body


def neutral_alphas(supernet: Supernet) -> Tensor:
    """Return the alphas that prefer no op: zeros ``[layers, ops]``, of the type and on the device of the weights."""
    decisions = supernet.space.decisions
    return torch.zeros(len(decisions), len(decisions[0].choices)).to(next(supernet.parameters()).detach())


def step_cost(supernet: Supernet) -> int:
    """Return what a step costs, in forward passes of one architecture with average ops on the support set.

    Every layer runs all of its ops instead of one, and a gradient counts as three forward passes.
    """
    return _GRADIENT * len(supernet.space.decisions[0].choices)


def mixture_features(supernet: Supernet, x: Tensor, stat_rows: int | None = None) -> Callable[[Tensor], Tensor]:
    """Return the features ``[B, D]`` of images as a function of the alphas ``[layers, ops]``.

    The ops of the first layer run once, here. The others run at every call, weighted by the softmax of the alphas.

    Args:
        supernet: the frozen weights.
        x: images ``[B, C, H, W]``.
        stat_rows: batch statistics are taken from the first ``stat_rows`` images only; None takes all.
    """
    body, space = layers_of(supernet), supernet.space
    ((cell_type, edges),) = space.menu().items()
    with torch.no_grad(), forward_context(stat_rows=stat_rows):
        opened = body.opened(x, next(iter(edges.values())))

    def features(alphas: Tensor) -> Tensor:
        weights = space.edge_weights({cell_type: alphas.softmax(dim=-1)})
        with forward_context(stat_rows=stat_rows):
            return full_precision(body.mixed_from(opened, weights))

    return features


def support_loss(supernet: Supernet, task: HasSupport, n_way: int) -> Callable[[Tensor], Tensor]:
    """Return the leave-one-out cross-entropy of a support set as a function of the alphas ``[layers, ops]``."""
    features = mixture_features(supernet, task.support_x)
    return lambda alphas: leave_one_out_scores(features(alphas).unsqueeze(0), task.support_y, n_way).loss[0]


def query_loss(supernet: Supernet, task: Task, loop: AlphaDescent) -> Callable[[Tensor], Tensor]:
    """Return the cross-entropy of the queries under the support set's prototypes as a function of the alphas."""
    support = mixture_features(supernet, task.support_x)
    rows = len(task.support_y) if loop.bn_mode == "support" else 0
    query = mixture_features(supernet, torch.cat([task.support_x[:rows], task.query_x]), rows or None)

    def loss(alphas: Tensor) -> Tensor:
        first, second = support(alphas).unsqueeze(0), query(alphas)[rows:].unsqueeze(0)
        return query_scores(first, task.support_y, second, task.query_y, loop.n_way).loss[0]

    return loss


def adapted_alphas(supernet: Supernet, task: HasSupport, start: Tensor, loop: AlphaDescent) -> Tensor:
    """Return the alphas after gradient descent on the support loss, ``[layers, ops]``; the weights stay frozen.

    Source: Lian et al., ICLR 2020, "Towards fast adaptation of neural architectures with meta learning" (T-NAS),
    equation 5, its second line. Deviation: the weights are not adapted along with the alphas.

    Args:
        supernet: the frozen weights.
        task: one task, of which the support set is used.
        start: alphas to start from.
        loop: number and size of the steps.
    """
    loss = support_loss(supernet, task, loop.n_way)
    return adapt(
        lambda params, step: loss(params["alphas"]),
        {"alphas": start},
        lr=lambda name, step: loop.rate,
        num_steps=loop.steps,
        second_order=False,
    )[-1]["alphas"].detach()


def likeliest(alphas: Tensor) -> Decisions:
    """Return the op of the largest alpha in each layer, the first of equals."""
    return tuple(alphas.argmax(dim=-1).tolist())


def chosen_accuracy(
    supernet: Supernet, replicates: Sequence[Task], start: Tensor, loop: AlphaDescent
) -> float:
    """Return the mean query accuracy of what is chosen on each replicate of a task and scored on the next replicate."""
    found = []
    for index, task in enumerate(replicates):
        genotype = supernet.space.decode(likeliest(adapted_alphas(supernet, task, start, loop)))
        other = replicates[(index + 1) % len(replicates)]
        with torch.no_grad():
            support = support_features(supernet, other, genotype=genotype).unsqueeze(0)
            query = query_features(supernet, other, loop.bn_mode, genotype=genotype).unsqueeze(0)
            found.append(query_scores(support, other.support_y, query, other.query_y, loop.n_way).accuracy[0])
    return float(torch.stack(found).mean())


def meta_learned(
    supernet: Supernet, batches: Iterable[Sequence[Task]], start: Tensor, loop: AlphaDescent, outer_lr: float
) -> Tensor:
    """Learn where the alphas of every task start, first order: Adam on the mean query gradient at the adapted alphas.

    Source: T-NAS, equation 6 in its first-order form, as the authors' code computes it, with betas (0.5, 0.999).
    Deviations: the weights are frozen, and there is no weight decay.

    Args:
        supernet: the frozen weights.
        batches: meta-batches of single training tasks, one for each outer step.
        start: alphas before the first step.
        loop: the inner loop of every task.
        outer_lr: rate of Adam.

    Returns:
        Alphas ``[layers, ops]``.
    """
    alphas = start.detach().clone()
    optimizer = torch.optim.Adam([alphas], lr=outer_lr, betas=(0.5, 0.999))
    for batch in batches:
        with torch.no_grad():  # stops the outer tape only, as in the inner loop
            ends = [(task, adapted_alphas(supernet, task, alphas, loop)) for task in batch]
            gradients = [grad(query_loss(supernet, task, loop))(end) for task, end in ends]
        alphas.grad = torch.stack(gradients).mean(0)
        optimizer.step()
    return alphas.detach()
