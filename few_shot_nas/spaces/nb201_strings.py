"""The architecture strings of NAS-Bench-201, read and written: ``|op~0|+|op~0|op~1|+|op~0|op~1|op~2|``.

The nodes are separated by ``+``; node i holds one op for each of the states 0..i before it.
"""

from few_shot_nas.errors import InputError
from few_shot_nas.spaces.genotype import Edge, Genotype
from few_shot_nas.spaces.nb201 import Nb201


def nodes_of(text: str) -> int:
    """Return the number of nodes of an architecture string."""
    return text.count("+") + 1


def parse_nb201(text: str, space: Nb201) -> Genotype:
    """Read an architecture string.

    Args:
        text: ``|op~0|+|op~0|op~1|+..``.
        space: the space it belongs to.

    Returns:
        The genotype, with the sizes of ``space``.

    Raises:
        InputError: if the text is not such a string, or not an architecture of the space.

    Example:
        >>> text = "|nor_conv_3x3~0|+|none~0|skip_connect~1|"
        >>> write_nb201(parse_nb201(text, Nb201(nodes=2))) == text
        True
    """
    edges: list[Edge] = []
    for node, part in enumerate(text.strip().strip("'\"").split("+"), start=1):
        part = part.strip()
        entries = [entry.split("~") for entry in part[1:-1].split("|")]
        framed = len(part) > 2 and part[0] == part[-1] == "|"
        if not framed or [entry[1:] for entry in entries] != [[str(src)] for src in range(node)]:
            raise InputError(
                f"NAS-Bench-201 string: node {node} is {part!r:.80}, it must be |op~0|..|op~{node - 1}|, one op for "
                "each state before it"
            )
        edges += [Edge(op, int(src), node) for op, src in entries]
    genotype = Genotype(space.name, space.channels, space.cells, space.nodes, (("cell", tuple(edges)),))
    space.encode(genotype)
    return genotype


def write_nb201(genotype: Genotype) -> str:
    """Return the architecture string of a genotype; :func:`parse_nb201` reads it."""
    nodes = range(1, genotype.nodes + 1)
    edges = genotype.edges[0][1]
    return "+".join("|" + "|".join(f"{op}~{src}" for op, src, dst in edges if dst == node) + "|" for node in nodes)
