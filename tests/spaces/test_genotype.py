"""Genotypes as plain data."""

import json

import pytest

from few_shot_nas.errors import InputError
from few_shot_nas.spaces.genotype import Edge, Genotype

CELLS = (("normal", (Edge("a", 0, 2), Edge("b", 1, 2))), ("reduce", (Edge("c", 0, 2), Edge("d", 1, 2))))
GENOTYPE = Genotype("darts_fewshot", 16, 2, 1, CELLS)


def damaged(**changes):
    return json.dumps({**json.loads(GENOTYPE.to_json()), **changes})


def test_json_returns_an_equal_genotype_with_an_equal_hash():
    again = Genotype.from_json(GENOTYPE.to_json())
    assert again == GENOTYPE
    assert hash(again) == hash(GENOTYPE)


def test_a_saved_file_loads_as_an_equal_genotype_and_leaves_no_partial_file(tmp_path):
    GENOTYPE.save(tmp_path / "genotype.json")
    assert Genotype.load(tmp_path / "genotype.json") == GENOTYPE
    assert [path.name for path in tmp_path.iterdir()] == ["genotype.json"]


def test_a_genotype_cannot_be_changed():
    with pytest.raises(AttributeError):
        GENOTYPE.channels = 3


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere.json: cannot be read"):
        Genotype.load(tmp_path / "nowhere.json")


@pytest.mark.parametrize("content", [b"", b'{"space": "ch', b"\xff\xfe\x00"])
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "half.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match="half.json"):
        Genotype.load(path)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[1, 2]", "found list"),
        ('{"space": "chain"}', "found space$"),
        (damaged(colour=1), "colour"),
        (damaged(space=3), "space must be a name, found 3"),
        (damaged(channels=0), "channels .* found 0"),
        (damaged(cells=True), "cells .* found True"),
        (damaged(nodes=1.5), "nodes .* found 1.5"),
        (damaged(edges=[]), "edges .* found \\[\\]"),
        (damaged(edges={"normal": "abc"}), "edges .* found .*abc"),
        (damaged(edges={"normal": [{"op": "a", "src": 0}]}), "edge of normal needs exactly op, src and dst"),
        (damaged(edges={"normal": [["a", 0, 2]]}), "edge of normal .* found \\['a', 0, 2\\]"),
        (damaged(edges={"normal": [{"op": "a", "src": "0", "dst": 2}]}), "edge of normal .* 'src': '0'"),
        (damaged(edges={"normal": [{"op": 7, "src": 0, "dst": 2}]}), "edge of normal .*'op': 7"),
        (damaged(channels=10**18), "channels must be at most 4096, found 1000000000000000000$"),
        (damaged(cells=10**9), "cells must be at most 256"),
        (damaged(nodes=10**9), "nodes must be at most 64, found 1000000000$"),
        (damaged(channels=10**400), "channels must be at most 4096, found 10000"),
        (damaged(edges={"normal": [{"op": "a", "src": 0, "dst": 10**6}]}), "edge 0->1000000 .* below 5 for cells=2"),
        (damaged(edges={"normal": [{"op": "a", "src": 3, "dst": 2}]}), "edge 3->2 .* from a state to a later one"),
        (damaged(edges={"normal": [{"op": "a", "src": 2, "dst": 2}]}), "edge 2->2 .* from a state to a later one"),
        (damaged(edges={"normal": [{"op": "a", "src": -1, "dst": 2}]}), "edge -1->2 .* from a state to a later one"),
        ("[" * 100_000, "the JSON is damaged"),
        ('{"channels": ' + "9" * 5000 + "}", "the JSON is damaged"),
        (damaged(space="x" * 5)[:-1] + ', "y": ' + "[" * 500 + "]" * 500 + "}", "found .*y"),
    ],
)
def test_damage_is_named_in_one_line(text, named):
    with pytest.raises(InputError, match=named) as raised:
        Genotype.from_json(text, where="x.json")
    assert str(raised.value).startswith("x.json: ")
    assert "\n" not in str(raised.value)
