"""Arguments for a constructor from flat values. Truth: the signature of a class written here."""

from dataclasses import dataclass

import pytest

from few_shot_nas.constructor import arguments


@dataclass(frozen=True)
class Sizes:
    width: int = 3
    depth: int = 5


DEEP = Sizes(depth=7)


class Network:
    def __init__(self, n_way: int, sizes: Sizes = DEEP, name: str = "a") -> None:
        pass


def test_what_an_earlier_version_did_not_write_takes_the_default_of_the_class() -> None:
    found = arguments(Network, {"n_way": 4, "width": 9}, defaults=True)
    assert found == {"n_way": 4, "sizes": Sizes(width=9, depth=7), "name": "a"}
    with pytest.raises(KeyError, match="n_way"):
        arguments(Network, {"width": 9}, defaults=True)
    with pytest.raises(KeyError, match="depth"):
        arguments(Network, {"n_way": 4, "width": 9, "name": "b"})
