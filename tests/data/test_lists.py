"""Lists in every encoding and with every separator that programs write. Truth: the rows as typed here."""

from pathlib import Path

import pytest

from few_shot_nas.data.lists import read_columns, read_text
from few_shot_nas.errors import InputError

COLUMNS = (("filename", "label"), ("image_name", "class_name"))
ROWS = [("é1.jpg", "cat"), ("b.jpg", "dog house")]


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_rows_come_out_whatever_wrote_them(tmp_path: Path, encoding: str, delimiter: str, end: str) -> None:
    lines = [delimiter.join(("filename", "label")), *(delimiter.join(row) for row in ROWS)]
    assert read_columns(write(tmp_path / "a.csv", end.join(lines) + end, encoding), COLUMNS) == ROWS


def test_spaces_around_cells_empty_rows_and_quotes_do_not_count(tmp_path: Path) -> None:
    text = 'id, filename ,label,,\n\n1, é1.jpg, cat ,,\n,,,,\n2,"b.jpg", "dog house",,\n'
    assert read_columns(write(tmp_path / "a.csv", text), COLUMNS) == ROWS


def test_the_first_choice_of_columns_that_is_there_is_read(tmp_path: Path) -> None:
    text = "class_name,image_name\ncat,é1.jpg\ndog house,b.jpg\n"
    assert read_columns(write(tmp_path / "a.csv", text), COLUMNS) == ROWS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "columns are ; needed are filename,label or image_name,class_name"),
        ("a,b\n1,2\n", "columns are a,b; needed are"),
        ("Filename,label\nx,y\n", "columns are Filename,label"),
        ("filename,label\n", "is empty"),
        ("filename,label\nx.jpg,\n", r"empty, or a row without filename or label .*\(line 2\)"),
        ("filename,label\nx.jpg,  \n", r"\(line 2\)"),
        ("filename,label\na,b\nx.jpg\n", r"\(line 3\)"),
        ("filename,label\nx.jpg,cat,dog\n", r"more cells than the header has \(line 2\)"),
        ("filename,label,label\nx,a,b\n", "filename and label must come once each"),
        ('filename,label\n"x.jpg,cat\n', "line 2 is no row of cells"),
    ],
)
def test_values_are_read_as_strictly_as_the_header(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=f"a.csv: .*{message}"):
        read_columns(write(tmp_path / "a.csv", text), COLUMNS)


@pytest.mark.parametrize("content", [b"\xff\xfea", b"a\0b\0", b"\xef\xbb\xbf\xff"])
def test_what_is_no_text_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.txt: is (cut off or )?no text"):
        read_text(tmp_path / "a.txt")


def test_a_list_that_is_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\)"):
        read_text(tmp_path)
