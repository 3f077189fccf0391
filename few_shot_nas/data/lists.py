"""Lists that come with datasets: text files of names, whatever program has written them."""

import codecs
import csv
import io
from collections.abc import Sequence
from pathlib import Path

from few_shot_nas.errors import InputError
from few_shot_nas.whole_file import read_bytes, reason

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DELIMITERS = (",", ";", "\t")
#: Bytes of a list; that of ImageNet's 14 million files would be a quarter of it.
_LARGEST = 2**30


def read_text(path: Path) -> str:
    """Return a text file in UTF-8, UTF-16 or UTF-32 (these two with a byte order mark), else in Latin-1.

    Raises:
        InputError: naming the file, if it cannot be read, or is no text.
    """
    try:
        content = read_bytes(path, _LARGEST)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({reason(error)}); get this file again") from error
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            raise InputError(f"{path}: is cut off or no text ({error.reason}); get this file again") from error
        text = content.decode("latin-1")
    if "\0" in text:
        raise InputError(f"{path}: is no text, or UTF-16 without a byte order mark; save it as UTF-8")
    return text


def read_columns(path: Path, choices: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return some columns of a table with a header, its cells separated by commas, semicolons or tabs.

    Spaces around a cell do not count, nor do rows without any content.

    Args:
        path: the file.
        choices: names of the wanted columns; the first choice that the header has is read.

    Returns:
        One tuple per row, its cells in the order of the choice, none of them empty.

    Raises:
        InputError: naming the file and the line, if the columns or a cell are missing, a row has more cells than the
            header, or a column's name comes twice.
    """
    text = read_text(path)
    first = text.lstrip("\r\n").partition("\n")[0]
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num} is no row of cells ({error}); get the list again") from error
    rows = [(line, row) for line, row in rows if any(row)]
    header = rows[0][1] if rows else []
    names = next((names for names in choices if set(names) <= set(header)), None)
    if names is None:
        needed = " or ".join(",".join(names) for names in choices)
        raise InputError(f"{path}: columns are {','.join(header)}; needed are {needed}")
    if any(header.count(name) > 1 for name in names):
        raise InputError(f"{path}: columns are {','.join(header)}; {' and '.join(names)} must come once each")
    places = [header.index(name) for name in names]
    found = []
    for line, row in rows[1:]:
        cells = tuple(row[place] if place < len(row) else "" for place in places)
        if not all(cells) or any(row[len(header) :]):
            raise InputError(
                f"{path}: empty, or a row without {' or '.join(names)} or with more cells than the header has "
                f"(line {line}); get the list again"
            )
        found.append(cells)
    if not found:
        raise InputError(f"{path}: is empty; get the list again")
    return found
