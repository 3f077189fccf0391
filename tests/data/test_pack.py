"""The cache: complete or absent, whoever writes it and whatever happens meanwhile. Truth: what the toy source draws."""

import fcntl
import json
import multiprocessing
import os
import resource
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from few_shot_nas.data.pack import SplitPlan, build_pack, fingerprint, open_pack
from few_shot_nas.errors import InputError

FORK = multiprocessing.get_context("fork")


def the_pack(cache: Path) -> Path:
    """Return the one pack in the cache and check that nothing but its lock lies beside it."""
    entries = sorted(cache.iterdir())
    packs = [entry for entry in entries if entry.is_dir()]
    assert len(packs) == 1 and [e.name for e in entries] == [packs[0].name, f"{packs[0].name}.lock"]
    return packs[0]


def test_packed_images_are_those_of_the_source_class_by_class(make_toy):
    source = make_toy(classes={"train": 3, "val": 2}, images=4)
    source.prepare()
    split = source.split("train")
    assert split.images.dtype == np.uint8 and split.images.shape == (12, 5, 5, 1)
    assert split.starts.tolist() == [0, 4, 8, 12]
    assert split.class_names == ("train-0", "train-1", "train-2")
    for c in range(3):
        rows = split.images[split.starts[c] : split.starts[c + 1]]
        assert rows[:, 0, 0, 0].tolist() == [c + 1] * 4
        assert rows[:, 0, 1, 0].tolist() == [1, 2, 3, 4]


def test_packed_images_are_a_memory_map_that_cannot_be_written(make_toy):
    images = make_toy().split("train").images
    assert isinstance(images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        images[0] = 1


def test_a_second_source_opens_the_pack_without_reading_the_data(make_toy):
    make_toy().prepare()

    def fail() -> None:
        raise AssertionError("planned again")

    assert len(make_toy(on_plan=fail).split("train").images) == 240


def test_images_in_any_order_go_where_they_belong(tmp_path):
    order = np.random.default_rng(0).permutation(30)
    pictures = (np.full((2, 3, 1), row, dtype=np.uint8) for row in order)
    plan = SplitPlan(("a", "b"), (10, 20), (2, 3, 1), pictures, groups=(1, 0), positions=order)
    split = build_pack("Toy", tmp_path / "pack", lambda: {"train": plan})["train"]
    np.testing.assert_array_equal(split.images, np.arange(30).reshape(30, 1, 1, 1) * np.ones((1, 2, 3, 1)))
    assert split.groups.tolist() == [1, 0]


@pytest.mark.parametrize("positions", [[0, 0, 1], [0, 1], [0, 1, 3]])
def test_positions_that_leave_a_row_empty_are_a_defect_of_the_source(tmp_path, positions):
    pictures = [np.zeros((2, 2, 1), dtype=np.uint8)] * 3
    plan = SplitPlan(("a",), (3,), (2, 2, 1), pictures, positions=np.array(positions))
    with pytest.raises(ValueError, match="positions are not a permutation of the plan's 3 images"):
        build_pack("Toy", tmp_path / "pack", lambda: {"train": plan})
    assert [entry.suffix for entry in tmp_path.iterdir()] == [".lock"]


def test_nothing_is_printed_without_a_terminal(make_toy, capfd):
    make_toy().prepare()
    assert capfd.readouterr() == ("", "")


def rewrite(pack: Path, change: Callable[[dict[str, Any]], object], checked: bool = False) -> None:
    """Change the index; without its checksum, as an earlier version wrote it, unless ``checked``."""
    index = json.loads((pack / "pack.json").read_text())
    change(index)
    if not checked:
        del index["sha256"]
    (pack / "pack.json").write_text(json.dumps(index))


def entry(**values: Any) -> Callable[[Path], None]:
    return lambda pack: rewrite(pack, lambda index: index["splits"]["val"].update(values))


@pytest.mark.parametrize(
    "damage",
    [
        lambda pack: rewrite(pack, lambda index: index["splits"]["val"].update(class_names=list("abcdefgh")), True),
        lambda pack: rewrite(pack, lambda index: index.update(splits={})),
        lambda pack: (pack / "pack.json").write_text("[" * 100_000),
        lambda pack: (pack / "pack.json").write_bytes(b"\xff\xfe{}"),
        entry(starts=[10**30] * 9),
        entry(starts=[0] * 8 + [160]),
        entry(starts=[0, *range(160, 0, -20)]),
        entry(class_names=["same"] * 8),
        entry(class_names=list(range(8))),
        entry(groups=[0]),
        lambda pack: (pack / "pack.json").unlink(),
        lambda pack: (pack / "pack.json").write_text((pack / "pack.json").read_text()[:50]),
        lambda pack: (pack / "pack.json").write_text("[1, 2]"),
        lambda pack: (pack / "pack.json").write_text(json.dumps({"version": 0, "splits": {}})),
        lambda pack: (pack / "train.npy").unlink(),
        lambda pack: os.truncate(pack / "val.npy", 200),
        lambda pack: shutil.rmtree(pack) or pack.mkdir(),
    ],
    ids=[
        "a name altered", "no splits", "deep nesting", "no text", "huge starts", "empty classes", "falling starts",
        "one name for all", "numbers for names", "too few groups", "no index", "half an index", "another index",
        "old format", "no images", "half the images", "empty folder",
    ],
)  # fmt: skip
def test_a_damaged_pack_is_seen_and_built_again(make_toy, tmp_path, damage):
    make_toy().prepare()
    pack = the_pack(tmp_path / "cache")
    damage(pack)
    assert open_pack(pack) is None
    rebuilt = make_toy().split("val")
    assert rebuilt.images[:, 0, 0, 0].tolist() == np.repeat(np.arange(1, 9), 20).tolist()
    assert the_pack(tmp_path / "cache") == pack


def test_what_a_killed_process_left_is_removed_by_the_next(make_toy, tmp_path):
    make_toy().prepare()
    pack = the_pack(tmp_path / "cache")
    pack.rename(pack.parent / f".{pack.name}.tmp-123")
    make_toy().prepare()
    assert the_pack(tmp_path / "cache") == pack


def test_two_processes_at_once_write_one_pack_and_both_read_it(make_toy, tmp_path):
    log, barrier, results = tmp_path / "plans", FORK.Barrier(2), FORK.Queue()

    def note() -> None:
        with open(log, "a") as stream:
            stream.write("x")

    def work() -> None:
        source = make_toy(classes={"train": 150, "val": 50}, on_plan=note)
        barrier.wait(timeout=30)
        results.put(int(source.split("train").images[:, 0, 0].astype(np.int64).sum()))

    processes = [FORK.Process(target=work) for _ in range(2)]
    for process in processes:
        process.start()
    sums = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(timeout=30)
    assert sums == [20 * 150 * 151 // 2] * 2
    assert log.read_text() == "x"
    the_pack(tmp_path / "cache")


def test_a_run_that_waits_for_anothers_lock_says_so(make_toy, tmp_path, monkeypatch, caplog):
    make_toy().prepare()
    pack = the_pack(tmp_path / "cache")
    shutil.rmtree(pack)
    monkeypatch.setattr("few_shot_nas.data.pack._PATIENCE", 0.05)
    other = open(f"{pack}.lock", "w")
    fcntl.flock(other, fcntl.LOCK_EX)
    waiting = threading.Timer(0.5, other.close)
    waiting.start()
    make_toy().prepare()
    waiting.join()
    assert f"Toy: another process is packing into {pack}; waiting for it to finish" in caplog.text


def test_a_lock_that_is_free_is_not_talked_about(make_toy, caplog):
    make_toy().prepare()
    assert "another process" not in caplog.text


def test_a_full_disk_is_one_line_and_leaves_nothing_behind(make_toy, tmp_path):
    results = FORK.Queue()

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        try:
            make_toy(classes={"train": 100}).prepare()
        except InputError as error:
            results.put(str(error))

    process = FORK.Process(target=work)
    process.start()
    message = results.get(timeout=30)
    process.join(timeout=30)
    assert message.startswith("Toy: disk full while packing into") and "(0 MB are needed)" in message
    assert "\n" not in message and "cache_dir" in message
    assert [entry.suffix for entry in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_cache_folder_that_cannot_be_made_is_named(make_toy, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"Toy: cannot write the cache .*file/cache.*cache_dir"):
        make_toy(cache_dir=str(tmp_path / "file" / "cache")).prepare()


def test_a_class_in_two_splits_is_named_and_nothing_is_packed(make_toy, tmp_path):
    source = make_toy(classes={"train": 3, "val": 5}, names=lambda split, c: f"{split if c != 2 else 'both'}-{c}")
    with pytest.raises(InputError, match="Toy: class both-2 is in both train and val"):
        source.prepare()
    assert [entry.suffix for entry in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_class_twice_in_one_split_is_refused(make_toy):
    with pytest.raises(InputError, match="Toy: a class of train occurs twice"):
        make_toy(classes={"train": 2}, names=lambda split, c: "same").prepare()


def test_a_class_without_images_is_refused(make_toy):
    with pytest.raises(InputError, match="Toy: split train has no classes, or a class without images"):
        make_toy(images=0).prepare()


def test_an_error_in_the_data_leaves_no_half_written_pack(tmp_path):
    def plan():
        raise InputError("bad picture")

    with pytest.raises(InputError, match="^bad picture$"):
        build_pack("Toy", tmp_path / "cache" / "pack", plan)
    assert not (tmp_path / "cache" / "pack").exists()


def test_fingerprint_changes_with_settings_and_with_size_and_time_of_a_file(tmp_path):
    file = tmp_path / "data"
    file.write_text("abc")
    first = fingerprint({"a": 1}, [file])
    assert fingerprint({"a": 1}, [file]) == first
    prints = {first, fingerprint({"a": 2}, [file]), fingerprint({"a": 1}, [])}
    os.utime(file, (1, 1))
    prints.add(fingerprint({"a": 1}, [file]))
    file.write_text("abcd")
    os.utime(file, (1, 1))
    prints.add(fingerprint({"a": 1}, [file]))
    assert len(prints) == 5


def test_an_unknown_split_is_named(make_toy):
    with pytest.raises(InputError, match="Toy: there is no split tset; there are train, val, test"):
        make_toy().split("tset")
