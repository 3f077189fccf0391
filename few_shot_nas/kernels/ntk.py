"""The empirical neural tangent kernel of a network on a batch, without ever holding the whole Jacobian."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Numbers that one piece of a Jacobian may hold: 256 MiB in float32.
PIECE = 1 << 26


class Tap(NamedTuple):
    """One call of a layer: what went in and what came out."""

    layer: nn.Module
    x: Tensor
    out: Tensor


def taps(forward: Callable[[Tensor], Tensor], layers: Iterable[nn.Module], images: Tensor) -> tuple[Tensor, list[Tap]]:
    """Run a network and record the calls of its convolutions and linear layers.

    The hooks are gone when the function returns.

    Args:
        forward: the network.
        layers: modules among which the convolutions and linear layers are recorded; others are left out.
        images: the network's input.

    Returns:
        What ``forward`` returned, and one :class:`Tap` for each call, in the order of the calls. Every recorded output
        is part of the graph of the result, if the result depends on it.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> logits, seen = taps(net, net.modules(), torch.ones(5, 3))
        >>> logits.shape, [(tap.x.shape[1], tap.out.shape[1]) for tap in seen]
        (torch.Size([5, 2]), [(3, 4), (4, 2)])
    """
    seen: list[Tap] = []

    def record(layer: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        seen.append(Tap(layer, inputs[0], out if out.requires_grad else out.requires_grad_()))

    chosen = [layer for layer in layers if isinstance(layer, (nn.Conv2d, nn.Linear))]
    handles = [layer.register_forward_hook(record) for layer in chosen]
    try:
        with torch.enable_grad():
            return forward(images), seen
    finally:
        for handle in handles:
            handle.remove()


def ntk(
    forward: Callable[[Tensor], Tensor],
    layers: Iterable[nn.Module],
    images: Tensor,
    *,
    biases: bool = False,
    dtype: torch.dtype | None = None,
    piece: int = PIECE,
) -> Tensor:
    """Neural tangent kernel of the summed logits, ``K_nm = sum_l <d s(x_n)/d W_l, d s(x_m)/d W_l>``.

    ``s(x) = sum_c logit_c(x)``, and ``W_l`` are the weights of the convolutions and linear layers among ``layers``:
    scales and shifts of normalisation layers are left out. One forward and one backward pass give the derivatives of
    all layers' outputs; then the Gram matrices of the layers are summed one by one:

    - linear, ``[B, I] -> [B, O]``: ``(D D^T) * (X X^T)`` with ``D = d s / d out``;
    - convolution: ``g_n = D_n U_n^T`` with ``U_n`` the unfolded input (per group), and ``K_nm = <g_n, g_m>``.

    Only for networks that treat each image on its own (no batch statistics): there ``d sum_m s(x_m) / d out_n`` is the
    derivative of ``s(x_n)`` alone. For others see :func:`jacobian_ntk`.

    Source: Wang et al., CVPR 2022 (MetaNTK-NAS), whose code sums the gradients of single examples. Deviation: layer by
    layer instead of all per-example gradients at once, so that the memory does not grow with the network.

    Args:
        forward: the network, images ``[B, C, H, W]`` to logits ``[B, N]``.
        layers: its modules, e.g. ``net.modules()``.
        images: the batch; its type is that of the passes.
        biases: whether the biases of these layers count as well.
        dtype: type of the Gram matrices; that of the images by default. Sums over layers are taken in float64.
        piece: numbers that a piece of a Jacobian may hold at a time; convolutions are cut by output channels.

    Returns:
        ``[B, B]`` float64, symmetric and positive semidefinite up to rounding.

    Raises:
        ValueError: for a convolution that does not pad with zeros.

    Example:
        >>> net = nn.Linear(2, 3, bias=False).double()
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 2.0]], dtype=torch.double)
        >>> ntk(net, net.modules(), x).tolist()  # ways times <x, x'>
        [[3.0, 3.0], [3.0, 15.0]]
    """
    with torch.enable_grad():
        logits, seen = taps(forward, layers, images)
        derivatives = torch.autograd.grad(logits.sum(), [tap.out for tap in seen], allow_unused=True)
    gram = torch.zeros(len(images), len(images), dtype=torch.float64, device=images.device)
    by_layer: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}
    for tap, derivative in zip(seen, derivatives, strict=True):
        if derivative is not None:
            pair = (tap.x.detach().to(dtype or images.dtype), derivative.to(dtype or images.dtype))
            by_layer.setdefault(tap.layer, []).append(pair)
    with torch.no_grad():
        for layer, calls in by_layer.items():
            gram += layer_gram(layer, calls, piece)
            if biases and layer.bias is not None:
                sums = torch.stack([_by_group(layer, d, 1).sum(3).flatten(1) for _, d in calls]).sum(0)
                gram += (sums @ sums.T).double()
    return (gram + gram.T) / 2


def layer_gram(layer: nn.Module, calls: Sequence[tuple[Tensor, Tensor]], piece: int = PIECE) -> Tensor:
    """Gram matrix ``[B, B]`` of the per-example gradients of one layer's weight.

    Args:
        layer: a convolution or a linear layer.
        calls: for every call of the layer its input and the derivative by its output; their gradients add up.
        piece: numbers that a piece of the gradients may hold.

    Example:
        >>> x, derivative = torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[1.0], [3.0]])
        >>> layer_gram(nn.Linear(2, 1), [(x, derivative)]).tolist()  # of the gradients (1, 2) and (0, 3)
        [[5.0, 6.0], [6.0, 9.0]]
    """
    first, derivative = calls[0]
    if isinstance(layer, nn.Linear) and len(calls) == 1 and first.ndim == 2:
        return ((derivative @ derivative.T) * (first @ first.T)).double()
    gram: Tensor | None = None
    for gradient in weight_gradients(layer, calls, piece):
        rows = gradient.flatten(1)
        part = (rows @ rows.T).double()
        gram = part if gram is None else gram + part
    assert gram is not None  # a layer has outputs
    return gram


def weight_gradients(
    layer: nn.Module, calls: Sequence[tuple[Tensor, Tensor]], piece: int = PIECE
) -> Iterator[Tensor]:
    """Yield the per-example gradients of a layer's weight, ``[B, ...]``, in pieces along its output channels.

    Example:
        >>> x, derivative = torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[1.0], [3.0]])
        >>> [part.flatten(1).tolist() for part in weight_gradients(nn.Linear(2, 1), [(x, derivative)])]
        [[[1.0, 2.0], [0.0, 3.0]]]
    """
    columns = [_columns(layer, x) for x, _ in calls]
    groups = columns[0].shape[1]
    derivatives = [_by_group(layer, d, groups) for _, d in calls]
    batch, _, outputs, _ = derivatives[0].shape
    size = max(1, piece // (batch * groups * columns[0].shape[2]))
    for start in range(0, outputs, size):
        part = slice(start, start + size)
        pairs = zip(derivatives, columns, strict=True)
        products = [d[:, :, part] @ column.transpose(2, 3) for d, column in pairs]
        yield products[0] if len(products) == 1 else torch.stack(products).sum(0)


def _columns(layer: nn.Module, x: Tensor) -> Tensor:
    """Return what each output position is a product of: ``[B, groups, inputs per group, positions]``."""
    if isinstance(layer, nn.Linear):
        return x.reshape(len(x), -1, x.shape[-1]).transpose(1, 2).unsqueeze(1)
    assert isinstance(layer, nn.Conv2d)
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise ValueError(f"ntk() needs convolutions that pad a number of zeros, got {layer}")
    if layer.kernel_size == (1, 1) and layer.padding == (0, 0):
        flat = x[:, :, :: layer.stride[0], :: layer.stride[1]].flatten(2)
    else:
        flat = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    return flat.unflatten(1, (layer.groups, -1))


def _by_group(layer: nn.Module, derivative: Tensor, groups: int) -> Tensor:
    """Return the derivative by a layer's output as ``[B, groups, outputs per group, positions]``."""
    if isinstance(layer, nn.Linear):
        return derivative.reshape(len(derivative), -1, derivative.shape[-1]).transpose(1, 2).unsqueeze(1)
    return derivative.flatten(2).unflatten(1, (groups, -1))


def jacobian_ntk(outputs: Tensor, params: Iterable[Tensor], *, piece: int = PIECE) -> Tensor:
    """Neural tangent kernel of any scalars, ``K_nm = <d s_n/d theta, d s_m/d theta>``.

    One backward pass for every scalar and every group of parameters; a group is as large as ``piece`` allows. This is
    the kernel of networks with batch statistics, where every output depends on all images (TE-NAS), and of parameters
    of any kind.

    Source: Chen et al., ICLR 2021 (TE-NAS), arXiv:2102.11535, section 3.1.1.

    Args:
        outputs: the scalars ``s [B]``, with their graph.
        params: the parameters.
        piece: numbers that a piece of the Jacobian may hold.

    Returns:
        ``[B, B]`` float64.

    Example:
        >>> w = torch.tensor([2.0, 3.0], requires_grad=True)
        >>> jacobian_ntk(torch.stack([w[0] * w[1], w[0]]), [w]).tolist()
        [[13.0, 3.0], [3.0, 1.0]]
    """
    gram = torch.zeros(len(outputs), len(outputs), dtype=torch.float64, device=outputs.device)
    for group in _groups(params, piece // len(outputs)):
        rows = []
        for output in outputs:
            found = torch.autograd.grad(output, group, retain_graph=True, allow_unused=True)
            filled = [torch.zeros_like(p) if g is None else g for p, g in zip(group, found, strict=True)]
            rows.append(torch.cat([gradient.flatten() for gradient in filled]))
        jacobian = torch.stack(rows)
        gram += (jacobian @ jacobian.T).double()
    return gram


def _groups(params: Iterable[Tensor], size: int) -> Iterator[list[Tensor]]:
    """Split parameters into groups of at most ``size`` numbers, or of one parameter that is larger."""
    group: list[Tensor] = []
    for param in params:
        if group and sum(p.numel() for p in group) + param.numel() > size:
            yield group
            group = []
        group.append(param)
    if group:
        yield group


def nngp(features: Tensor, n_way: int) -> Tensor:
    """Kernel of the head alone, ``K_nm = N <phi_n, phi_m>``: the tangent kernel of the weights of a linear head.

    ``s(x) = sum_c w_c . phi(x)`` has the derivative ``phi(x)`` by each of its N rows. It is the kernel of what ANIL
    adapts. Source: as :func:`ntk`.

    Args:
        features: ``phi``, ``[B, D]``.
        n_way: rows N of the head.

    Returns:
        ``[B, B]`` float64.

    Example:
        >>> nngp(torch.tensor([[1.0, 2.0], [0.0, 1.0]]), n_way=5).tolist()
        [[25.0, 10.0], [10.0, 5.0]]
    """
    phi = features.detach().double()
    return n_way * phi @ phi.T
