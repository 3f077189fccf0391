"""Read results.json as its contract says, field by field: a damaged file is named before anything is made of it."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from few_shot_nas import whole_file
from few_shot_nas.errors import InputError

Taken = TypeVar("Taken")

_LARGEST = 2**63 - 1
#: Characters of a file; a run writes 5,000.
_LARGEST_FILE = 2**24


def damaged(path: Path, what: str) -> InputError:
    """Return the error about a file of a run that is not as it should be."""
    return InputError(f"report: {path} is damaged: {what}; repeat the run or restore the file")


def read_text(path: Path) -> str:
    """Return a text file of a run.

    Raises:
        InputError: if it is missing, cannot be read or is no text.
    """
    try:
        return whole_file.read_text(path, _LARGEST_FILE)
    except FileNotFoundError:
        raise InputError(
            f"report: {path} is missing; a run writes it when it ends, so let the run finish "
            f"(--run_dir={path.parent} --ckpt_path=last continues it)"
        ) from None
    except OSError as error:
        raise InputError(f"report: {path} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise damaged(path, whole_file.reason(error)) from None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) < 10_000


def _is_whole(least: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and least <= value <= _LARGEST


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 <= value <= _LARGEST


def _is_fraction(value: Any) -> bool:
    return _is_number(value) and value <= 1


#: Field -> (check, what it must be); those that must be there, and those that may be missing or null.
_NEEDED: dict[str, tuple[Callable[[Any], bool], str]] = {
    **{name: (_is_text, "text") for name in ("algorithm", "model_class", "data_class")},
    **{name: (_is_whole(1), "a whole number from 1") for name in ("n_way", "k_shot")},
    "seed": (_is_whole(0), "a whole number from 0"),
}
_OPTIONAL: dict[str, tuple[Callable[[Any], bool], str]] = {
    **{name: (_is_text, "text") for name in ("protocol", "regime", "split", "checkpoint", "hardware", "command")},
    **{name: (_is_whole(0), "a whole number from 0") for name in ("n_query", "meta_steps", "parameters", "macs")},
    "wall_seconds": (_is_number, "a number from 0"),
}
_OBJECTS = ("test", "versions", "search", "table")


def read_object(path: Path) -> dict[str, Any]:
    """Return the content of a file that holds one JSON object.

    Raises:
        InputError: naming the file and the line that is damaged.
    """
    text = read_text(path)
    try:
        results = json.loads(text)
    except json.JSONDecodeError as error:
        raise damaged(path, f"line {error.lineno} is not JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"it is not JSON ({error})") from None
    if not isinstance(results, dict):
        raise damaged(path, "it must hold one JSON object")
    return results


def read_if_there(path: Path, writer: str, take: Callable[[dict[str, Any]], Taken]) -> Taken | None:
    """Return what ``take`` makes of a file that a run need not have; None without the file.

    Args:
        path: a file that holds one JSON object.
        writer: what writes it, for the message.
        take: returns what is wanted of the object; an error of it means that the object is not what it should be.

    Raises:
        InputError: if the file is damaged.
    """
    if not path.is_file():
        return None
    content = read_object(path)
    try:
        return take(content)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise damaged(path, f"it is not what {writer} writes ({error})") from None


def read_results(path: Path) -> dict[str, Any]:
    """Return the content of results.json, with empty objects for test, versions, search and table if they are missing.

    Raises:
        InputError: naming the file and the field that is missing or damaged.
    """
    results = read_object(path)
    for key, (fits, words) in {**_NEEDED, **_OPTIONAL}.items():
        if key in _NEEDED and key not in results:
            raise damaged(path, f"the field {key} is missing")
        if not (fits(results.get(key)) or (key in _OPTIONAL and results.get(key) is None)):
            raise damaged(path, f"the field {key} must be {words}")
    for key in _OBJECTS:
        if not isinstance(results.setdefault(key, {}), dict):
            raise damaged(path, f"the field {key} must be an object")
    for mode, score in results["test"].items():
        check_score(path, mode, score)
    for key, value in results["search"].items():
        if key.startswith("reward_calls") and not _is_whole(0)(value):
            raise damaged(path, f"the field search.{key:.40} must be a whole number from 0")
    return results


def check_score(path: Path, mode: str, score: Any) -> None:
    """Refuse what is no score of a bn_mode; the interval of a single episode is null or not a number.

    Raises:
        InputError: naming the file and the bn_mode.
    """
    found: Mapping[str, Any] = score if isinstance(score, dict) else {}
    interval, episodes = found.get("ci95"), found.get("episodes")
    if not (
        _is_number(found.get("accuracy"))
        and (interval is None or interval != interval or _is_number(interval))
        and (episodes is None or _is_whole(0)(episodes))
    ):
        raise damaged(path, f"test.{mode:.40} must hold the numbers accuracy, ci95 and episodes")
    if not _is_fraction(found["accuracy"]):
        raise damaged(path, f"test.{mode:.40} has accuracy {found['accuracy']}, a fraction from 0 to 1 is needed")
