"""MetaNTK: the kernel that meta-learning by MAML or ANIL follows in wide networks."""

import math

import torch
from torch import Tensor


def meta_ntk(
    ntk: Tensor, kernel: Tensor, *, n_query: int, n_support: int, inner_lr_time: float, reg: float
) -> Tensor:
    """Kernel of the queries after the inner loop, ``[M n_query, M n_query]``.

    With the blocks ``s_i`` and ``q_i`` of task i, ``K`` the kernel of what the inner loop adapts, and ``t`` its rate
    times its number of steps::

        T_i  = pinv(K[s_i, s_i] + reg I) (I - exp(-t K[s_i, s_i]))       for t = inf the second factor is I
        A_i  = K[q_i, s_i] T_i
        M_ij = ntk[q_i, q_j] - A_i ntk[s_i, q_j] - ntk[q_i, s_j] A_j^T + A_i ntk[s_i, s_j] A_j^T

    It is computed as ``M = P ntk P^T`` with ``P = [I, -blockdiag(A_i)]``, which is the same, and positive semidefinite
    wherever ``ntk`` is. For one task, ``K = ntk``, ``t = inf`` and ``reg = 0`` it is the Schur complement of the
    support block. Blocks of different tasks are kept; ``reg`` stands in the inverse and not in the exponential.

    Source: Wang et al., CVPR 2022 (MetaNTK-NAS), equation of Theorem 1, and the released code for ``reg``. Deviations:
    float64 throughout (their code mixes float32 kernels with float64 identities); one symmetric eigendecomposition
    gives inverse and exponential.

    Args:
        ntk: tangent kernel of all examples, ordered [queries of task 1, of task 2, ..; supports of task 1, of task
            2, ..], ``[M (n_query + n_support)] * 2``.
        kernel: the same for what the inner loop adapts: ``ntk`` for MAML, that of the head (nngp) for ANIL.
        n_query: queries of a task, all classes together.
        n_support: support images of a task, all classes together.
        inner_lr_time: ``t``, 0 for no adaptation; ``inf`` is allowed.
        reg: added to the diagonal of the support block before it is inverted.

    Raises:
        ValueError: if the sizes do not fit together, or ``inner_lr_time`` or ``reg`` is negative.

    Example:
        One task, one query, one support image: ``a - b^2 / c`` at infinite time.

        >>> k = torch.tensor([[4.0, 2.0], [2.0, 8.0]])
        >>> meta_ntk(k, k, n_query=1, n_support=1, inner_lr_time=math.inf, reg=0.0).tolist()
        [[3.5]]
    """
    per_task = n_query + n_support
    if n_query < 1 or n_support < 1 or not len(ntk) or len(ntk) % per_task or kernel.shape != ntk.shape:
        raise ValueError(
            f"meta_ntk() needs square kernels of M ({n_query} + {n_support}) examples, "
            f"got {list(ntk.shape)} and {list(kernel.shape)}"
        )
    if not inner_lr_time >= 0 or not reg >= 0:
        raise ValueError(f"meta_ntk() needs inner_lr_time and reg of at least 0, got {inner_lr_time} and {reg}")
    ntk, kernel = ntk.double(), kernel.double()
    n_tasks = len(ntk) // per_task
    queries = n_tasks * n_query
    blocks = []
    for task in range(n_tasks):
        q = slice(task * n_query, (task + 1) * n_query)
        s = slice(queries + task * n_support, queries + (task + 1) * n_support)
        blocks.append(kernel[q, s] @ adaptation(kernel[s, s], inner_lr_time, reg))
    identity = torch.eye(queries, dtype=torch.float64, device=ntk.device)
    projection = torch.cat([identity, -torch.block_diag(*blocks)], dim=1)
    found = projection @ ntk @ projection.T
    return (found + found.T) / 2


def adaptation(kernel: Tensor, inner_lr_time: float, reg: float) -> Tensor:
    """``pinv(K + reg I) (I - exp(-t K))`` of a symmetric ``K [S, S]``, through its eigenvalues.

    Eigenvalues of ``K + reg I`` below ``S * eps`` times the largest count as zero in the pseudo-inverse, as in
    ``scipy.linalg.pinvh``.

    Example:
        >>> adaptation(torch.eye(2, dtype=torch.double), math.inf, reg=1.0).tolist()
        [[0.5, 0.0], [0.0, 0.5]]
    """
    values, vectors = torch.linalg.eigh((kernel + kernel.T).double() / 2)
    inverted = values + reg
    floor = inverted.abs().max() * len(kernel) * torch.finfo(torch.float64).eps
    done = torch.ones_like(values) if math.isinf(inner_lr_time) else -torch.expm1(-inner_lr_time * values)
    factors = torch.where(inverted.abs() > floor, done / inverted, torch.zeros_like(values))
    return (vectors * factors) @ vectors.T
