"""The parser: precedence, round trips, types, and one clear line for every mistake."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from few_shot_nas.errors import InputError
from training.class_tables import Tables
from training.cli import build_flags, collect, dump, list_text, parse
from training.flags import Flag


def values(tables: Tables, *argv: str) -> dict[str, Any]:
    return parse(argv, tables).values


def test_defaults_are_those_of_the_signatures(tables: Tables) -> None:
    found = values(tables)
    assert (found["algorithm"], found["model_class"], found["data_class"]) == ("MAML", "Net", "Glyphs")
    assert (found["n_way"], found["inner_lr"], found["hidden"], found["data_dir"]) == (5, 0.1, 32, "data")
    assert (found["accelerator"], found["devices"], found["num_sanity_val_steps"]) == ("auto", "auto", 0)


def test_a_flag_that_several_classes_take_is_added_once(tables: Tables) -> None:
    flags = build_flags(tables, "MAML", "Net", "Glyphs")
    assert flags["n_way"].group == "Task"
    assert flags["max_meta_steps"].group == "Algorithm: MAML"
    assert flags["seed"].group == "Experiment"


def test_what_the_shell_passes_itself_is_no_model_flag(tables: Tables) -> None:
    flags = build_flags(tables, "MAML", "Net", "Glyphs")
    assert "in_channels" not in flags
    assert flags["image_size"].group == "Data: Glyphs"


def test_flags_belong_to_the_chosen_classes(tables: Tables) -> None:
    assert values(tables, "--model_class=Fixed", "--genotype=g.json")["genotype"] == "g.json"
    with pytest.raises(InputError, match="--hidden: not a flag of MAML with Fixed on Glyphs. It belongs to .*=Net"):
        parse(["--model_class=Fixed", "--genotype=g.json", "--hidden=3"], tables)


def test_a_required_flag_is_asked_for(tables: Tables) -> None:
    with pytest.raises(InputError, match="--genotype is needed by Fixed: path of a genotype"):
        parse(["--model_class=Fixed"], tables)


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["--first_order"], "first_order", True),
        (["--first_order", "--n_way=3"], "first_order", True),
        (["--first_order=True"], "first_order", True),
        (["--first_order=FALSE"], "first_order", False),
        (["--first_order", "false"], "first_order", False),
        (["--wandb=False"], "wandb", False),
        (["--fast_dev_run"], "fast_dev_run", True),
        (["--fast_dev_run=3"], "fast_dev_run", 3),
        (["--inner_lr=1e-3"], "inner_lr", 1e-3),
        (["--inner_lr=3"], "inner_lr", 3.0),
        (["--log_grad_norm=None"], "log_grad_norm", None),
        (["--log_grad_norm=2"], "log_grad_norm", 2.0),
        (["--run_dir=1"], "run_dir", "1"),
        (["--devices=2"], "devices", 2),
        (["--devices=0,1"], "devices", "0,1"),
        (["--sizes=[3, 4]"], "sizes", (3, 4)),
        (["--order", "first"], "order", "first"),
        (["--max-meta-steps", "7"], "max_meta_steps", 7),
    ],
)
def test_values_are_typed(tables: Tables, argv: list[str], name: str, value: Any) -> None:
    found = values(tables, *argv)[name]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--n_way=5.0", "--n_way=5.0: expected an int"),
        ("--n_way=1e1", "--n_way=1e1: expected an int"),
        ("--n_way=five", "--n_way=five: expected an int"),
        ("--n_way=", "--n_way=: expected an int"),
        ("--inner_lr=fast", "--inner_lr=fast: expected a float"),
        ("--first_order=2", "--first_order=2: expected true or false"),
        ("--order=third", "--order=third: expected one of first, second"),
        ("--log_grad_norm=q", "--log_grad_norm=q: expected a float or null"),
        ("--precision=8", "--precision=8: expected one of 32-true"),
        ("--n_way", "--n_way needs a value: an int"),
    ],
)
def test_a_value_of_the_wrong_type_says_which_is_needed(tables: Tables, word: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse([word], tables)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--inner_stepz=2", "--inner_stepz: not a flag of MAML with Net on Glyphs. Did you mean --inner_steps?"),
        ("--nway=2", "Did you mean --n_way?"),
        ("--support_sample=2", "Did you mean --k_shot?"),
        ("--device=2", "Did you mean --devices?"),
        ("--inner_st=3", "--inner_st: not a flag"),
        ("--algorithm=MALM", "--algorithm=MALM: unknown. Did you mean MAML? Choices: Learner, MAML"),
        ("--model_class=net", "--model_class=net: unknown. Did you mean Net?"),
        ("--data_class=Glyph", "--data_class=Glyph: unknown. Did you mean Glyphs?"),
    ],
)
def test_a_mistyped_name_is_answered_with_the_closest(tables: Tables, word: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse([word], tables)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_abbreviations_are_not_accepted(tables: Tables) -> None:
    with pytest.raises(InputError, match="--max_meta: not a flag"):
        parse(["--max_meta=3"], tables)


# ---- configuration files --------------------------------------------------------------------------------------------


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("command_line_first", [True, False])
def test_the_command_line_wins_over_files_in_any_order(
    tables: Tables, tmp_path: Path, command_line_first: bool
) -> None:
    config = [f"--config={write(tmp_path / 'c.yaml', 'inner_steps: 7')}"]
    flag = ["--inner_steps=2"]
    assert values(tables, *(flag + config if command_line_first else config + flag))["inner_steps"] == 2
    assert values(tables, *config)["inner_steps"] == 7


def test_a_later_file_wins_over_an_earlier_one(tables: Tables, tmp_path: Path) -> None:
    first = write(tmp_path / "a.yaml", "inner_steps: 7\nn_way: 3")
    second = write(tmp_path / "b.yaml", "inner_steps: 8")
    found = values(tables, "--config", first, "--config", second)
    assert (found["inner_steps"], found["n_way"]) == (8, 3)


def test_a_file_chooses_classes_and_may_use_old_keys(tables: Tables, tmp_path: Path) -> None:
    config = write(tmp_path / "c.yaml", "algorithm: Learner\nbatch_size: 3\nval_check_interval: 5\ninner_lr: 1e-3\n")
    parsed = parse([f"--config={config}"], tables)
    assert parsed.values["algorithm"] == "Learner"
    assert (parsed.values["meta_batch_size"], parsed.values["val_every"], parsed.values["inner_lr"]) == (3, 5, 1e-3)
    assert [config in note for note in parsed.notes] == [True, True]


def test_an_old_key_in_a_file_loses_to_the_new_flag(tables: Tables, tmp_path: Path) -> None:
    config = write(tmp_path / "c.yaml", "batch_size: 3")
    assert values(tables, "--meta_batch_size=9", f"--config={config}")["meta_batch_size"] == 9


def test_an_empty_file_changes_nothing(tables: Tables, tmp_path: Path) -> None:
    assert values(tables, f"--config={write(tmp_path / 'c.yaml', '')}") == values(tables)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nway: 1", "--nway (in {path}): not a flag of MAML with Net on Glyphs. Did you mean --n_way?"),
        ("n_way: 2.5", "--n_way=2.5 (in {path}): expected an int"),
        ("- 1", "--config={path}: holds a list"),
        ("inner: {lr: 1}", "--config={path}: inner holds nested keys"),
        ("config: a.yaml", "--config={path}: config can only be given on the command line"),
        ("print_config: true", "--config={path}: print_config can only be given on the command line"),
        ("a: [", "--config={path}: is not YAML"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(tables: Tables, tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "c.yaml", text)
    with pytest.raises(InputError) as caught:
        parse([f"--config={path}"], tables)
    assert str(caught.value).startswith(message.format(path=path))
    assert "\n" not in str(caught.value)


BOMB = "[" + ", ".join(
    ["&a0 [x, x, x, x, x, x, x, x, x]"] + [f"&a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
) + "]"  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 2024-13-45", "--seed=2024-13-45 (in {path}): expected an int"),
        ("n_way: 12:30:00", "--n_way=12:30:00 (in {path}): expected an int"),
        (f"n_way: {BOMB}", "--config={path}: n_way holds nested keys"),
        ("a: &a {x: 1}\nb: {<<: [*a, *a]}", "--config={path}: a holds nested keys"),
        ("[" * 100_000, "--config={path}: holds nested keys"),
        ("n_way: !!python/object/apply:os.system [ls]", "--config={path}: n_way has the tag tag:yaml.org,2002"),
        ("n_way: !!python/name:os.system x", "--config={path}: n_way has the tag tag:yaml.org,2002:python/name"),
        ("n_way: 2\nn-way: 3", "--config={path}: n_way is given twice, as 2 too; leave one"),
        ("? [1, 2]\n: 3", "--config={path}: holds a list as a key"),
        ("n_way: 2\n---\nn_way: 3", "--config={path}: is not YAML"),
        ('data_dir: "a\\0b"', "--data_dir: 'a\\x00b' is not UTF-8 text"),
        ("n_way: 2\x01", "--config={path}: cannot be read: it is no text"),
        ("#" * 2**21, "--config={path}: has more than 1048576 bytes"),
    ],
)
def test_a_file_made_to_harm_is_one_line(tables: Tables, tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "c.yaml", text)
    with pytest.raises(InputError) as caught:
        parse([f"--config={path}"], tables)
    assert message.format(path=path) in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_values_of_a_file_are_the_text_that_stands_there(tables: Tables, tmp_path: Path) -> None:
    text = (
        "run_dir: 2024-01-02\nmax_time: 1:00:00:00\ndata_dir: 0o17\nfirst_order: yes\nlog_grad_norm: ~\nsizes: [3, 4]\n"
    )
    path = tmp_path / "c.yaml"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_bytes(text.encode(encoding))
        found = values(tables, f"--config={path}")
        assert (found["run_dir"], found["max_time"], found["data_dir"]) == ("2024-01-02", "1:00:00:00", "0o17")
        assert (found["first_order"], found["log_grad_norm"], found["sizes"]) == (True, None, (3, 4))


@pytest.mark.parametrize("flag", ["n_way", "sizes", "log_grad_norm", "devices", "run_dir", "order", "first_order"])
@pytest.mark.parametrize("text", [BOMB, "[" * 5000, "9" * 5000, "{a: 1}", "!!python/name:os.system x", "\x1b[31m"])
def test_the_command_line_understands_no_yaml(tables: Tables, flag: str, text: str) -> None:
    try:
        assert values(tables, f"--{flag}={text}")[flag] == text  # where any text is a value
    except InputError as error:
        assert str(error).startswith(f"--{flag}=") and len(str(error)) < 400 and "\x1b" not in str(error)


def test_bytes_that_are_not_utf8_are_refused(tables: Tables) -> None:
    with pytest.raises(InputError, match="--run_dir: .* is not UTF-8 text"):
        parse(["--run_dir=a\udcff"], tables)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--seed=-1", "--seed=-1: must not be negative"),
        ("--seed=4294967296", "--seed=4294967296: must be at most 4294967295"),
        ("--save_every=0", "--save_every=0: must be at least 1"),
        ("--save_every=-1", "--save_every=-1: must be at least 1"),
        ("--save_minutes=.nan", "--save_minutes=.nan: must be a finite number"),
        ("--save_minutes=0", "--save_minutes=0: must be greater than 0"),
        ("--inner_lr=.nan", "--inner_lr=.nan: must be a finite number"),
        ("--inner_lr=-inf", "--inner_lr=-inf: must be a finite number"),
        ("--inner_lr=1e999", "--inner_lr=1e999: must be a finite number"),
        ("--log_grad_norm=.inf", "--log_grad_norm=.inf: must be a finite number"),
        ("--inner_steps=99999999999999999999", "must be at most 9223372036854775807"),
        ("--sizes=[1, 99999999999999999999]", "must be at most 9223372036854775807"),
        ("--num_nodes=0", "--num_nodes=0: must be at least 1"),
        ("--accelerator=tpu", "--accelerator=tpu: expected one of auto, cpu, gpu, cuda, mps"),
        ("--precision=transformer-engine", "--precision=transformer-engine: expected one of 32-true"),
    ],
)
def test_numbers_outside_of_their_range_say_what_is_needed(tables: Tables, word: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse([word], tables)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--n_way=1", "--n_way=1: must be at least 2"),
        ("--n_way=-1", "--n_way=-1: must be at least 1"),
        ("--width=0", "--width=0: must be at least 1"),
        ("--width=1000000000", "--width=1000000000: must be at most 4096"),
        ("--image_size=0", "--image_size=0: must be at least 1"),
        ("--num_workers=99999", "--num_workers=99999: must be at most 256"),
        ("--weight_decay=.nan", "--weight_decay=.nan: must be a finite number"),
    ],
)
def test_ranges_of_the_packages_own_classes_reach_the_command_line(word: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse([word])
    assert str(caught.value).startswith(message)


def test_a_missing_file_is_named(tables: Tables, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gone.yaml: cannot be read"):
        parse([f"--config={tmp_path / 'gone.yaml'}"], tables)


# ---- answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--inner_lr=1e-05", "--log_grad_norm=None", "--devices=0,1", "--sizes=[5]", "--first_order", "--run_dir=a: b"],
        ["--inner_lr=0.1000000000000000055", "--rank_timeout=60.5", "--run_dir=1e-3", "--fast_dev_run=true"],
        ["--batch_size=3", "--track_grad_norm=2", "--precision=16", "--max_time=00:01:00:00"],
    ],
)
def test_print_config_reads_back_as_the_same_values(tables: Tables, tmp_path: Path, argv: list[str]) -> None:
    printed = parse([*argv, "--print_config"], tables)
    assert printed.action == "print_config"
    config = write(tmp_path / "c.yaml", printed.text)
    again = parse([f"--config={config}", "--print_config"], tables)
    assert again.values == printed.values == values(tables, *argv)
    assert again.text == printed.text
    assert again.notes == []


def test_the_printed_configuration_is_flat(tables: Tables) -> None:
    content = yaml.safe_load(parse(["--print_config"], tables).text)
    assert list(content) == list(values(tables))
    assert not any(isinstance(value, dict) for value in content.values())


def test_list_shows_every_table() -> None:
    text = list_text()
    assert parse(["--list"]).text == text
    for name in ("MAML", "RandomSearch", "Conv4", "Supernet", "Glyphs", "Omniglot", "darts_fewshot", "LSTM"):
        assert f"  {name} " in text


def test_classes_may_not_disagree_on_a_shared_flag(tables: Tables) -> None:
    with pytest.raises(TypeError, match="width is"):
        collect([], [[Flag("width", int, 1, "", "Model")], [Flag("width", float, 1.0, "", "Algorithm")]])


@pytest.mark.parametrize("name", ["precision", "max_epochs", "batch_size", "gpus", "help"])
def test_a_class_may_not_take_a_name_of_the_trainer_or_an_old_one(name: str) -> None:
    with pytest.raises(TypeError, match=f"constructor parameter {name}"):
        collect([], [[Flag(name, int, 1, "", "Model: Net")]])


def test_dump_writes_tuples_as_lists() -> None:
    assert yaml.safe_load(dump({"sizes": (1, 2), "lr": 1e-05})) == {"sizes": [1, 2], "lr": 1e-05}
