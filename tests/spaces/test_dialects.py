"""Architectures by name, file and text. Truth: published counts of parameters, and that what is written reads back."""

import pytest
import torch

from few_shot_nas.errors import InputError
from few_shot_nas.nn.cost import count_parameters
from few_shot_nas.models.genotype_network import GenotypeNetwork
from few_shot_nas.spaces import SPACES
from few_shot_nas.spaces.darts import Darts
from few_shot_nas.spaces.dialects import DIALECTS, read_genotype, write_genotype
from few_shot_nas.spaces.nb201 import Nb201
from few_shot_nas.spaces.nb201_strings import parse_nb201, write_nb201
from few_shot_nas.spaces.published import PUBLISHED

#: Name -> classes, channels, parameters. MetaNTK-NAS and MetaNAS hold 20 alphas more, which do nothing.
COUNTS = {
    "AUTO_MAML_2": (5, None, 23_213),
    "AUTO_MAML_3": (5, None, 26_061),
    "METANTK_MINI_5_A": (64, None, 1_760_820 - 20),
    "METANTK_MINI_5_B": (64, None, 2_222_196 - 20),
    "METANTK_MINI_5_C": (64, None, 1_343_700 - 20),
    "METANTK_MINI_8_A": (64, None, 3_181_092 - 20),
    "METANTK_MINI_8_B": (64, None, 2_967_204 - 20),
    "METANTK_MINI_8_C": (64, None, 3_489_156 - 20),
    "METANTK_TIERED_5_A": (351, None, 2_185_955 - 20),
    "METANTK_TIERED_5_B": (351, None, 1_820_099 - 20),
    "METANTK_TIERED_5_C": (351, None, 2_664_659 - 20),
    "METANTK_TIERED_8_A": (351, None, 5_939_939 - 20),
    "METANTK_TIERED_8_B": (351, None, 3_138_467 - 20),
    "METANTK_TIERED_8_C": (351, None, 5_231_075 - 20),
    "METANAS_V1": (5, 28, 111_157 - 20),
    "METANAS_IN_V2": (5, 96, 1_160_761 - 20),
}
MORE = {"METANAS_V1": (5, 96, 1_223_161 - 20), "METANAS_IN_V2": (5, 28, 108_189 - 20)}


@pytest.mark.parametrize(("name", "expected"), [*COUNTS.items(), *MORE.items()])
def test_a_published_architecture_has_its_published_number_of_parameters(name, expected):
    n_way, channels, parameters = expected
    with torch.device("meta"):
        assert count_parameters(GenotypeNetwork(n_way, 3, 84, name, channels=channels)) == parameters


def test_every_published_architecture_is_counted():
    assert set(COUNTS) == set(PUBLISHED)


def test_a_published_name_has_published_sizes_unless_others_are_asked_for():
    genotype = read_genotype("METANTK_TIERED_8_B")
    assert (genotype.space, genotype.channels, genotype.cells, genotype.nodes) == ("metantk", 48, 8, 3)
    small = read_genotype("METANTK_TIERED_8_B", channels=12, cells=5, space="darts_fewshot")
    assert (small.space, small.channels, small.cells) == ("darts_fewshot", 12, 5) and small.edges == genotype.edges


@pytest.mark.parametrize("name", SPACES)
def test_every_space_is_written_in_all_its_dialects_as_text_and_as_file(name, tmp_path):
    space = SPACES[name](channels=6)
    dialects = [dialect for dialect, (shape, _) in DIALECTS.items() if isinstance(space, shape)]
    assert dialects[0] == "json"
    stream = torch.Generator().manual_seed(0)
    for genotype in (space.decode(space.sample(stream)) for _ in range(5)):
        for dialect in dialects:
            text = write_genotype(genotype, dialect)
            (tmp_path / "arc").write_text(text)
            sizes = {} if dialect == "json" else {"space": name, "channels": 6, "cells": space.cells}
            assert read_genotype(text, **sizes) == read_genotype(str(tmp_path / "arc"), **sizes) == genotype


@pytest.mark.parametrize(
    ("text", "space", "cells", "nodes"),
    [
        ("|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|nor_conv_1x1~2|", "nb201", 3, 3),
        ("0 3 1", "enas_macro", 2, 1),
        ("0 1 1 2 0 0 1 4", "enas_micro", 2, 1),
        (PUBLISHED["AUTO_MAML_2"].text, "darts", 2, 4),
        (PUBLISHED["METANTK_MINI_5_C"].text, "darts_fewshot", 2, 3),
        (PUBLISHED["METANAS_V1"].text, "metanas", 2, 3),
    ],
)
def test_a_text_says_which_space_it_is_of_and_the_spaces_defaults_say_the_rest(text, space, cells, nodes):
    genotype = read_genotype(text)
    assert (genotype.space, genotype.cells, genotype.nodes) == (space, cells, nodes)
    assert genotype.channels == SPACES[space]().channels


def test_the_order_of_the_edges_of_a_nasbench_string_is_node_by_node():
    genotype = parse_nb201("|nor_conv_3x3~0|+|none~0|skip_connect~1|", Nb201(nodes=2))
    assert genotype.edges == (("cell", (("nor_conv_3x3", 0, 1), ("none", 0, 2), ("skip_connect", 1, 2))),)
    assert write_nb201(genotype) == "|nor_conv_3x3~0|+|none~0|skip_connect~1|"


DARTS = "Genotype(normal=[('skip_connect', 0), ('skip_connect', 1), ('max_pool_3x3', 0), ('max_pool_3x3', 1)], " + (
    "normal_concat=range(2, 4), reduce=[('skip_connect', 0), ('skip_connect', 1), ('skip_connect', 0), "
    "('skip_connect', 2)], reduce_concat=[2, 3])"
)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("AUTO_MAML_4", "genotype=AUTO_MAML_4: unknown. Did you mean AUTO_MAML_"),
        ("auto_maml_3", "genotype=auto_maml_3: unknown. Did you mean AUTO_MAML_3"),
        ("nowhere", "genotype nowhere: cannot be read .No such file.*; give a genotype.json, a published name such as"),
        ("nowhere.json", "genotype nowhere.json: cannot be read .No such file"),
        ("runs/nowhere", "genotype runs/nowhere: cannot be read"),
        (DARTS.replace("[2, 3])", "[3])"), r"reduce_concat=\[3\] given, .* concatenate all their nodes, \[2, 3\]"),
        (DARTS.replace("range(2, 4)", "range(3, 4)"), r"normal_concat=\[3\] given"),
        (DARTS.replace("range(2, 4)", "range(10**9)"), "cannot be read"),
        (DARTS.replace("normal_concat", "normal_concats"), "field normal_concats is not one of"),
        (DARTS.replace("max_pool_3x3", "max_pool_9x9"), "no space has all of the ops max_pool_9x9, skip_connect"),
        ("|nor_conv_3x3~0|+|none~0|skip_connect~0|", "node 2 is '.*~0.*', it must be"),
        ("|nor_conv_3x3~0|+none~0|skip_connect~1", "node 2 is .*it must be"),
        ("|nor_conv_9x9~0|", "op nor_conv_9x9 on edge 0->1"),
        ("7", "op 7 of layer 0"),
        ("0 0", "2 numbers given"),
        (" ".join(["0"] * 120), "120 numbers are a macro or a micro arc; give space"),
        ("{", "the JSON is damaged"),
    ],
)
def test_what_is_wrong_with_an_architecture_is_named(text, named):
    with pytest.raises(InputError, match=named) as raised:
        read_genotype(text)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "sizes", "named"),
    [
        (DARTS, {"space": "nb201"}, "not that of space nb201; it is one of darts_fewshot, darts"),
        ("|none~0|", {"space": "darts"}, "not that of space darts; it is one of nb201"),
        ("0", {"space": "darts"}, "not that of space darts; it is one of enas_macro, enas_micro"),
        ("0", {"space": "darst"}, "space=darst: unknown. Did you mean darts"),
        ("0 1 1", {"cells": 3}, "3 decisions given, 6 are needed"),
        (DARTS, {"space": "darts_fewshot"}, "op max_pool_3x3 on edge 0->3"),
        (Darts(4).decode((0,) * 24).to_json(), {"channels": 8}, "has channels=4, but channels=8 is asked for"),
    ],
)
def test_sizes_and_spaces_that_do_not_fit_are_named(text, sizes, named):
    with pytest.raises(InputError, match=named):
        read_genotype(text, **sizes)


def test_a_file_of_something_else_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("see the other file")
    with pytest.raises(InputError, match="notes.txt: not a genotype: 'see the other file'; give a genotype.json"):
        read_genotype(str(tmp_path / "notes.txt"))
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="bytes: cannot be read .it is not text"):
        read_genotype(str(tmp_path / "bytes"))


def test_a_dialect_that_cannot_express_a_space_is_refused():
    genotype = Darts(4).decode((0,) * 24)
    with pytest.raises(InputError, match="nb201 cannot express space darts; take json or darts or darts_nested"):
        write_genotype(genotype, "nb201")
    with pytest.raises(InputError, match="dialect=yaml: unknown"):
        write_genotype(genotype, "yaml")
