"""A file is whole or not there. Truth: the bytes on the disk and the names in the folder."""

import os

import pytest

from few_shot_nas.whole_file import remove_parts, replacing, write_text


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
