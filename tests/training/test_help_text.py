"""What --help and the answer to an unknown flag say. Truth: the classes' signatures and docstrings."""

import shlex

import pytest

from few_shot_nas.errors import InputError
from training import help_text
from training.class_tables import Tables, load_tables
from training.cli import build_flags, parse


def words(text: str) -> str:
    return " ".join(text.split())


def test_short_help_names_the_most_used_flags_and_three_examples() -> None:
    parsed = parse(["--help"])
    assert parsed.tables is None
    for name in ("n_way", "k_shot", "data_dir", "max_meta_steps", "run_dir"):
        assert f"--{name} " in parsed.text
    assert "--help --algorithm=MAML" in parsed.text
    assert parsed.text.count("  --algorithm=") >= 2 and "--config=training/recipes/" in parsed.text


def test_the_most_used_flags_are_those_of_the_classes() -> None:
    flags = build_flags(load_tables(), "MAML", "Conv4", "ImageFolder")
    for common in help_text.COMMON_FLAGS:
        real = flags[common.name]
        assert (common.type, common.default, common.help) == (real.type, real.default, real.help)
        assert help_text.range_words(common.ranges) == help_text.range_words(real.ranges), common.name


@pytest.mark.parametrize("line", [line for line in help_text.EXAMPLES.splitlines() if line.startswith("    ")])
def test_the_examples_are_command_lines(line: str) -> None:
    assert parse(shlex.split(line)).action == "run"


def test_help_of_chosen_classes_names_every_flag_with_kind_and_default(tables: Tables) -> None:
    text = parse(["--help", "--algorithm=Learner"], tables).text
    for name in parse(["--algorithm=Learner"], tables).values:
        assert f"--{name} " in text
    assert "--inner_lr FLOAT step size of the inner loop (default 0.1)" in words(text)
    assert "which derivatives; one of first, second (default second)" in words(text)
    assert "Algorithm: Learner:\n  Learner.\n" in text


@pytest.mark.parametrize("source", list(load_tables().sources))
@pytest.mark.parametrize("algorithm", ["MAMLENAS", "TNAS", "ProtoNet"])
def test_help_has_no_markup_and_no_types_of_python(algorithm: str, source: str) -> None:
    text = parse(["--help", f"--algorithm={algorithm}", f"--data_class={source}"]).text
    for mark in ("``", ":data:", ":func:", ":class:", ":meth:", "Optional[", "Literal[", "Union["):
        assert mark not in text, mark
    assert help_text.about(load_tables().algorithms[algorithm]).split("\n")[0] in text


def test_help_of_image_folders_shows_both_layouts() -> None:
    text = parse(["--help", "--data_class=ImageFolder"]).text
    assert "data_dir/{train,val,test}/<class>/*" in text and "data_dir/<class>/*" in text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--space=chain"], "--space: not a flag of MAML with Conv4 on Glyphs. It belongs to --model_class=Genotype"),
        (["--lr=0.1"], "Did you mean --inner_lr or --outer_lr?"),
        (["--steps=3"], "Did you mean --inner_steps"),
        (["--image_channels=1"], "It belongs to --data_class=ImageFolder"),
        (["--support_copies=1"], "It belongs to --algorithm="),
        (["--qqqqqqqq=1"], "--qqqqqqqq: not a flag of MAML with Conv4 on Glyphs. --help lists them"),
    ],
)
def test_a_flag_of_another_class_is_answered_with_its_owner(argv: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(argv)
    assert message in str(caught.value) and "\n" not in str(caught.value)
