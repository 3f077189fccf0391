"""An architecture as plain data: hashable, comparable, written as JSON."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from few_shot_nas.errors import InputError
from few_shot_nas.ranges import Cells, Nodes, Width, ranges_of
from few_shot_nas.whole_file import read_text, reason, write_text

_FIELDS = ("space", "channels", "cells", "nodes", "edges")
#: Largest values that a file may name; far beyond them no network can be built, or even drawn.
LIMITS = {name: ranges_of(kind)[0].high for name, kind in (("channels", Width), ("cells", Cells), ("nodes", Nodes))}
#: Characters of a file; a genotype of the largest space has 10,000.
LARGEST_FILE = 2**20
_INPUTS = 2  # states of a cell that are no nodes


class Edge(NamedTuple):
    """One op of an architecture.

    Attributes:
        op: a key of :data:`few_shot_nas.spaces.ops.OPS`.
        src: index of the state the op reads; 0 and 1 are a cell's two inputs.
        dst: index of the state its output is added to.
    """

    op: str
    src: int
    dst: int


@dataclass(frozen=True)
class Genotype:
    """An architecture of one search space, with all that is needed to build it.

    Attributes:
        space: a key of :data:`few_shot_nas.spaces.SPACES`.
        channels: channels of the first cell.
        cells: number of cells (layers of a chain).
        nodes: intermediate nodes per cell.
        edges: for each cell type its edges, in the order the space defines.
    """

    space: str
    channels: int
    cells: int
    nodes: int
    edges: tuple[tuple[str, tuple[Edge, ...]], ...]

    def to_json(self) -> str:
        """Return the genotype as JSON text with one edge per line."""
        cell_types = []
        for cell_type, edges in self.edges:
            lines = ",\n".join(f"      {json.dumps(edge._asdict())}" for edge in edges)
            cell_types.append(f"    {json.dumps(cell_type)}: [\n{lines}\n    ]")
        head = "".join(f"  {json.dumps(name)}: {json.dumps(getattr(self, name))},\n" for name in _FIELDS[:-1])
        return "{\n" + head + '  "edges": {\n' + ",\n".join(cell_types) + "\n  }\n}\n"

    @classmethod
    def from_json(cls, text: str, where: str = "genotype") -> "Genotype":
        """Read what :meth:`to_json` wrote.

        Args:
            text: the JSON text.
            where: what the text is, for messages: a file name.

        Raises:
            InputError: naming ``where`` and the field that is damaged. Whether the ops and edges belong to the
                space is checked by the space, when the genotype is used.
        """
        try:
            return cls._from_fields(json.loads(text), where)
        except InputError:
            raise
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: not a genotype, the JSON is damaged ({error})") from None

    @classmethod
    def _from_fields(cls, fields: Any, where: str) -> "Genotype":
        if not isinstance(fields, dict) or set(fields) != set(_FIELDS):
            found = f"{', '.join(sorted(fields)):.200}" if isinstance(fields, dict) else type(fields).__name__
            raise InputError(f"{where}: not a genotype, it needs the fields {', '.join(_FIELDS)}; found {found}")
        if not isinstance(fields["space"], str):
            raise InputError(f"{where}: space must be a name, found {fields['space']!r:.80}")
        for name in ("channels", "cells", "nodes"):
            if type(fields[name]) is not int or fields[name] < 1:
                raise InputError(f"{where}: {name} must be a whole number from 1, found {fields[name]!r:.80}")
            if fields[name] > LIMITS[name]:
                raise InputError(f"{where}: {name} must be at most {LIMITS[name]}, found {fields[name]!r:.20}")
        edges = fields["edges"]
        if not isinstance(edges, dict) or not all(isinstance(value, list) for value in edges.values()):
            raise InputError(f"{where}: edges must hold one list of edges per cell type, found {edges!r:.80}")
        read = tuple((name, tuple(_edge(item, name, where) for item in items)) for name, items in edges.items())
        states = fields["cells"] + fields["nodes"] + _INPUTS
        for name, items in read:
            for op, src, dst in items:
                if not 0 <= src < dst < states:
                    raise InputError(
                        f"{where}: edge {src!r:.20}->{dst!r:.20} ({op:.40}) of {name:.40} must lead from a state to a "
                        f"later one, below {states} for cells={fields['cells']} and nodes={fields['nodes']}"
                    )
        return cls(fields["space"], fields["channels"], fields["cells"], fields["nodes"], read)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the genotype to a file, whole or not at all."""
        write_text(path, self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Genotype":
        """Read a genotype file.

        Raises:
            InputError: naming the file if it is missing, unreadable or damaged.
        """
        try:
            text = read_text(path, LARGEST_FILE)
        except (OSError, ValueError) as error:
            raise InputError(
                f"genotype {path}: cannot be read ({reason(error)}); give a genotype.json of a search"
            ) from None
        return cls.from_json(text, where=f"genotype {path}")


def _edge(item: Any, cell_type: str, where: str) -> Edge:
    if not isinstance(item, Mapping) or set(item) != set(Edge._fields):
        raise InputError(f"{where}: an edge of {cell_type} needs exactly op, src and dst, found {item!r:.80}")
    if not isinstance(item["op"], str) or type(item["src"]) is not int or type(item["dst"]) is not int:
        raise InputError(f"{where}: an edge of {cell_type} needs a name and two whole numbers, found {item!r:.80}")
    return Edge(item["op"], item["src"], item["dst"])
