"""The architecture strings of ENAS' scripts, parsed and written: ragged lists (macro) and lists of four (micro).

Both are whole numbers separated by blanks; line breaks and quotes are ignored, so ``fixed_arc`` of a shell script can
be pasted as it is.
"""

from collections.abc import Sequence

from few_shot_nas.errors import InputError
from few_shot_nas.spaces.enas_macro import MACRO_OPS
from few_shot_nas.spaces.enas_micro import MICRO_OPS


def integers(text: str) -> list[int]:
    """Return the numbers of an arc string.

    Raises:
        InputError: if there is anything else in it.
    """
    words = text.replace('"', " ").replace("'", " ").replace("\\", " ").split()
    for word in words:
        if not word.isascii() or not word.isdigit():
            raise InputError(f"arc string: {word!r} given where a whole number is needed")
    return [int(word) for word in words]


def parse_macro(text: str) -> tuple[int, ...]:
    """Return the decisions of an ``enas_macro`` architecture.

    Args:
        text: layer by layer the op and then one 0 or 1 per possible skip: ``"op  op s0  op s0 s1 .."``. Layer i has i
            skips; ``s0`` is the one from the stem.

    Returns:
        The same numbers, checked: the decisions of ``EnasMacro(cells=L)``, where L follows from their count.

    Raises:
        InputError: if the count is not that of any number of layers, or a number is out of range.
    """
    numbers = integers(text)
    layers = 0
    while layers * (layers + 1) // 2 < len(numbers):
        layers += 1
    if not numbers or layers * (layers + 1) // 2 != len(numbers):
        raise InputError(f"arc string: {len(numbers)} numbers given, L layers have L * (L + 1) / 2: 1, 3, 6, 10, ..")
    start = 0
    for layer in range(layers):
        op, *skips = numbers[start : start + layer + 1]
        if op >= len(MACRO_OPS):
            raise InputError(f"arc string: op {op} of layer {layer} given, it must lie in 0..{len(MACRO_OPS) - 1}")
        if any(skip > 1 for skip in skips):
            raise InputError(f"arc string: skips {skips} of layer {layer} given, each must be 0 or 1")
        start += layer + 1
    return tuple(numbers)


def write_macro(decisions: Sequence[int]) -> str:
    """Return the arc string of an ``enas_macro`` architecture, one layer a line.

    Raises:
        InputError: as :func:`parse_macro`.
    """
    numbers = parse_macro(" ".join(map(str, decisions)))
    lines: list[str] = []
    start = 0
    while start < len(numbers):
        layer = len(lines)
        lines.append(" ".join(map(str, numbers[start : start + layer + 1])))
        start += layer + 1
    return "\n".join(lines) + "\n"


def parse_micro(text: str) -> tuple[int, ...]:
    """Return the decisions of an ``enas_micro`` architecture.

    Args:
        text: block by block ``index op index op``, first all blocks of the normal cell, then of the reduction cell: 20
            and 20 numbers for five blocks.

    Returns:
        The decisions of ``EnasMicro(cells=.., nodes=B)``, which takes a block's indices first and its ops after them.

    Raises:
        InputError: if the count is not 8 B, or a number is out of range.
    """
    numbers = integers(text)
    if not numbers or len(numbers) % 8:
        raise InputError(f"arc string: {len(numbers)} numbers given, two cells of B blocks have 8 * B")
    blocks = len(numbers) // 8
    decisions: list[int] = []
    for place in range(0, len(numbers), 4):
        state = 2 + place // 4 % blocks
        first, first_op, second, second_op = numbers[place : place + 4]
        if max(first, second) >= state or max(first_op, second_op) >= len(MICRO_OPS):
            raise InputError(
                f"arc string: block {numbers[place : place + 4]} of state {state} given, its indices must lie in "
                f"0..{state - 1} and its ops in 0..{len(MICRO_OPS) - 1}"
            )
        decisions += [first, second, first_op, second_op]
    return tuple(decisions)


def write_micro(decisions: Sequence[int]) -> str:
    """Return the arc string of an ``enas_micro`` architecture, one cell a line.

    Raises:
        InputError: as :func:`parse_micro`.
    """
    if len(decisions) % 8:
        raise InputError(f"arc string: {len(decisions)} decisions given, two cells of B blocks have 8 * B")
    blocks = [decisions[place : place + 4] for place in range(0, len(decisions), 4)]
    words = [str(number) for first, second, op1, op2 in blocks for number in (first, op1, second, op2)]
    parse_micro(" ".join(words))
    half = len(words) // 2
    return " ".join(words[:half]) + "\n" + " ".join(words[half:]) + "\n"
