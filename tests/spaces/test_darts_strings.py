"""Genotypes in the notation of the papers."""

import pytest
import torch

from few_shot_nas.errors import InputError
from few_shot_nas.spaces.darts import Darts
from few_shot_nas.spaces.darts_fewshot import DartsFewshot
from few_shot_nas.spaces.darts_strings import parse_darts, write_darts
from few_shot_nas.spaces.metanas import MetaNas

FLAT = (
    "CELL = Genotype(normal=[('skip_connect', 1), ('sep_conv_3x3', 0), ('max_pool_3x3', 2), ('dil_conv_5x5', 0)], "
    "normal_concat=range(2, 4), reduce=[('avg_pool_3x3', 0), ('avg_pool_3x3', 1), ('sep_conv_5x5', 2), "
    "('skip_connect', 1)], reduce_concat=range(2, 4))"
)


def test_a_flat_genotype_is_read_whatever_the_order_of_a_nodes_entries():
    genotype = parse_darts(FLAT, Darts(nodes=2))
    assert [tuple(edge) for edge in genotype.edges[0][1]] == [
        ("sep_conv_3x3", 0, 2), ("skip_connect", 1, 2), ("dil_conv_5x5", 0, 3), ("max_pool_3x3", 2, 3)
    ]  # fmt: skip
    assert [tuple(edge) for edge in genotype.edges[1][1]][2:] == [("skip_connect", 1, 3), ("sep_conv_5x5", 2, 3)]


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("space", [Darts(), DartsFewshot(), MetaNas(), Darts(cells=1, nodes=2)])
def test_what_is_written_reads_back(space, nested):
    stream = torch.Generator().manual_seed(0)
    for _ in range(10):
        genotype = space.decode(space.sample(stream))
        assert parse_darts(write_darts(genotype, nested=nested), space) == genotype
    text = write_darts(genotype, nested=nested)
    assert ("[[(" in text) == nested


def test_pools_of_metanas_are_those_with_a_norm_and_keep_their_published_name():
    text = FLAT.replace("sep_conv_5x5", "sep_conv_3x3").replace("dil_conv_5x5", "dil_conv_3x3")
    genotype = parse_darts(text, MetaNas(nodes=2))
    assert [edge.op for edge in genotype.edges[0][1]] == [
        "sep_conv_3x3", "skip_connect", "dil_conv_3x3", "max_pool_3x3BN"
    ]  # fmt: skip
    assert "max_pool_3x3'" in write_darts(genotype) and "BN" not in write_darts(genotype)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Genotype(normal=[", "cannot be read"),
        ("", "cannot be read"),
        ("42", "no call of Genotype"),
        ("Genotype(normal=open('x'), reduce=[])", "cannot be read"),
        ("Genotype(normal=[])", "no field reduce|0 edges in normal"),
        ("Genotype(normal=3, reduce=[])", "field normal is 3"),
        ("Genotype(normal=[[('skip_connect', 0), 5]], reduce=[])", "node 0 of normal is .*5"),
        (FLAT.replace("sep_conv_3x3", "conv_9x9"), "op conv_9x9 on edge 0->2"),
        (FLAT.replace("'max_pool_3x3', 2", "'max_pool_3x3', 3"), "0->3 and 3->3 of normal"),
    ],
)
def test_what_is_wrong_is_named(text, named):
    with pytest.raises(InputError, match=named):
        parse_darts(text, Darts(nodes=2))
