"""The one command. Truth: the programs that its words stand for."""

import importlib

import pytest

import few_shot_nas
from training import main as command


def test_every_word_stands_for_a_program() -> None:
    assert set(command.COMMANDS) == set("train decode draw evaluate predict report compare search sweep export".split())
    for name, entry in command.COMMANDS.items():
        assert callable(importlib.import_module(entry.module).main), name


def test_the_list_names_every_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == command.main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name}" in printed for name in command.COMMANDS)


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == few_shot_nas.__version__


def test_a_search_is_one_unless_told_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["search", "--print_config"]) == 0
    assert "algorithm: MAMLENAS" in capsys.readouterr().out
    assert command.main(["search", "--print_config", "--algorithm=ENAS"]) == 0
    assert "algorithm: ENAS" in capsys.readouterr().out


def test_an_unknown_word_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["predicts"])
    assert ended.value.code == 2
    assert "did you mean predict?" in capsys.readouterr().err
