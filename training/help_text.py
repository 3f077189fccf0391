"""The words of ``--help``, and of the answer to a flag that does not exist."""

import argparse
import difflib
import inspect
import re
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from few_shot_nas.constructor import FROM_SOURCE, REQUIRED
from few_shot_nas.ranges import Number, Range, Size, Ways
from training import legacy
from training.class_tables import Tables
from training.config_file import ACTIONS
from training.flag_values import members
from training.flags import Flag, flags_of, made_flag
from training.legacy import Word

_NO_STEPS = "outer updates in the whole run; 0 tests what init_from gives, without training"
#: Flags that nearly every run sets. Written down so that ``--help`` need not import their classes; a test compares.
COMMON_FLAGS = tuple(
    made_flag(name, kind, default, text, "Most used, of every algorithm and data set")
    for name, kind, default, text in (
        ("n_way", Ways, 5, "classes per task N"),
        ("k_shot", Size, 1, "support images per class K"),
        ("n_query", Size, 15, "query images per class"),
        ("data_dir", str, "data", "folder with the data"),
        ("max_meta_steps", Number, 1000, _NO_STEPS),
    )
)

EXAMPLES = """
Examples:
  your own images, one folder per class; then sort new ones with training/predict.py
    --algorithm=ProtoNet --data_class=ImageFolder --data_dir=photos --n_way=5 --k_shot=3 --run_dir=runs/mine
  MAML on images that need no download
    --algorithm=MAML --model_class=Conv4 --max_meta_steps=100
  a search of an architecture, and a recipe of a paper with its settings
    --algorithm=MAMLENAS --space=darts_fewshot --run_dir=runs/search
    --config=training/recipes/maml_omniglot_5w1s_quick.yaml --data_dir=DATA
"""

ACTIONS_TEXT = """
Answers instead of a run:
  --help --list --print_config

Configuration files:
  --config=FILE.yaml    flat keys as the flags; repeatable, later files and the command line win
"""

CHOOSE = """
The flags of an algorithm, a network and a data set are shown when one is named, for example
  --help --algorithm=MAML --model_class=Conv4 --data_class=Omniglot

"""

_ROLE = re.compile(r":(?P<role>[a-z:]+):`~?(?P<target>[^`]+)`")
_SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Yields|Examples?):\s*$|^\s*>>>", re.MULTILINE)


def readable(text: str) -> str:
    """Return words of a docstring without its markup.

    >>> readable("One of :data:`few_shot_nas.search.rewards.REWARDS`, ``None`` is :math:`a_1`.")
    'One of REWARDS, None is a_1.'
    """

    def plain(match: re.Match[str]) -> str:
        target = match["target"]
        return target if match["role"] == "math" else target.split(".")[-1]

    return _ROLE.sub(plain, text).replace("``", "")


def about(cls: type) -> str:
    """Return what a class says of itself, up to its arguments."""
    text = inspect.cleandoc(cls.__dict__.get("__doc__") or "")
    return readable(_SECTION.split(text, maxsplit=1)[0]).strip()


def value_words(annotation: Any) -> tuple[str, str]:
    """Return the placeholder of a value and, where it is one of few, which.

    >>> value_words(Literal["a", "b"] | None), value_words(int | str)
    (('NAME|null', 'a, b'), ('INT|TEXT', ''))
    """
    names: list[str] = []
    choices: list[str] = []
    for one in members(annotation):
        if typing.get_origin(one) is Literal:
            names.append("NAME")
            choices.extend(str(choice) for choice in typing.get_args(one))
        elif typing.get_origin(one) is tuple:
            names.append(f"{value_words(typing.get_args(one)[0])[0]},...")
        else:
            words = {int: "INT", float: "FLOAT", str: "TEXT", bool: "true|false", type(None): "null"}
            names.append(words.get(one, "VALUE"))  # a network of the user's own may take anything
    return "|".join(names), ", ".join(choices)


def range_words(ranges: Iterable[Range]) -> str:
    """Return the one range that all of several leave.

    >>> range_words([Range(1, 100), Range(2, 100)]), range_words([Range(0), Range(0, above=True)]), range_words([])
    ('at least 2 and at most 100', 'greater than 0', '')
    """
    low, above = max(((one.low, one.above) for one in ranges), default=(Range().low, False))
    high, below = min(((one.high, not one.below) for one in ranges), default=(Range().high, True))
    return Range(low, high, above, not below).words()


def _sentence(flag: Flag, choices: str) -> str:
    parts = [
        readable(flag.help) or flag.name.replace("_", " "),
        f"one of {choices}" if choices else "",
        range_words(flag.ranges),
    ]
    default = "required" if flag.default is REQUIRED else f"default {_value(flag.default)}"
    return f"{'; '.join(part for part in parts if part)} ({default})"


def _value(default: Any) -> str:
    if isinstance(default, tuple):
        return ",".join(map(str, default)) or "none"
    return "null" if default is None else str(default).lower() if isinstance(default, bool) else str(default)


def flags_text(flags: Iterable[Flag], heads: Mapping[str, str]) -> str:
    """Return flags in their groups.

    Args:
        flags: in order.
        heads: what stands at the top of a group, by its name.
    """
    parser = argparse.ArgumentParser(
        usage="run_experiment.py [--flag=value ...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    groups: dict[str, Any] = {}
    for flag in flags:
        if flag.group not in groups:
            head = heads.get(flag.group, "").replace("%", "%%")
            groups[flag.group] = parser.add_argument_group(flag.group, head or None)
        placeholder, choices = value_words(flag.type)
        text = _sentence(flag, choices).replace("%", "%%")
        groups[flag.group].add_argument(f"--{flag.name}", metavar=placeholder, help=text)
    return parser.format_help()


def short_help(experiment: Iterable[Flag], trainer: Iterable[Flag], classes: str) -> str:
    """Return the help of a command line that names no class; ``classes`` lists them."""
    return flags_text((*COMMON_FLAGS, *experiment, *trainer), {}) + EXAMPLES + ACTIONS_TEXT + CHOOSE + classes


def full_help(flags: Iterable[Flag], tables: Tables, algorithm: str, model: str, source: str) -> str:
    """Return the help of one choice of classes, each group of flags under its class's own words."""
    heads = {
        f"Algorithm: {algorithm}": about(tables.algorithms[algorithm]),
        f"Data: {source}": about(tables.sources[source]),
        f"Model: {model}": about(tables.models[model]),
    }
    return flags_text(flags, heads) + ACTIONS_TEXT


def _owners(name: str, tables: Tables) -> str:
    """Return which choices of classes take a flag, as one sentence; nothing where none does."""
    data = {kind: {flag.name for flag in flags_of(cls, "", ("source",))} for kind, cls in tables.datamodules.items()}
    taken = {
        "algorithm": {
            key: {flag.name for flag in flags_of(cls, "", ("net",))} | data[cls.data_kind]
            for key, cls in tables.algorithms.items()
        },
        "model_class": {
            key: {flag.name for flag in flags_of(cls, "", FROM_SOURCE)} for key, cls in tables.models.items()
        },
        "data_class": {key: {flag.name for flag in flags_of(cls, "")} for key, cls in tables.sources.items()},
    }
    owners = []
    for kind, classes in taken.items():
        keys = [key for key, names in classes.items() if name in names]
        if keys:
            owners.append(f"--{kind}={', '.join(keys[:5])}" + (f" and {len(keys) - 5} more" if len(keys) > 5 else ""))
    return f" It belongs to {' and to '.join(owners)}." if owners else ""


def _suggestion(name: str, spelled: Mapping[str, str]) -> str:
    """Return the closest names, or else those that end with the word: ``lr`` may be ``inner_lr`` or ``outer_lr``."""
    close = difflib.get_close_matches(name, spelled, n=1, cutoff=0.6)
    close = close or [known for known in spelled if known.endswith(f"_{name}")][:3]
    names = dict.fromkeys(f"--{spelled[known]}" for known in close)
    return f" Did you mean {' or '.join(names)}?" if names else ""


def not_a_flag(word: Word, flags: Mapping[str, Flag], tables: Tables, where: str) -> str:
    """Return the complaint about a flag that the chosen classes do not take."""
    origin = f" (in {word.origin})" if word.origin else ""
    spelled = {**{name: name for name in (*flags, *ACTIONS, "config")}, **legacy.RENAMED}
    hint = _owners(word.name, tables) or _suggestion(word.name, spelled)
    return f"--{word.name}{origin}: not a flag of {where}.{hint} --help lists them"
