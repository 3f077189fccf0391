"""One flat parser in two passes: the class names are peeked at, then their constructors say which flags there are."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import yaml

from few_shot_nas.constructor import FROM_SOURCE, REQUIRED
from few_shot_nas.errors import InputError
from few_shot_nas.ranges import Count, Positive, Seed, check
from few_shot_nas.registry import lookup
from training import class_tables, legacy, protocols
from training.class_tables import Tables
from training.config_file import ACTIONS, as_text, read_config
from training.flag_values import from_text, members
from training.flags import Flag, describe, flags_of, made_flag
from training.help_text import full_help, not_a_flag, readable, short_help
from training.legacy import Word
from training.trainer_flags import TRAINER_FLAGS

TASK = ("n_way", "k_shot", "n_query")
CLASS_FLAGS = ("algorithm", "model_class", "data_class")


def _flag(name: str, kind: Any, default: Any, text: str) -> Flag:
    return made_flag(name, kind, default, text, "Experiment")


EXPERIMENT_FLAGS = (
    _flag("algorithm", str, "MAML", "how to learn; --list shows the choices"),
    _flag("model_class", str | None, None, "which network, or your own my_package.MyNet; default: the algorithm's"),
    _flag("data_class", str, "Glyphs", "which images"),
    _flag("run_dir", str | None, None, "folder for everything a run writes; default runs/<names>-<time>"),
    _flag("seed", Seed, 0, "names every random stream of the run"),
    _flag("wandb", bool, False, "log to Weights & Biases as well; WANDB_MODE=offline needs no account"),
    _flag("wandb_project", str | None, None, "project of Weights & Biases; default: WANDB_PROJECT, or few_shot_nas"),
    _flag("wandb_group", str | None, None, "group that the run is shown in, such as the runs of one table"),
    _flag("wandb_tags", str | None, None, "tags of the run, separated by commas"),
    _flag("wandb_artifacts", bool, False, "send the run's files (weights, report, genotype) as an artifact as well"),
    _flag(
        "ckpt_path",
        str | None,
        None,
        "checkpoint to continue from; with --run_dir also last, its newest, or auto: last if it exists, else a start",
    ),
    _flag("init_from", str | None, None, "checkpoint or model.safetensors whose weights to start from, at meta-step 0"),
    _flag(
        "train_after_search",
        str | None,
        None,
        "recipe (a YAML file of flags) by which the architecture that a search found is trained afterwards, on the "
        "same data_dir, in the folder trained of the run",
    ),
    _flag(
        "test_checkpoint",
        Literal["auto", "best", "last"],
        "auto",
        "weights to test: those of the best validation accuracy or the last ones; auto is best, and last for a search, "
        "whose architecture is derived on its last weights",
    ),
    _flag(
        "protocol",
        Literal["canonical", "tnas", "metanas", "metantk", "rfs"] | None,
        None,
        "how tasks are scored, by the name of who published it: sets the flags of the test (queries, tasks, support "
        "copies, steps, bn_mode) and stands in every table; docs/training_free.md lists them",
    ),
    _flag("save_every", Count, 500, "meta-steps between two checkpoints"),
    _flag("save_minutes", Positive, 10.0, "write a checkpoint at the latest after so many minutes"),
    _flag("rank_timeout", Positive, 1800.0, "seconds that a process waits for another, before it names it and ends"),
)


class CommandLine(NamedTuple):
    """What a command line asks for.

    Attributes:
        action: run, or one of help, list and print_config with its ``text``.
        values: every flag by name, typed, for a run and for print_config.
        notes: lines for the user about old spellings.
        text: answer to an action.
        tables: the imported classes; None where they were not needed.
    """

    action: str
    values: dict[str, Any]
    notes: list[str]
    text: str = ""
    tables: Tables | None = None


# ---- words ----------------------------------------------------------------------------------------------------------


def gather(argv: Sequence[str]) -> tuple[list[Word], list[str]]:
    """Return all words and notes on old spellings; files come first, so that the command line wins."""
    typed = legacy.tokenise(argv)
    words: list[Word] = []
    for word in typed:
        if word.name == "config":
            if not word.value:
                raise InputError("--config needs a value: the path of a YAML file")
            words.extend(read_config(word.value))
    words.extend(word for word in typed if word.name != "config")
    for word in words:
        check_text(word)
    return legacy.translate(words)


def check_text(word: Word) -> None:
    """Refuse what no file can hold: bytes that are not UTF-8, and the character zero.

    Raises:
        InputError: naming the flag.
    """
    text = f"{word.name}{word.value or ''}"
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise InputError(f"--{word.name}: {word.value!r} is not UTF-8 text; rename the file or write it in UTF-8")


# ---- first pass: which classes --------------------------------------------------------------------------------------


def _peek(words: Iterable[Word], tables: Tables | None) -> tuple[dict[str, str | None], str]:
    """Return the class names that were given and the action, from the words alone."""
    chosen: dict[str, str | None] = dict.fromkeys(CLASS_FLAGS)
    asked = {word.name for word in words if word.name in ACTIONS and str(word.value).lower() != "false"}
    action = next((name for name in ACTIONS if name in asked), "run")
    for word in words:
        if word.name in CLASS_FLAGS and word.value not in (None, "null", "None"):
            chosen[word.name] = word.value
    known: dict[str, Mapping[str, Any]]
    if tables is None:
        known = {kind: class_tables.listing(kind) for kind in CLASS_FLAGS}
    else:
        known = {"algorithm": tables.algorithms, "model_class": tables.models, "data_class": tables.sources}
    for kind, name in chosen.items():
        if name is not None and not (kind == "model_class" and "." in name):
            lookup(known[kind], name, f"--{kind}")
    return chosen, action


def list_text() -> str:
    """Return the names of all pluggable classes with one line each, without importing them."""
    lines = []
    for kind in class_tables.TABLES:
        lines.append(f"--{kind}")
        lines.extend(f"  {name:18} {readable(text)}" for name, text in class_tables.listing(kind).items())
    return "\n".join(lines) + "\n"


# ---- second pass: which flags ---------------------------------------------------------------------------------------


def collect(experiment: Iterable[Flag], classes: Iterable[Iterable[Flag]]) -> dict[str, Flag]:
    """Merge flags by name; one that several classes take is shared, and the first class decides its default.

    Raises:
        TypeError: if classes disagree on the type of a shared flag, or take one of the Trainer's names.
    """
    merged = {flag.name: flag for flag in experiment}
    fixed = {flag.name for flag in TRAINER_FLAGS}
    fixed |= {*legacy.FIXED, *legacy.REMOVED, *legacy.RENAMED, *legacy.RULES}
    for flag in (flag for flags in classes for flag in flags):
        if flag.name in fixed or flag.name in ACTIONS:
            raise TypeError(f"constructor parameter {flag.name} of {flag.group} has the name of a Trainer or old flag")
        known = merged.get(flag.name)
        if known is None:
            merged[flag.name] = flag._replace(group="Task") if flag.name in TASK else flag
        elif known.type != flag.type:
            raise TypeError(f"{flag.name} is {known.type} in {known.group} and {flag.type} in {flag.group}")
        else:
            both = tuple(dict.fromkeys(known.ranges + flag.ranges))
            merged[flag.name] = known._replace(ranges=both)
            if known.default is REQUIRED:
                merged[flag.name] = known._replace(default=flag.default, help=known.help or flag.help, ranges=both)
    merged.update({flag.name: flag for flag in TRAINER_FLAGS})
    order = {name: place for place, name in enumerate(("Experiment", "Task", "Data", "Model", "Algorithm", "Trainer"))}
    return dict(sorted(merged.items(), key=lambda item: order[item[1].group.split(":")[0]]))


def build_flags(tables: Tables, algorithm: str, model: str, source: str) -> dict[str, Flag]:
    """Return every flag of one choice of classes, in the order of ``--help``."""
    datamodule = tables.datamodules[tables.algorithms[algorithm].data_kind]
    defaults = tables.algorithms[algorithm].data_defaults
    experiment = [flag._replace(default=model) if flag.name == "model_class" else flag for flag in EXPERIMENT_FLAGS]
    return collect(
        experiment,
        [
            flags_of(tables.algorithms[algorithm], f"Algorithm: {algorithm}", skip=("net",)),
            [
                flag._replace(default=defaults.get(flag.name, flag.default))
                for flag in flags_of(datamodule, f"Data: {source}", skip=("source",))
            ],
            flags_of(tables.sources[source], f"Data: {source}"),
            flags_of(tables.models[model], f"Model: {model}", skip=FROM_SOURCE),
        ],
    )


def _complain_unknown(words: Iterable[Word], flags: Mapping[str, Flag], tables: Tables, where: str) -> None:
    for word in words:
        if word.name not in flags and word.name not in ACTIONS:
            raise InputError(not_a_flag(word, flags, tables, where))


def _typed(flag: Flag, word: Word) -> Any:
    """Check one word against the type of its flag."""
    text = word.value
    kinds = members(flag.type)
    if text is None and bool in kinds:
        text = "true"
    if text is None:
        raise InputError(f"{word} needs a value: {describe(flag.type)}")
    try:
        value = from_text(flag.type, text)
    except ValueError as error:
        raise InputError(f"{word}: expected {describe(flag.type)}") from error
    check(f"{word}:", value, flag.ranges)
    return value


def plain(value: Any) -> Any:
    """Return a flag's value as YAML and JSON have it: a tuple is a list there."""
    return list(value) if isinstance(value, tuple) else value


def dump(values: Mapping[str, Any]) -> str:
    """Write flag values as flat YAML that reads back as the same values."""
    return yaml.safe_dump({name: plain(value) for name, value in values.items()}, sort_keys=False, allow_unicode=True)


def parse(argv: Sequence[str], tables: Tables | None = None) -> CommandLine:
    """Turn a command line into typed flags.

    Args:
        argv: words after the program's name.
        tables: classes to choose from; by default the package's, imported only when an answer needs them.

    Raises:
        InputError: for everything that is wrong with it, with a suggestion where a name is close to a known one.
    """
    words, notes = gather(argv)
    chosen, action = _peek(words, tables)
    if action == "list":
        return CommandLine(action, {}, notes, list_text())
    if action == "help" and not any(chosen.values()):
        return CommandLine(action, {}, notes, short_help(EXPERIMENT_FLAGS, TRAINER_FLAGS, list_text()))
    tables = tables or class_tables.load_tables()
    algorithm, source = chosen["algorithm"] or "MAML", chosen["data_class"] or "Glyphs"
    model = chosen["model_class"] or str(tables.algorithms[algorithm].default_model)
    if "." in model:
        tables = tables._replace(models={**tables.models, model: class_tables.user_class(model)})
    flags = build_flags(tables, algorithm, model, source)
    if action == "help":
        return CommandLine(action, {}, notes, full_help(flags.values(), tables, algorithm, model, source))
    _complain_unknown(words, flags, tables, f"{algorithm} with {model} on {source}")
    values = {name: flag.default for name, flag in flags.items()}
    for word in words:
        if word.name not in ACTIONS and not (word.name in CLASS_FLAGS and word.value in ("null", "None")):
            values[word.name] = _typed(flags[word.name], word)
    protocols.hold(values["protocol"], values, {word.name for word in words}, flags)
    missing = [name for name, value in values.items() if value is REQUIRED]
    if missing:
        flag = flags[missing[0]]
        raise InputError(f"--{flag.name} is needed by {flag.group.split(': ')[-1]}: {flag.help}")
    text = dump(values) if action == "print_config" else ""
    return CommandLine(action, values, notes, text, tables)


def to_words(values: Mapping[str, Any]) -> list[str]:
    """Return a command line that parses to ``values``."""
    return [f"--{name}={as_text(plain(value))}" for name, value in values.items()]
