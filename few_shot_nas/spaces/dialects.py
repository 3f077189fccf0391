"""Architectures as users have them: a published name, a file, or a text in the notation of some paper."""

from collections.abc import Callable, Mapping
from math import isqrt
from pathlib import Path
from typing import TypeVar

from few_shot_nas.errors import InputError
from few_shot_nas.registry import lookup
from few_shot_nas.spaces import SPACES
from few_shot_nas.spaces.arc_strings import integers, parse_macro, parse_micro, write_macro, write_micro
from few_shot_nas.spaces.cell_space import CellSpace
from few_shot_nas.spaces.darts_strings import parse_darts, read_cells, write_darts
from few_shot_nas.spaces.enas_macro import EnasMacro
from few_shot_nas.spaces.enas_micro import EnasMicro
from few_shot_nas.spaces.genotype import LARGEST_FILE, Genotype
from few_shot_nas.spaces.nb201 import Nb201
from few_shot_nas.spaces.nb201_strings import nodes_of, parse_nb201, write_nb201
from few_shot_nas.spaces.published import PUBLISHED
from few_shot_nas.spaces.space import SearchSpace
from few_shot_nas.whole_file import read_text, reason

Shape = TypeVar("Shape", bound=SearchSpace)

_KINDS = (
    "a genotype.json, a published name such as AUTO_MAML_2, or a text or file that holds Genotype(normal=..), "
    "|op~0|+.. or an arc of ENAS"
)


def read_genotype(
    given: str, space: str | None = None, channels: int | None = None, cells: int | None = None
) -> Genotype:
    """Return the architecture that a user means.

    Args:
        given: a name of :data:`few_shot_nas.spaces.published.PUBLISHED`, the path of a file, or a text: the JSON of a
            :class:`few_shot_nas.spaces.genotype.Genotype`, ``Genotype(normal=..)`` of DARTS and its relatives, flat or
            nested, ``|op~0|+|op~0|op~1|+..`` of NAS-Bench-201, or a macro or micro arc of ENAS.
        space: the space of a text that several spaces contain; None takes the first one of SPACES that has all its ops,
            and by default its number of nodes if there is one.
        channels: channels of the first cell, which texts do not say; None takes the published ones or the space's
            default.
        cells: number of cells, likewise.

    Raises:
        InputError: if it is none of these, is damaged or not an architecture of its space, or contradicts the sizes
            given.

    Example:
        >>> read_genotype("|skip_connect~0|+|none~0|nor_conv_1x1~1|", channels=8).cells
        3
    """
    if given in PUBLISHED:
        known = PUBLISHED[given]
        return _parse(known.text, given, space or known.space, channels or known.channels, cells or known.cells)
    if _is_text(given):
        return _parse(given, "genotype", space, channels, cells)
    if not Path(given).exists() and (given.isupper() or given.upper() in PUBLISHED):
        lookup(PUBLISHED, given, "genotype")
    return _parse(_content(given), f"genotype {given}", space, channels, cells)


def _is_text(given: str) -> bool:
    return given.lstrip().startswith(("{", "|")) or "Genotype(" in given or _is_arc(given)


def _is_arc(text: str) -> bool:
    return any(sign.isdigit() for sign in text) and not text.strip("0123456789 \t\n\r\"'\\")


def _content(path: str) -> str:
    try:
        return read_text(path, LARGEST_FILE)
    except (OSError, ValueError) as error:
        raise InputError(f"genotype {path}: cannot be read ({reason(error)}); give {_KINDS}") from None


def _parse(text: str, where: str, space: str | None, channels: int | None, cells: int | None) -> Genotype:
    """Read a text in whatever notation it is."""
    body = text.strip()
    if body.startswith("{"):
        return _of_these_sizes(Genotype.from_json(body, where), where, space, channels, cells)
    sizes = {name: value for name, value in (("channels", channels), ("cells", cells)) if value is not None}
    if body.startswith("|"):
        return parse_nb201(body, _one(space or "nb201", Nb201, nodes=nodes_of(body), **sizes))
    if "Genotype(" in body:
        nodes = max((len(cell) for cell in read_cells(body).values()), default=1)
        return parse_darts(body, _one(space or _space_of_cells(body), CellSpace, nodes=nodes, **sizes))
    if _is_arc(body):
        return _parse_arc(body, space, sizes)
    raise InputError(f"{where}: not a genotype: {body!r:.60}; give {_KINDS}")


def _of_these_sizes(
    genotype: Genotype, where: str, space: str | None, channels: int | None, cells: int | None
) -> Genotype:
    for name, wanted in (("space", space), ("channels", channels), ("cells", cells)):
        if wanted is not None and wanted != getattr(genotype, name):
            raise InputError(
                f"{where}: has {name}={getattr(genotype, name)}, but {name}={wanted} is asked for; leave {name} out"
            )
    return genotype


def _one(name: str, shape: type[Shape], **sizes: int) -> Shape:
    """Return the space of a name, which must be one of a shape."""
    found = lookup(SPACES, name, "space")
    if not issubclass(found, shape):
        fitting = ", ".join(own for own, other in SPACES.items() if issubclass(other, shape))
        raise InputError(f"genotype: its notation is not that of space {name}; it is one of {fitting}")
    return found(**sizes)


def _space_of_cells(text: str) -> str:
    """Return the first space that has the ops of a text, and by default its number of nodes if there is one."""
    read = read_cells(text)
    ops = {op for cell in read.values() for node in cell for op, _ in node}
    spaces = {name: space for name, space in SPACES.items() if issubclass(space, CellSpace)}
    fitting = [name for name, space in spaces.items() if ops <= {*space.ops, *space.published_ops}]
    if not fitting:
        raise InputError(
            f"published genotype: no space has all of the ops {', '.join(sorted(ops))}; spaces of cells are "
            f"{', '.join(spaces)}"
        )
    usual = [name for name in fitting if spaces[name]().nodes in map(len, read.values())]
    return (usual or fitting)[0]


def _parse_arc(text: str, name: str | None, sizes: Mapping[str, int]) -> Genotype:
    """Read an arc of ENAS, whose count of numbers says whether it is a macro or a micro one, and of what size."""
    if name is not None:
        lookup(SPACES, name, "space")
    count = len(integers(text))
    layers = (isqrt(8 * count + 1) - 1) // 2
    is_macro, is_micro = layers * (layers + 1) // 2 == count, count % 8 == 0
    if name is None and is_macro and is_micro:
        raise InputError(f"arc string: {count} numbers are a macro or a micro arc; give space enas_macro or enas_micro")
    if name == "enas_macro" or (name is None and not is_micro):
        return EnasMacro(**{"cells": layers, **sizes}).decode(parse_macro(text))
    if name in ("enas_micro", None):
        return EnasMicro(**sizes, nodes=max(count // 8, 1)).decode(parse_micro(text))
    raise InputError(f"arc string: its notation is not that of space {name}; it is one of enas_macro, enas_micro")


def _arc(write: Callable[[tuple[int, ...]], str]) -> Callable[[Genotype], str]:
    def written(genotype: Genotype) -> str:
        space = SPACES[genotype.space](channels=genotype.channels, cells=genotype.cells, nodes=genotype.nodes)
        return write(space.encode(genotype))

    return written


#: Dialect -> the spaces that it can write, and how it writes an architecture of one of these spaces.
DIALECTS: Mapping[str, tuple[type, Callable[[Genotype], str]]] = {
    "json": (SearchSpace, Genotype.to_json),
    "darts": (CellSpace, write_darts),
    "darts_nested": (CellSpace, lambda genotype: write_darts(genotype, nested=True)),
    "nb201": (Nb201, write_nb201),
    "enas_macro": (EnasMacro, _arc(write_macro)),
    "enas_micro": (EnasMicro, _arc(write_micro)),
}


def write_genotype(genotype: Genotype, dialect: str = "json") -> str:
    """Return an architecture as text that :func:`read_genotype` reads, given its space and sizes.

    Args:
        genotype: the architecture.
        dialect: ``json``, which says everything, or a published notation: ``darts`` (flat), ``darts_nested``,
            ``nb201``, ``enas_macro`` or ``enas_micro``.

    Raises:
        InputError: if the dialect is unknown or cannot express architectures of this space.
    """
    shape, write = lookup(DIALECTS, dialect, "dialect")
    if not issubclass(lookup(SPACES, genotype.space, "space"), shape):
        own = [name for name, (other, _) in DIALECTS.items() if issubclass(SPACES[genotype.space], other)]
        raise InputError(f"dialect {dialect} cannot express space {genotype.space}; take {' or '.join(own)}")
    return write(genotype)
