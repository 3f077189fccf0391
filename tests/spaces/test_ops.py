"""The operations on edges."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from few_shot_nas.spaces.ops import OPS, FactorizedReduce, LayerStyle

DARTS = {
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
}
FEWSHOT = {"avg_pool_3x3BN", "max_pool_3x3BN", "conv_1x5_5x1", "conv_3x3"}
C = 6


def build(name, stride=1, affine=True, channels_out=C):
    torch.manual_seed(0)
    return OPS[name](C, channels_out, stride, LayerStyle(affine))


def test_every_published_name_is_there():
    assert DARTS | FEWSHOT | {"conv_k3", "conv_k5", "sep_k3"} == set(OPS)


@pytest.mark.parametrize("size", [1, 2, 7, 14, 21])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", OPS)
def test_every_op_keeps_the_size_at_stride_1_and_halves_it_rounding_up_at_stride_2(name, stride, size):
    out = build(name, stride)(torch.randn(4, C, size, size))
    assert out.shape == (4, C, -(-size // stride), -(-size // stride))


PARAMETERS = {  # with C channels in and out, and affine BN
    "none": 0,
    "skip_connect": 0,
    "sep_conv_3x3": 2 * (9 * C + C * C + 2 * C),
    "sep_conv_5x5": 2 * (25 * C + C * C + 2 * C),
    "dil_conv_3x3": 9 * C + C * C + 2 * C,
    "dil_conv_5x5": 25 * C + C * C + 2 * C,
    "avg_pool_3x3": 0,
    "max_pool_3x3": 0,
    "avg_pool_3x3BN": 2 * C,
    "max_pool_3x3BN": 2 * C,
    "conv_1x5_5x1": 10 * C * C + 2 * C,
    "conv_3x3": 9 * C + C * C + 2 * C,
    "conv_k3": 9 * C * C,
    "conv_k5": 25 * C * C,
    "sep_k3": 9 * C + C * C,
}


@pytest.mark.parametrize("name", OPS)
def test_parameter_counts_follow_from_the_definitions(name):
    assert sum(p.numel() for p in build(name).parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", OPS)
def test_affine_false_leaves_only_convolution_weights(name):
    assert all(p.ndim == 4 for p in build(name, stride=2, affine=False).parameters())


def shifted(x, rows, columns):
    """x moved so that pixel (i, j) shows x[i + rows, j + columns], zeros outside."""
    height, width = x.shape[2:]
    padded = F.pad(x, (8, 8, 8, 8))
    return padded[:, :, 8 + rows : 8 + rows + height, 8 + columns : 8 + columns + width]


def bn(x):
    mean = x.mean(dim=(0, 2, 3), keepdim=True)
    return (x - mean) / ((x - mean).square().mean(dim=(0, 2, 3), keepdim=True) + 1e-5).sqrt()


def separable_by_shifts(x, depthwise, pointwise, dilation):
    """ReLU, depthwise, pointwise, BN as sums of shifted images."""
    x = x.clamp(min=0)
    reach = depthwise.shape[-1] // 2
    out = sum(
        depthwise[:, 0, i, j].view(1, -1, 1, 1) * shifted(x, (i - reach) * dilation, (j - reach) * dilation)
        for i in range(2 * reach + 1)
        for j in range(2 * reach + 1)
    )
    return bn(torch.einsum("bchw,oc->bohw", out, pointwise[:, :, 0, 0]))


@pytest.mark.parametrize(
    ("name", "dilation", "times"),
    [
        ("conv_3x3", 1, 1),
        ("dil_conv_3x3", 2, 1),
        ("dil_conv_5x5", 2, 1),
        ("sep_conv_3x3", 1, 2),
        ("sep_conv_5x5", 1, 2),
    ],
)
def test_separable_ops_equal_sums_of_shifted_images(name, dilation, times):
    op = build(name, affine=False).double()
    x = torch.randn(3, C, 7, 7, dtype=torch.double)
    weights = list(op.parameters())
    expected = x
    for block in range(times):
        expected = separable_by_shifts(expected, weights[2 * block], weights[2 * block + 1], dilation)
    assert torch.allclose(op(x), expected, atol=1e-10)


def test_average_pool_leaves_the_padding_out_of_the_count():
    assert torch.allclose(build("avg_pool_3x3")(torch.ones(1, C, 5, 5)), torch.ones(1, C, 5, 5))


@pytest.mark.parametrize("kind", ["avg", "max"])
def test_pools_named_bn_are_the_bare_pool_and_a_batch_norm(kind):
    x = torch.randn(2, C, 5, 5, dtype=torch.double)
    assert torch.allclose(build(f"{kind}_pool_3x3BN").double()(x), bn(build(f"{kind}_pool_3x3")(x)), atol=1e-10)


def test_conv_1x5_5x1_has_its_stride_in_the_first_convolution_and_no_relu_between():
    op = build("conv_1x5_5x1", stride=2, affine=False).double()
    x = torch.randn(2, C, 9, 9, dtype=torch.double)
    row, column = op.parameters()
    expected = F.conv2d(F.conv2d(x.relu(), row, stride=2, padding=(0, 2)), column, padding=(2, 0))
    assert torch.allclose(op(x), bn(expected), atol=1e-10)


@pytest.mark.parametrize("size", [4, 5])
def test_factorized_reduce_reads_even_pixels_with_one_convolution_and_odd_ones_with_the_other(size):
    op = FactorizedReduce(1, 2, LayerStyle(affine=False))
    op.norm = torch.nn.Identity()
    with torch.no_grad():
        op.conv_1.weight.fill_(1.0)
        op.conv_2.weight.fill_(1.0)
    image = torch.arange(1.0, 1 + size * size).view(1, 1, size, size)
    out = op(image)
    assert torch.equal(out[0, 0], image[0, 0, ::2, ::2])
    padded = F.pad(image, (0, 1, 0, 1))[0, 0, 1::2, 1::2][: out.shape[2], : out.shape[3]]
    assert torch.equal(out[0, 1], padded)


@pytest.mark.parametrize("size", [4, 5])
def test_padding_at_the_left_moves_an_odd_image_down_and_right_by_a_pixel_and_an_even_one_not(size):
    torch.manual_seed(0)
    left, right = (FactorizedReduce(3, 4, LayerStyle(affine=False, pad=pad)) for pad in ("left", "right"))
    left.load_state_dict(right.state_dict())
    x = torch.rand(2, 3, size, size)
    moved = F.pad(x, (1, 0, 1, 0)) if size % 2 else x
    assert torch.equal(left(x), right(moved))
    assert torch.equal(left(x), right(x)) == (size % 2 == 0)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("kind", ["avg", "max"])
def test_pools_get_a_batch_norm_where_the_style_says_so(kind, affine):
    x = torch.randn(2, C, 5, 5, dtype=torch.double)
    pool = OPS[f"{kind}_pool_3x3"](C, C, 1, LayerStyle(affine, norm_pools=True)).double()
    assert torch.allclose(pool(x), bn(build(f"{kind}_pool_3x3")(x)), atol=1e-10)
    assert sum(p.numel() for p in pool.parameters()) == (2 * C if affine else 0)


def test_factorized_reduce_takes_odd_numbers_of_channels():
    assert FactorizedReduce(3, 5)(torch.randn(2, 3, 7, 7)).shape == (2, 5, 4, 4)
    assert FactorizedReduce(3, 1)(torch.randn(2, 3, 7, 7)).shape == (2, 1, 4, 4)


def test_none_gives_zeros_even_for_infinite_input():
    assert torch.equal(build("none", stride=2)(torch.full((1, C, 3, 3), torch.inf)), torch.zeros(1, C, 2, 2))


@pytest.mark.parametrize("name", ["none", "skip_connect", "avg_pool_3x3", "max_pool_3x3BN"])
def test_ops_that_keep_the_number_of_channels_refuse_to_change_it(name):
    with pytest.raises(ValueError, match="6 channels into 8"):
        build(name, channels_out=8)


def test_a_reduction_cell_survives_its_backward_pass_with_two_threads_and_few_channels():
    """A strided 1x1 convolution corrupts memory there (torch 2.11, CPU, channels last); the process would die."""
    code = (
        "import torch; from few_shot_nas.spaces.ops import FactorizedReduce; torch.set_num_threads(2)\n"
        "for channels in (4, 8):\n"
        "    net = FactorizedReduce(channels, channels)\n"
        "    for _ in range(200):\n"
        "        x = torch.randn(5, channels, 14, 14).contiguous(memory_format=torch.channels_last).requires_grad_()\n"
        "        torch.autograd.grad(net(x).square().sum(), [x, *net.parameters()])\n"
        "print('alive')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "alive", done.stderr[-500:]
