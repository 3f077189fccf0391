"""A file is whole or not there. Truth: the bytes on the disk and the names in the folder."""

import os

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
