"""Command lines and configuration files at random, by seed. Truth: the type that each flag says it has.

Whatever is typed, the parser returns values of these types or one line for the user; what it returns can be written
down and read back, and reaches the constructors as something they take or answer in one line.
"""

import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from few_shot_nas.constructor import arguments
from few_shot_nas.errors import InputError
from few_shot_nas.settings import Settings
from training import assemble, devices, run_experiment
from training.class_tables import Tables, load_tables
from training.cli import build_flags, dump, parse
from training.exits import one_line
from training.flag_values import members
from training.flags import Flag
from training.legacy import FIXED, REMOVED, RENAMED, RULES

TABLES = load_tables()
OLD = [*FIXED, *REMOVED, *RENAMED, *RULES]
BOMB = "[&a [x,x,x,x,x,x,x,x,x], &b [*a,*a,*a,*a,*a,*a,*a,*a,*a], &c [*b,*b,*b,*b,*b,*b,*b,*b,*b], *c]"
NUMBERS = [
    "0", "1", "2", "3", "-1", "-0", "+1", "0.5", "1.0", "1e-3", "-1e9", "1e999", "nan", ".nan", "-nan", "inf", ".inf",
    "-inf", "99999", "1000000000", "4294967295", "4294967296", "9223372036854775807", "9223372036854775808", "9" * 30,
    "9" * 5000, "0x10", "1_000", "1,5", "٣", " 5", "5 ", "1e", "1:30", "2024-13-45", "--5",
]  # fmt: skip
TEXTS = [
    "", " ", "null", "None", "~", "true", "True", "FALSE", "yes", "[]", "[1, 2]", "[1, [2]]", "[nan]", "{a: 1}", "{}",
    "a: b", "- 1", "!!python/name:os.system x", BOMB, "[" * 3000, "*a", "&a 1", "%s%n%d", "$(touch ran)", "`touch ran`",
    "; touch ran", "../../../etc", "/proc/self/mem", "\x1b[31m", "a\nb", "a\0b", "\udcff", "é", "💥", "=", "==", "-",
    "--", "'", '"', "\\", "a" * 5000, "MAML", "auto", "cpu",
]  # fmt: skip


def mutated(name: str, draw: random.Random) -> str:
    """Return a flag's name as a tired user types it."""
    place = draw.randrange(len(name))
    return draw.choice(
        [
            name[:place] + name[place + 1 :],
            name[:place] + name[place:][:1] * 2 + name[place + 1 :],
            name.upper(),
            name.replace("_", "-"),
            name + " ",
            "no_" + name,
        ]
    )


def value_of(flag: Flag, draw: random.Random) -> str:
    """Return a text for a flag: mostly of its own kind, sometimes anything."""
    if draw.random() < 0.3:
        return draw.choice([*NUMBERS, *TEXTS])
    choices = [str(choice) for kind in members(flag.type) for choice in getattr(kind, "__args__", ())]
    if choices and draw.random() < 0.7:
        return draw.choice(choices)
    return draw.choice(NUMBERS if {int, float} & set(members(flag.type)) else TEXTS)


def line(tables: Tables, draw: random.Random) -> tuple[list[str], dict[str, Flag]]:
    """Return a command line, and the flags of the classes that it names."""
    algorithm, model = draw.choice(list(tables.algorithms)), draw.choice(list(tables.models))
    source = draw.choice(list(tables.sources))
    flags = build_flags(tables, algorithm, model, source)
    words = [f"--algorithm={algorithm}", f"--model_class={model}", f"--data_class={source}"]
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        name = draw.choice(list(flags))
        text = value_of(flags[name], draw)
        name = mutated(name, draw) if draw.random() < 0.1 else draw.choice(OLD) if draw.random() < 0.1 else name
        odd = [[f"--{name}", text], [f"--{name}"], [f"-{name}={text}"], [text]]
        words += draw.choice([[f"--{name}={text}"]] * 8 + odd)
    if "genotype" in flags and draw.random() < 0.5:
        words.append("--genotype=/proc/self/mem")
    draw.shuffle(words)
    return words, flags


def check_answer(error: InputError) -> None:
    text = one_line(str(error))
    assert text and len(text) < 1100 and text.isprintable(), text


def fits(value: Any, flag: Flag) -> bool:
    """Return whether a value is of one of the flag's types, and every number in it finite."""
    if isinstance(value, tuple):
        return "tuple" in str(flag.type) and all(type(item) is int for item in value)
    if isinstance(value, float) and not math.isfinite(value):
        return False
    kinds = members(flag.type)
    return type(value) in kinds or any(value in getattr(kind, "__args__", ()) for kind in kinds)


def check_line(tables: Tables, words: list[str], flags: dict[str, Flag], folder: Path, deep: bool) -> bool:
    """Parse one line and check what comes of it; returns whether it was accepted."""
    started = time.process_time()
    try:
        command = parse(words, tables)
    except InputError as error:
        check_answer(error)
        return False
    finally:
        assert time.process_time() - started < 5, words
    if command.action != "run":
        return True
    for name, value in command.values.items():
        assert fits(value, flags[name]) or value == flags[name].default, (name, value)
    if deep:
        config = folder / "config.yaml"
        config.write_text(dump(command.values), encoding="utf-8")
        assert parse([f"--config={config}"], tables).values == command.values
    try:
        constructed(tables, command.values)
    except InputError as error:
        check_answer(error)
    return True


def constructed(tables: Tables, values: dict[str, Any]) -> None:
    """Build what can be built without data and without a network."""
    devices.hardware(values)
    algorithm = tables.algorithms[values["algorithm"]]
    source_class, data_class = tables.sources[values["data_class"]], tables.datamodules[algorithm.data_kind]
    source = source_class(**arguments(source_class, values))
    data_class(source, **arguments(data_class, {**values, "test_episodes": values["test_episodes"] or 1}, ("source",)))
    settings = arguments(algorithm, values, skip=("net",))
    assert any(isinstance(value, Settings) for value in settings.values())


def campaign(seed: int, count: int, folder: Path) -> int:
    accepted = 0
    draw = random.Random(seed)
    for number in range(count):
        words, flags = line(TABLES, draw)
        accepted += check_line(TABLES, words, flags, folder, deep=number % 10 == 0)
    return accepted


def test_300_lines_are_taken_or_answered_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    accepted = campaign(0, 300, tmp_path)
    assert 30 < accepted < 270
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_thousands_of_lines_are_taken_or_answered_in_one_line(seed: int, tmp_path: Path) -> None:
    assert campaign(seed, 1000, tmp_path) > 100


def configurations(draw: random.Random) -> Iterator[bytes]:
    """Yield texts of configuration files: keys and values at random, and damaged bytes of these."""
    names = list(build_flags(TABLES, "MAML", "Conv4", "Glyphs"))
    while True:
        rows = [f"{draw.choice(names)}: {draw.choice([*NUMBERS, *TEXTS])}" for _ in range(draw.randrange(1, 4))]
        content = bytearray("\n".join(rows).encode("utf-8", "surrogatepass"))
        for _ in range(draw.choice([0, 0, 1, 3])):
            content[draw.randrange(len(content))] = draw.randrange(256)
        yield bytes(content[: draw.choice([len(content)] * 3 + [draw.randrange(len(content))])])


def test_configuration_files_are_taken_or_answered_in_one_line(tmp_path: Path) -> None:
    draw, accepted = random.Random(0), 0
    flags = build_flags(TABLES, "MAML", "Conv4", "Glyphs")
    for _, content in zip(range(150), configurations(draw), strict=False):
        (tmp_path / "c.yaml").write_bytes(content)
        accepted += check_line(TABLES, [f"--config={tmp_path / 'c.yaml'}"], flags, tmp_path, deep=False)
    assert accepted > 3


def test_every_number_of_the_command_line_carries_a_range_or_is_finite_of_any_sign() -> None:
    free = {"devices", "fast_dev_run", "limit_train_batches", "limit_val_batches", "limit_test_batches"}
    free |= {"limit_predict_batches", "overfit_batches", "num_sanity_val_steps"}
    for algorithm in TABLES.algorithms:
        for model in TABLES.models:
            for name, flag in build_flags(TABLES, algorithm, model, "ImageFolder").items():
                numeric = {int, float} & set(members(flag.type)) or "tuple" in str(flag.type)
                assert flag.ranges or not numeric or name in free, f"{name} of {algorithm} with {model}"


# ---- whole runs ----------------------------------------------------------------------------------------------------

TINY = (
    "--data_class=ImageFolder --image_size=16 --n_way=2 --k_shot=1 --n_query=1 --meta_batch_size=1 --max_meta_steps=1 "
    "--val_every=1 --val_episodes=1 --test_episodes=1 --save_every=1 --width=2"
).split()
LONG = {"max_meta_steps", "inner_steps", "eval_inner_steps", "val_episodes", "test_episodes", "num_workers"}
LONG |= {"num_nodes", "devices", "n_query", "gap_episodes", "width", "image_size", "val_every", "accelerator"}
LONG |= {"config", "max_time"}
ENDS = ["-1", "0", "1", "nan", ".inf", "1e999", "9" * 30, "", "null", "x", "true", "0.5", "[1]", "/proc/x", "a\0b"]


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    draw = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for name in ("a", "b", "c"):
            (tmp_path / "data" / split / f"{split} {name}").mkdir(parents=True)
            for i in range(4):
                pixels = draw.integers(0, 255, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / split / f"{split} {name}" / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(assemble, "tensorboard_is_installed", lambda: False)
    return [*TINY, f"--data_dir={tmp_path / 'data'}", f"--cache_dir={tmp_path / 'cache'}"]


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_a_run_ends_well_or_in_one_line_whatever_one_flag_is(
    part: int, pictures: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [name for name in build_flags(TABLES, "MAML", "Conv4", "ImageFolder") if name not in LONG]
    cases = [(name, text) for name in names for text in ENDS]
    for number, (name, text) in enumerate(random.Random(part).sample(cases, 25)):
        words = [*pictures, f"--run_dir={tmp_path / f'r{number}'}", f"--{name}={text}"]
        capsys.readouterr()
        try:
            assert run_experiment.main(words) == 0
        except SystemExit as ended:
            shown = [row for row in capsys.readouterr().err.splitlines() if row.startswith("error: ")]
            assert ended.code == 2 and len(shown) == 1, (name, text)
