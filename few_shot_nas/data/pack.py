"""The cache every source is read from: one uint8 array per split, written once and memory-mapped afterwards.

A pack is a folder ``<cache_dir>/<source>-<fingerprint>/`` with ``<split>.npy`` (uint8 ``[n, H, W, C]``, class by class)
and ``pack.json`` (class names, starts, file sizes). It appears under its name complete or not at all.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

from few_shot_nas.errors import InputError

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
INDEX_NAME = "pack.json"
_PATIENCE = 1.0  # seconds for which another process's lock is no news
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Split(NamedTuple):
    """The images of one split.

    Attributes:
        images: uint8 ``[n, H, W, C]``, memory-mapped read-only, class by class.
        starts: int64 ``[classes + 1]``; the images of class c are rows ``starts[c]:starts[c + 1]``.
        class_names: one name per class; no name occurs in two splits of a source.
        groups: int64 ``[classes]``, the group each class belongs to, 0..G-1: a task takes its classes from one group,
            every group equally often. None stands for a single group.
    """

    images: np.ndarray
    starts: np.ndarray
    class_names: tuple[str, ...]
    groups: np.ndarray | None = None


class SplitPlan(NamedTuple):
    """What is to be packed as one split.

    Attributes:
        class_names: one name per class.
        counts: number of images of each class.
        shape: ``(H, W, C)`` of every image.
        images: yields ``sum(counts)`` uint8 arrays of that shape, class by class; read once, lazily.
        groups: the group of each class, as :class:`Split` has it; None for a single one.
        positions: where the yielded images belong if they do not come class by class: the row of each, a permutation
            of ``range(sum(counts))``. It lets a large file be read once from front to end.
    """

    class_names: tuple[str, ...]
    counts: tuple[int, ...]
    shape: tuple[int, int, int]
    images: Iterable[np.ndarray]
    groups: tuple[int, ...] | None = None
    positions: np.ndarray | None = None


def fingerprint(settings: Mapping[str, Any], files: Iterable[Path]) -> str:
    """Return 16 hex digits that change with the settings, the format version and the input files.

    Args:
        settings: everything in a source that decides which images come out; values that JSON can hold.
        files: the input files; their names, sizes and modification times count, their contents are not read.

    Raises:
        InputError: naming a file that cannot be looked at.
    """
    digest = hashlib.sha256(json.dumps([FORMAT_VERSION, settings], sort_keys=True).encode())
    for file in files:
        try:
            stat = os.stat(file)
        except OSError as error:
            raise InputError(f"{file}: cannot be read ({error.strerror}); restore or remove it") from error
        # Names need not be UTF-8.
        digest.update(os.fsencode(file) + f"\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def check_disjoint(label: str, class_names: Mapping[str, Sequence[str]]) -> None:
    """Raise InputError naming a class that is in two splits, or twice in one.

    Args:
        label: the source, for the message.
        class_names: split name -> its classes.
    """
    home: dict[str, str] = {}
    for split, names in class_names.items():
        for name in names:
            if home.setdefault(name, split) != split:
                raise InputError(
                    f"{label}: class {name} is in both {home[name]} and {split}; splits must hold different classes "
                    "(copies of the dataset that are split by image cannot be used for few-shot learning)"
                )
        if len(set(names)) != len(names):
            raise InputError(f"{label}: a class of {split} occurs twice; every class must occur once")


def open_pack(folder: Path) -> dict[str, Split] | None:
    """Memory-map the pack in ``folder``; None where it is missing, half-written or damaged.

    Damage that is seen: a missing, unreadable or altered index, a missing array, an array of another size or shape. The
    pixels themselves are not read.
    """
    try:
        index = json.loads((folder / INDEX_NAME).read_text(encoding="utf-8"))
        if index["version"] != FORMAT_VERSION or index.get("sha256", "") not in ("", _checksum(index)):
            return None
        splits = {str(name): _open_split(folder / f"{name}.npy", entry) for name, entry in index["splits"].items()}
        return splits or None
    except Exception:  # a damaged index can raise nearly anything; what it describes is built again
        return None


def _checksum(index: Mapping[str, Any]) -> str:
    """Return the hash of everything else in an index."""
    others = {key: value for key, value in index.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()


def _open_split(file: Path, entry: Mapping[str, Any]) -> Split:
    """Memory-map one split.

    Raises:
        ValueError: if the file and its entry in the index do not fit.
    """
    images = np.load(file, mmap_mode="r", allow_pickle=False)
    starts, class_names = np.asarray(entry["starts"], dtype=np.int64), tuple(entry["class_names"])
    groups = np.asarray(entry["groups"], dtype=np.int64) if "groups" in entry else None
    fits = (
        file.stat().st_size == entry["bytes"]
        and images.dtype == np.uint8
        and images.ndim == 4
        and starts.shape == (len(class_names) + 1,)
        and starts[0] == 0
        and starts[-1] == len(images)
        and bool((np.diff(starts) > 0).all())
        and all(isinstance(name, str) for name in class_names)
        and len(set(class_names)) == len(class_names)
        and (groups is None or groups.shape == (len(class_names),))
    )
    if not fits:
        raise ValueError(f"{file} does not fit its index")
    return Split(images, starts, class_names, groups)


def build_pack(label: str, folder: Path, plan: Callable[[], Mapping[str, SplitPlan]]) -> dict[str, Split]:
    """Open the pack in ``folder``, writing it first where there is none or a damaged one.

    Two processes may call this at once: a lock file beside the folder lets one write while the other waits and then
    opens the result. The pack is written in a temporary folder and renamed, so that a killed process leaves no
    half-written pack under the final name; what it left is removed by the next one.

    Args:
        label: the source's name, for messages and the progress bar (shown on a terminal only).
        folder: where the pack belongs; its parent is the cache folder.
        plan: makes what is to be written; called only when something is to be written.

    Raises:
        InputError: if the cache folder cannot be written or the disk is full (nothing is left behind), and whatever
            ``plan`` raises about the data.
    """
    ready = open_pack(folder)
    if ready is not None:
        return ready
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(label, folder):
            ready = open_pack(folder)
            if ready is None:
                if folder.exists():
                    logger.warning("%s: the cache in %s is damaged; it is built again", label, folder)
                _write_atomically(label, folder, plan())
                ready = open_pack(folder)
    except (OSError, NotImplementedError) as error:  # the second where a file system knows no locks
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{label}: cannot write the cache {folder}: {reason}; give another folder as cache_dir"
        ) from error
    if ready is None:
        raise InputError(f"{label}: the cache just written to {folder} cannot be read back; check that disk")
    return ready


@contextmanager
def _locked(label: str, folder: Path) -> Iterator[None]:
    """Hold the lock of a pack, and say so if another process has it."""
    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(timeout=_PATIENCE)
    except Timeout:
        logger.warning(
            "%s: another process is packing into %s; waiting for it to finish (it holds %s)",
            *(label, folder, lock.lock_file),
        )
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _write_atomically(label: str, folder: Path, plans: Mapping[str, SplitPlan]) -> None:
    check_disjoint(label, {name: plan.class_names for name, plan in plans.items()})
    for name, plan in plans.items():
        if not plan.class_names or min(plan.counts) < 1:
            raise InputError(f"{label}: split {name} has no classes, or a class without images")
    prefix = f".{folder.name}.tmp-"
    for stale in folder.parent.glob(f"{prefix}*"):
        # The lock is ours, so whoever wrote this was killed.
        shutil.rmtree(stale, ignore_errors=True)
    needed = sum(sum(plan.counts) * int(np.prod(plan.shape)) for plan in plans.values())
    temporary = folder.parent / f"{prefix}{os.getpid()}"
    temporary.mkdir()
    try:
        _write(label, temporary, plans)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    except OSError as error:
        if error.errno in _FULL:
            raise InputError(
                f"{label}: disk full while packing into {folder.parent} ({needed / 1e6:.0f} MB are needed); "
                "free some space or give another folder as cache_dir"
            ) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(label: str, folder: Path, plans: Mapping[str, SplitPlan]) -> None:
    total = sum(sum(plan.counts) for plan in plans.values())
    index: dict[str, Any] = {"version": FORMAT_VERSION, "source": label, "splits": {}}
    with tqdm(total=total, desc=f"packing {label}", unit="image", disable=None) as bar:
        for name, plan in plans.items():
            file = folder / f"{name}.npy"
            _write_images(file, plan, bar.update)
            index["splits"][name] = {
                "bytes": file.stat().st_size,
                "starts": [0, *np.cumsum(plan.counts).tolist()],
                "class_names": list(plan.class_names),
                **({} if plan.groups is None else {"groups": list(plan.groups)}),
            }
    index["sha256"] = _checksum(index)
    (folder / INDEX_NAME).write_text(json.dumps(index), encoding="utf-8")


def _write_images(file: Path, plan: SplitPlan, advance: Callable[[int], object]) -> None:
    # Ordinary writes: on a full disk they raise, where a store through a memory map would kill the process.
    total, count = sum(plan.counts), 0
    if plan.positions is not None and not np.array_equal(np.sort(plan.positions), np.arange(total)):
        raise ValueError(f"positions are not a permutation of the plan's {total} images")
    with open(file, "wb") as stream:
        header = {"descr": "|u1", "fortran_order": False, "shape": (total, *plan.shape)}
        np.lib.format.write_array_header_1_0(stream, header)
        first, size = stream.tell(), int(np.prod(plan.shape))
        for image in plan.images:
            if image.dtype != np.uint8 or image.shape != plan.shape:
                raise ValueError(f"image {count} is {image.dtype} {image.shape}, the plan says uint8 {plan.shape}")
            if plan.positions is not None and count < total:
                stream.seek(first + int(plan.positions[count]) * size)
            stream.write(image.tobytes())
            count += 1
            advance(1)
        if count != total:
            raise ValueError(f"the plan says {total} images, {count} came")
        stream.flush()
        os.fsync(stream.fileno())
