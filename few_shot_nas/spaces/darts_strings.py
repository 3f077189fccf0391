"""Published genotypes of the DARTS family, read and written: ``Genotype(normal=[('sep_conv_3x3', 1), ..], ..)``.

Two dialects: flat (DARTS, T-NAS: two entries per node, heavier one first) and nested (MetaNAS, MetaNTK-NAS: one list
per node). The text is parsed as data; nothing of it is run.
"""

import ast

from few_shot_nas.errors import InputError
from few_shot_nas.spaces.cell_space import CellSpace
from few_shot_nas.spaces.genotype import Edge, Genotype


def parse_darts(text: str, space: CellSpace) -> Genotype:
    """Read a published genotype as an architecture of a space.

    Args:
        text: ``Genotype(normal=[..], normal_concat=.., reduce=[..], reduce_concat=..)``, flat or nested, with or
            without a name assigned. The order of the two entries of a node does not matter. The ``.._concat`` fields
            are not read: cells here always concatenate all nodes.
        space: the space it belongs to.

    Returns:
        The genotype, with the sizes of ``space``.

    Raises:
        InputError: if the text is not such a genotype, or not one of the space.
    """
    cells = []
    fields = _fields(text)
    for cell_type in space.cell_types:
        if cell_type not in fields:
            raise InputError(f"published genotype: no field {cell_type} found in {text!r:.80}")
        entries = fields[cell_type]
        if entries and all(_is_entry(entry) for entry in entries):
            entries = [entries[place : place + 2] for place in range(0, len(entries), 2)]
        edges: list[Edge] = []
        for node, pair in enumerate(entries):
            if not isinstance(pair, list) or not all(_is_entry(entry) for entry in pair):
                raise InputError(f"published genotype: node {node} of {cell_type} is {pair!r:.80}, not (op, input)")
            edges += [Edge(op, src, node + 2) for src, op in sorted((src, op) for op, src in pair)]
        cells.append((cell_type, tuple(edges)))
    genotype = Genotype(space.name, space.channels, space.cells, space.nodes, tuple(cells))
    space.encode(genotype)
    return genotype


def write_darts(genotype: Genotype, *, nested: bool = False) -> str:
    """Return a genotype in the published notation, flat or nested; :func:`parse_darts` reads both."""
    parts = []
    for cell_type, edges in genotype.edges:
        entries = [(edge.op, edge.src) for edge in edges]
        pairs = [entries[place : place + 2] for place in range(0, len(entries), 2)]
        concat = list(range(2, genotype.nodes + 2))
        parts.append(f"{cell_type}={pairs if nested else entries!r}, {cell_type}_concat={concat!r}")
    return f"Genotype({', '.join(parts)})"


def _is_entry(entry: object) -> bool:
    return isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str) and type(entry[1]) is int


def _fields(text: str) -> dict[str, list]:
    """Return the literal lists among the keyword arguments of the call that ``text`` is."""
    try:
        statement = ast.parse(text.strip()).body[0]
        call = getattr(statement, "value", None)
        if not isinstance(call, ast.Call):
            raise ValueError("no call of Genotype(..)")
        wanted = [word for word in call.keywords if word.arg in ("normal", "reduce")]
        values = {str(word.arg): ast.literal_eval(word.value) for word in wanted}
    except (SyntaxError, ValueError, IndexError) as error:
        raise InputError(f"published genotype: {text!r:.80} cannot be read ({error})") from None
    for name, value in values.items():
        if not isinstance(value, list):
            raise InputError(f"published genotype: field {name} is {value!r:.80}, it must be a list")
    return values
