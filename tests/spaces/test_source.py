"""What ops of a mixture share gives what each op gives alone: values and gradients, in float64."""

import pytest
import torch

from few_shot_nas.nn.norm import BatchNorm2d, RunningBatchNorm2d, keep_running_statistics
from few_shot_nas.spaces.ops import OPS, LayerStyle
from few_shot_nas.spaces.source import Source

EDGES = 2


def edges(stride: int, style: LayerStyle) -> torch.nn.ModuleList:
    """Every op on two edges from one state."""
    torch.manual_seed(0)
    built = [{op: build(4, 4, stride, style) for op, build in OPS.items()} for _ in range(EDGES)]
    return torch.nn.ModuleList(torch.nn.ModuleDict(ops) for ops in built).double()


def outcome(made: torch.nn.ModuleList, shared: bool) -> list[torch.Tensor]:
    """Terms of all edges, and the gradients of the state, the weights and the parameters."""
    stream = torch.Generator().manual_seed(1)
    x = torch.randn(3, 4, 7, 7, generator=stream, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(EDGES, len(OPS), generator=stream, dtype=torch.float64, requires_grad=True)
    source, terms = Source(x), []
    for ops, row in zip(made, weights, strict=True):
        by_name = dict(zip(OPS, row, strict=True))
        alone = [weight * ops[name](x) for name, weight in by_name.items() if name != "none"]
        terms += source.terms(ops, by_name) if shared else alone
    total = sum((place + 1) * term.pow(3).sum() for place, term in enumerate(terms))
    return [*terms, *torch.autograd.grad(total, [x, weights, *made.parameters()], allow_unused=True)]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("norm_pools", [True, False])
def test_terms_and_gradients_are_those_of_ops_that_share_nothing(stride: int, affine: bool, norm_pools: bool) -> None:
    made = edges(stride, LayerStyle(affine, norm_pools, "left"))
    for shared, alone in zip(outcome(made, True), outcome(made, False), strict=True):
        assert (shared is None) == (alone is None)
        if shared is not None:
            torch.testing.assert_close(shared, alone, rtol=1e-9, atol=1e-9)


def test_a_pool_and_a_relu_run_once_for_all_edges() -> None:
    made, calls = edges(1, LayerStyle(affine=False, norm_pools=True)), []
    state = torch.randn(3, 4, 7, 7, dtype=torch.float64)
    for layer in made.modules():
        if isinstance(layer, torch.nn.ReLU | torch.nn.MaxPool2d | torch.nn.AvgPool2d):
            layer.register_forward_hook(lambda layer, *_: calls.append(type(layer).__name__))
    source = Source(state)
    for ops in made:
        source.terms(ops, dict.fromkeys(OPS, torch.tensor(0.5, dtype=torch.float64)))
    inner = EDGES * sum(name.startswith("sep_conv") for name in OPS)  # between the two halves of a separable op
    assert calls.count("ReLU") == 1 + inner
    assert calls.count("MaxPool2d") == calls.count("AvgPool2d") == 2  # that with a BN of its own has another name


def test_layers_that_remember_their_statistics_are_not_shared() -> None:
    made = edges(1, LayerStyle(affine=False, norm_pools=True)).float()
    keep_running_statistics(made)
    source = Source(torch.randn(3, 4, 7, 7))
    for ops in made:
        source.terms(ops, {"max_pool_3x3": torch.tensor(0.5)})
    for ops in made:
        (norm,) = [layer for layer in ops["max_pool_3x3"].modules() if isinstance(layer, RunningBatchNorm2d)]
        assert norm.running_mean.abs().max() > 0


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("rows", [3, 4000])
def test_a_norm_times_a_number_is_the_number_times_the_norm(affine: bool, rows: int) -> None:
    layer, times = BatchNorm2d(2, affine=affine).double(), torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    x = torch.randn(rows, 2, 6, 6, dtype=torch.float64, requires_grad=True)
    found, expected = layer(x, times=times), times * layer(x)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    wanted = [x, times, *layer.parameters()]
    ours, plain = (torch.autograd.grad(y.pow(3).sum(), wanted) for y in (found, expected))
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
