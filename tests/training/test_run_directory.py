"""Where a run may write, and that a failed one leaves nothing behind."""

import os
from pathlib import Path

import pytest

from few_shot_nas.errors import InputError
from training.run_directory import VARIABLE, RunDirectory, is_first_rank

NAMES = ("MAML", "Conv4", "Glyphs")


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK", "NODE_RANK", VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def checkpoint(run_dir: Path) -> Path:
    path = run_dir / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    path.write_text("x", encoding="utf-8")
    return path


def test_the_default_folder_names_the_classes_and_the_time() -> None:
    path = RunDirectory.choose(None, None, NAMES).path
    assert path.parent == Path("runs")
    assert path.name.startswith("MAML-Conv4-Glyphs-2")


def test_two_runs_in_one_second_get_two_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.run_directory.time.strftime", lambda _: "20260101-000000")
    paths = []
    for _ in range(3):
        directory = RunDirectory.choose(None, None, NAMES)
        directory.make()
        directory.release()
        paths.append(directory.path.name)
    stem = "MAML-Conv4-Glyphs-20260101-000000"
    assert paths == [stem, f"{stem}-2", f"{stem}-3"]


def test_choosing_writes_nothing(tmp_path: Path) -> None:
    RunDirectory.choose("a/b", None, NAMES)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_another_run_is_refused(tmp_path: Path) -> None:
    checkpoint(tmp_path / "a")
    with pytest.raises(InputError, match="--run_dir=a: holds another run; continue it with --ckpt_path=last"):
        RunDirectory.choose("a", None, NAMES)


def test_a_folder_without_a_checkpoint_is_refused_with_other_advice(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.yaml").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="--run_dir=a: holds another run; it has no checkpoint"):
        RunDirectory.choose("a", None, NAMES)


def test_a_run_that_starts_there_at_the_same_moment_is_refused(tmp_path: Path) -> None:
    ours, theirs = (RunDirectory.choose("a", None, NAMES) for _ in range(2))
    theirs.make()
    with pytest.raises(InputError, match="--run_dir=a: another run has just started there"):
        ours.make()


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert RunDirectory.choose("a", None, NAMES).path == Path("a")


def test_a_file_is_no_run_directory(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="--run_dir=a: is a file"):
        RunDirectory.choose("a", None, NAMES)


def test_last_continues_the_folders_own_checkpoint(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a")
    directory = RunDirectory.choose("a", "last", NAMES)
    assert directory.resume is not None
    assert directory.resume.resolve() == path
    assert directory.continues


def test_the_path_of_the_folders_own_checkpoint_continues_it_too(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a")
    assert RunDirectory.choose("a", str(path), NAMES).continues


def test_a_checkpoint_of_another_run_starts_a_new_folder_only(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a")
    assert not RunDirectory.choose("b", str(path), NAMES).continues
    checkpoint(tmp_path / "b")
    with pytest.raises(InputError, match="--run_dir=b: holds another run"):
        RunDirectory.choose("b", str(path), NAMES)


def test_last_without_a_folder_or_a_file_is_refused() -> None:
    with pytest.raises(InputError, match="--ckpt_path=last needs --run_dir"):
        RunDirectory.choose(None, "last", NAMES)
    with pytest.raises(InputError, match="a/checkpoints/last.ckpt does not exist"):
        RunDirectory.choose("a", "last", NAMES)
    with pytest.raises(InputError, match="gone.ckpt does not exist"):
        RunDirectory.choose("a", "gone.ckpt", NAMES)


def test_other_ranks_take_the_folder_of_the_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = RunDirectory.choose(None, None, NAMES)
    first.make()
    monkeypatch.setenv("LOCAL_RANK", "1")
    other = RunDirectory.choose(None, None, NAMES)
    assert other.path.resolve() == first.path.resolve()
    other.make()
    other.discard()
    assert (first.path / "checkpoints").is_dir()


def test_the_first_rank_ignores_a_folder_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "elsewhere")
    assert RunDirectory.choose("a", None, NAMES).path == Path("a")


def test_discard_removes_what_make_made_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    directory = RunDirectory.choose("kept/new/run", None, NAMES)
    directory.make()
    (tmp_path / "kept/new/run/config.yaml").write_text("x", encoding="utf-8")
    directory.discard()
    assert list((tmp_path / "kept").iterdir()) == []


def test_discard_keeps_a_parent_that_another_run_uses(tmp_path: Path) -> None:
    directory = RunDirectory.choose("runs/one", None, NAMES)
    directory.make()
    (tmp_path / "runs/two").mkdir()
    directory.discard()
    assert [entry.name for entry in (tmp_path / "runs").iterdir()] == ["two"]


def test_discard_leaves_a_continued_run_alone(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a")
    directory = RunDirectory.choose("a", "last", NAMES)
    directory.make()
    directory.discard()
    assert path.is_file()


def test_the_variable_is_gone_after_release() -> None:
    directory = RunDirectory.choose("a", None, NAMES)
    directory.make()
    assert os.environ[VARIABLE] == str(Path("a").resolve())
    directory.release()
    assert VARIABLE not in os.environ


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="--run_dir=file/run: cannot be made"):
        RunDirectory.choose("file/run", None, NAMES).make()


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"LOCAL_RANK": "0"}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"RANK": "2", "LOCAL_RANK": "0"}, False),
        ({"SLURM_PROCID": "3"}, False),
        ({"NODE_RANK": "1"}, False),
    ],
)
def test_the_first_rank_is_known_before_any_process_group(environment: dict[str, str], first: bool) -> None:
    assert is_first_rank(environment) is first
