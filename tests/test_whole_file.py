"""A file is whole or not there. Truth: the bytes on the disk and the names in the folder.

That nothing writes in another way is read from the code by ``ast``; made-up code shows that this check sees a writer.
"""

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from few_shot_nas.whole_file import read_bytes, read_text, reason, remove_parts, replacing, write_text


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.txt"
    write_text(target, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(target, "new \ud800")
    with pytest.raises(KeyboardInterrupt), replacing(target) as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_the_bytes_are_flushed_before_the_rename_and_the_folder_after(tmp_path, monkeypatch):
    events = []
    replace, fsync = os.replace, os.fsync
    monkeypatch.setattr(os, "replace", lambda *names: (events.append("rename"), replace(*names)))

    def watched(handle):
        events.append(os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", watched)
    write_text(tmp_path / "a.txt", "x")
    assert events == [str(tmp_path / f"a.txt.{os.getpid()}.part"), "rename", str(tmp_path)]


def test_what_killed_processes_left_is_removed(tmp_path):
    for name in ("a.txt.1.part", "last.ckpt.22.part", "a.txt"):
        (tmp_path / name).write_text("")
    remove_parts(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (os.mkfifo, "it is a pipe, a socket or a device"),
        (lambda path: path.symlink_to("/dev/zero"), "it is a pipe, a socket or a device"),
        (lambda path: path.write_bytes(b"\xff"), "it is not text"),
        (lambda path: path.write_bytes(b"x" * 11), "it has more than 10 bytes"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: path.symlink_to("gone"), "No such file or directory"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    ],
    ids=["pipe", "device", "bytes", "large", "folder", "link to nothing", "circle"],
)
def test_what_is_no_text_file_is_said_in_a_few_words_and_not_waited_for(tmp_path, make, why):
    make(tmp_path / "f")
    with pytest.raises((OSError, ValueError)) as caught:
        read_text(tmp_path / "f", largest=10)
    assert reason(caught.value) == why


def test_a_file_and_the_pipe_of_a_shell_are_read(tmp_path):
    (tmp_path / "f").write_text("é", encoding="utf-8")
    assert read_text(tmp_path / "f") == "é" and read_bytes(tmp_path / "f") == "é".encode()
    reading, writing = os.pipe()
    os.write(writing, b"n_way: 5")
    os.close(writing)
    assert read_text(f"/dev/fd/{reading}") == "n_way: 5"
    os.close(reading)


ROOT = Path(__file__).resolve().parents[1]
MOVES = {"os.replace", "os.rename", "shutil.move", "shutil.copy", "shutil.copyfile", "torch.save", "np.save"}
WRITES = {"write_text", "write_bytes", "savez", "save_file", "to_csv", "savefig", "rename"}
#: Who writes without ``replacing``, and why that is no half-written file.
ELSEWHERE = {
    "few_shot_nas/whole_file.py": "the one place",
    "few_shot_nas/data/pack.py": "a folder of files, renamed when it is whole",
    "few_shot_nas/runtime/metrics_csv.py": "appends a row",
    "few_shot_nas/runtime/seal.py": "adds the digest to a checkpoint within replacing()",
    "few_shot_nas/report/curves.py": "draws into memory",
    "training/sweep.py": "appends the output of a trial to its log",
}


def is_write(node: ast.AST) -> bool:
    """Return whether a call writes to a path of its own; ``write_text`` alone is that of whole_file."""
    if not isinstance(node, ast.Call):
        return False
    name = ast.unparse(node.func)
    if name in MOVES or (isinstance(node.func, ast.Attribute) and node.func.attr in WRITES):
        return True
    given = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg == "mode")]
    modes = [value.value for value in given if isinstance(value, ast.Constant) and isinstance(value.value, str)]
    writing = any(set(mode) <= set("rwaxbt+") and set(mode) & set("wax+") for mode in modes)
    return name.rpartition(".")[2] == "open" and writing


def loose_writes(node: ast.AST) -> Iterator[int]:
    """Yield the lines of writes that no ``with replacing(...)`` holds."""
    held = [ast.unparse(item.context_expr) for item in node.items] if isinstance(node, ast.With) else []
    if any(text.startswith("replacing(") for text in held):
        return
    if is_write(node):
        yield node.lineno
    for child in ast.iter_child_nodes(node):
        yield from loose_writes(child)


def test_nothing_writes_a_file_but_whole():
    found = {}
    for folder in ("few_shot_nas", "training"):
        for file in (ROOT / folder).rglob("*.py"):
            if lines := list(loose_writes(ast.parse(file.read_text(encoding="utf-8")))):
                found[file.relative_to(ROOT).as_posix()] = lines
    assert set(found) == set(ELSEWHERE), found


@pytest.mark.parametrize(
    "code",
    ["path.write_text(x)", "open(path, 'w')", "path.open(mode='xb')", "os.replace(a, b)", "torch.save(x, path)"],
)
def test_the_check_sees_a_writer(code):
    assert list(loose_writes(ast.parse(code))) == [1]
    assert not list(loose_writes(ast.parse(f"with replacing(path) as part:\n    {code}")))


def test_the_check_takes_readers_and_whole_files():
    assert not list(loose_writes(ast.parse("write_text(path, x)\nopen(path)\npath.open('rb')\nopen(path, 'r')")))
