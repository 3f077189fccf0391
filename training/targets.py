"""Which data a finished run is tested on: its own, or another source with that one's flags in the place of the old."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from few_shot_nas.constructor import flat_names
from few_shot_nas.errors import InputError
from training import class_tables, legacy
from training.cli import read_config, to_words
from training.class_tables import Tables
from training.protocols import PROTOCOLS

#: Flags of a source that keep their value when another source takes its place: the network's size, and the user's disk.
KEPT = ("image_size", "cache_dir")


class Target(NamedTuple):
    """One data set to test on.

    Attributes:
        name: of its row, and of its folder below --output.
        words: flags that choose it.
    """

    name: str
    words: tuple[str, ...]


def target_of(text: str) -> Target:
    """Read ``CLASS`` or ``CLASS:FOLDER``, such as ``ImageFolder:photos/birds``.

    >>> target_of("ImageFolder:photos/birds")
    Target(name='ImageFolder-birds', words=('--data_class=ImageFolder', '--data_dir=photos/birds'))
    """
    source, _, folder = text.partition(":")
    if not source:
        raise InputError(f"--target={text}: needed is CLASS or CLASS:FOLDER, such as ImageFolder:photos/birds")
    words = (f"--data_class={source}", *([f"--data_dir={folder}"] if folder else []))
    return Target(source + (f"-{Path(folder).name}" if folder else ""), words)


def words_of_run(config: Path, overrides: Sequence[str], channels: int | None) -> tuple[list[str], list[str]]:
    """Return the words of a run's configuration that hold under ``overrides``, and a note on what was left out.

    Where the overrides name another source, the flags of the old one go, all but ``KEPT``; a source whose images may
    have one or three channels gets those of the network.

    Args:
        config: the run's config.yaml.
        overrides: flags that are to replace the run's.
        channels: of the images that the network takes; None where the run does not say.
    """
    words = [word for word in read_config(str(config)) if not legacy.means_nothing(word)]
    old = next((word.value for word in words if word.name == "data_class"), None)
    given = {word.name: word.value for word in legacy.tokenise(overrides)}
    # A protocol that a test asks for has the last word on its own flags, not the run.
    protocol = PROTOCOLS.get(str(given.get("protocol")))
    if protocol is not None:
        set_there = {*protocol.flags, *protocol.where_taken, "bn_mode"}
        words = [word for word in words if word.name not in set_there]
    new = given.get("data_class") or old
    if new == old or old is None or new is None:
        return [_typed(word) for word in words], []
    tables = class_tables.load_tables()
    gone = source_flags(tables, old) - set(KEPT)
    taken = source_flags(tables, new)
    kept = [_typed(word) for word in words if word.name not in gone]
    if "image_channels" in taken and "image_channels" not in given and channels is not None:
        kept += to_words({"image_channels": channels})
    left = [word.name for word in words if word.name in gone and word.name not in taken]
    return kept, [f"note: {', '.join(left)} of {old} left out: {new} does not take them"] if left else []


def _typed(word: legacy.Word) -> str:
    return f"--{word.name}" if word.value is None else f"--{word.name}={word.value}"


def source_flags(tables: Tables, name: str) -> set[str]:
    """Return the flags of a source; none for an unknown one, of which the parser complains."""
    return set(flat_names(tables.sources[name])) if name in tables.sources else set()


def check_channels(source: Any, channels: int) -> None:
    """Raise InputError where a network cannot take the images of a source."""
    if source.in_channels != channels:
        raise InputError(
            f"{source.name}: its images have {source.in_channels} channel(s), the network takes {channels}; use a "
            f"source that has such, for example ImageFolder with image_channels={channels}"
        )
