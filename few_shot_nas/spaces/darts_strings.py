"""Published genotypes of the DARTS family, read and written: ``Genotype(normal=[('sep_conv_3x3', 1), ..], ..)``.

Two dialects: flat (DARTS, T-NAS: two entries per node, heavier one first) and nested (MetaNAS, MetaNTK-NAS: one list
per node). The text is parsed as data; nothing of it is run.
"""

import ast

from few_shot_nas.errors import InputError
from few_shot_nas.spaces import SPACES
from few_shot_nas.spaces.cell_space import CellSpace
from few_shot_nas.spaces.genotype import Edge, Genotype

Entry = tuple[str, int]

_FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")


def read_cells(text: str) -> dict[str, list[list[Entry]]]:
    """Return what a published genotype says of the cell types it names, a list of (op, input) for each node.

    Raises:
        InputError: if the text is not such a genotype, or concatenates some of a cell's nodes only.
    """
    fields = _fields(text)
    cells: dict[str, list[list[Entry]]] = {}
    for cell_type in ("normal", "reduce"):
        if cell_type not in fields:
            continue
        entries = fields[cell_type]
        if entries and all(_is_entry(entry) for entry in entries):
            entries = [entries[place : place + 2] for place in range(0, len(entries), 2)]
        for node, pair in enumerate(entries):
            if not isinstance(pair, list) or not all(_is_entry(entry) for entry in pair):
                raise InputError(f"published genotype: node {node} of {cell_type} is {pair!r:.80}, not (op, input)")
        nodes = list(range(2, len(entries) + 2))
        concat = fields.get(f"{cell_type}_concat", nodes)
        if concat != nodes:
            raise InputError(
                f"published genotype: {cell_type}_concat={concat!r:.80} given, cells here concatenate all their nodes, "
                f"{nodes}"
            )
        cells[cell_type] = entries
    return cells


def parse_darts(text: str, space: CellSpace) -> Genotype:
    """Read a published genotype as an architecture of a space.

    Args:
        text: ``Genotype(normal=[..], normal_concat=.., reduce=[..], reduce_concat=..)``, flat or nested, with or
            without a name assigned. The order of the two entries of a node does not matter. The ``.._concat`` fields
            may be left out.
        space: the space it belongs to; where its authors name an op as another one is named here, it says so.

    Returns:
        The genotype, with the sizes of ``space``.

    Raises:
        InputError: if the text is not such a genotype, concatenates some of a cell's nodes only, or is not one of the
            space.
    """
    read = read_cells(text)
    cells = []
    for cell_type in space.cell_types:
        if cell_type not in read:
            raise InputError(f"published genotype: no field {cell_type} found in {text!r:.80}")
        edges: list[Edge] = []
        for node, pair in enumerate(read[cell_type]):
            named = [(src, space.published_ops.get(op, op)) for op, src in pair]
            edges += [Edge(op, src, node + 2) for src, op in sorted(named)]
        cells.append((cell_type, tuple(edges)))
    genotype = Genotype(space.name, space.channels, space.cells, space.nodes, tuple(cells))
    space.encode(genotype)
    return genotype


def write_darts(genotype: Genotype, *, nested: bool = False) -> str:
    """Return a genotype in the published notation, flat or nested; :func:`parse_darts` reads both."""
    space = SPACES[genotype.space]
    names = {own: name for name, own in space.published_ops.items()} if issubclass(space, CellSpace) else {}
    parts = []
    for cell_type, edges in genotype.edges:
        entries = [(names.get(edge.op, edge.op), edge.src) for edge in edges]
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
        read = {str(word.arg): _literal(word.value) for word in call.keywords}
    except (SyntaxError, ValueError, IndexError) as error:
        raise InputError(f"published genotype: {text!r:.80} cannot be read ({error})") from None
    values: dict[str, list] = {}
    for name, value in read.items():
        if name not in _FIELDS:
            raise InputError(f"published genotype: field {name} is not one of {', '.join(_FIELDS)}")
        if not isinstance(value, list):
            raise InputError(f"published genotype: field {name} is {value!r:.80}, it must be a list")
        values[name] = value
    return values


def _literal(node: ast.expr) -> object:
    """Return a literal value; ``range(2, 6)`` is the list of its numbers."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
        bounds = [ast.literal_eval(bound) for bound in node.args]
        if not 1 <= len(bounds) <= 2 or not all(type(bound) is int and 0 <= bound < 1000 for bound in bounds):
            raise ValueError(f"range of {bounds}")
        return list(range(*bounds))
    return ast.literal_eval(node)
