"""ENAS' architecture strings go there and back, and mean what its scripts mean."""

import pytest
import torch

from few_shot_nas.errors import InputError
from few_shot_nas.spaces.arc_strings import parse_macro, parse_micro, write_macro, write_micro
from few_shot_nas.spaces.enas_macro import EnasMacro
from few_shot_nas.spaces.enas_micro import EnasMicro


@pytest.mark.parametrize("layers", [1, 2, 5, 12, 24])
def test_macro_strings_go_there_and_back(layers):
    space, stream = EnasMacro(cells=layers), torch.Generator().manual_seed(0)
    for _ in range(10):
        decisions = space.sample(stream)
        text = write_macro(decisions)
        assert parse_macro(text) == decisions
        assert [len(line.split()) for line in text.splitlines()] == list(range(1, layers + 1))


@pytest.mark.parametrize("blocks", [1, 3, 5])
def test_micro_strings_go_there_and_back(blocks):
    space, stream = EnasMicro(nodes=blocks), torch.Generator().manual_seed(0)
    for _ in range(10):
        decisions = space.sample(stream)
        text = write_micro(decisions)
        assert parse_micro(text) == decisions
        assert [len(line.split()) for line in text.splitlines()] == [4 * blocks, 4 * blocks]


def test_a_macro_string_is_read_layer_by_layer_and_the_first_skip_is_the_stem():
    genotype = EnasMacro(cells=4).decode(parse_macro('"2 \\\n 0 1\n 5 0 1 \n 3 1 0 1"'))
    assert [tuple(edge) for edge in genotype.edges[0][1]] == [
        ("enas_conv_k5", 0, 1),
        ("enas_conv_k3", 1, 2),
        ("skip_connect", 0, 2),
        ("enas_max_pool", 2, 3),
        ("skip_connect", 1, 3),
        ("enas_sep_k5", 3, 4),
        ("skip_connect", 0, 4),
        ("skip_connect", 2, 4),
    ]


def test_a_micro_string_holds_index_op_index_op_and_the_normal_cell_first():
    genotype = EnasMicro(nodes=2).decode(parse_micro("1 3 0 4  2 0 2 1   0 2 0 2  1 4 0 0"))
    normal, reduce = ([tuple(edge) for edge in edges] for _, edges in genotype.edges)
    assert normal == [
        ("max_pool_3x3", 1, 2), ("skip_connect", 0, 2), ("sep_conv_3x3", 2, 3), ("sep_conv_5x5", 2, 3)
    ]  # fmt: skip
    assert reduce == [
        ("avg_pool_3x3", 0, 2), ("avg_pool_3x3", 0, 2), ("skip_connect", 1, 3), ("sep_conv_3x3", 0, 3)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("read", "text", "named"),
    [
        (parse_macro, "", "0 numbers"),
        (parse_macro, "1 2", "2 numbers"),
        (parse_macro, "6", "op 6 of layer 0"),
        (parse_macro, "1 2 2", "skips \\[2\\] of layer 1"),
        (parse_macro, "1 x 2", "'x'"),
        (parse_macro, "-1", "'-1'"),
        (parse_micro, "", "0 numbers"),
        (parse_micro, "0 0 0 0", "4 numbers"),
        (parse_micro, "0 0 2 0 0 0 0 0", "block \\[0, 0, 2, 0\\] of state 2"),
        (parse_micro, "0 0 0 0 0 5 0 0", "block \\[0, 5, 0, 0\\] of state 2"),
        (lambda text: write_micro((0, 0, 1)), "", "3 decisions"),
        (lambda text: write_macro((0, 0)), "", "2 numbers"),
    ],
)
def test_a_wrong_string_is_named(read, text, named):
    with pytest.raises(InputError, match=named):
        read(text)
