"""Before a run is continued: does the checkpoint fit, and does every flag that has changed mean what it says?"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from packaging.version import Version
from torch import nn

from few_shot_nas.constructor import FROM_SOURCE
from few_shot_nas.errors import InputError
from few_shot_nas.runtime.checkpoint import KEY, check_identity, load_checkpoint
from few_shot_nas.runtime.legs import fresh_optimizers, legs_of
from training.assemble import Parts, Values, build_module
from training.class_tables import Tables
from training.cli import plain
from training.flags import flags_of
from training.run_directory import RunDirectory

#: What wrong entries of a checkpoint make the code that restores them raise.
_UNFIT = (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError)
#: Flags that say where a leg runs, reads and writes; they decide nothing about the weights.
PLACES = ("run_dir", "ckpt_path", "init_from")


def first_meta_step(directory: RunDirectory, tables: Tables, values: Values, parts: Parts) -> int:
    """Return the meta-step that a run starts at: 0, or that of the checkpoint it continues.

    Raises:
        InputError: if the checkpoint is damaged, is of another kind of run or further than ``max_meta_steps``, or if a
            flag has changed that cannot take effect any more.
    """
    if directory.resume is None:
        return 0
    content = load_checkpoint(directory.resume)
    check_identity(directory.resume, parts.module.run_identity)
    step = int(content[KEY]["meta_step"])
    if values["max_meta_steps"] < step:
        raise InputError(
            f"--max_meta_steps={values['max_meta_steps']}: checkpoint {directory.resume} is of meta-step {step}; "
            "give at least that, or an earlier checkpoint"
        )
    with _one_line(directory.resume):
        legs = legs_of(content)
        if legs:
            check_changes(tables, values, parts, legs[-1]["flags"], step)
        check_restores(content, build_module(tables, values, parts.source)[1], parts.datamodule)
    return step


def fits(path: Path, content: Mapping[str, Any], module: Any) -> None:
    """Check that the weights of a checkpoint can be tested.

    Args:
        path: the checkpoint, for the message.
        content: what is in it.
        module: made for it, and not used again.

    Raises:
        InputError: in one line, if they do not fit.
    """
    with _one_line(path):
        check_loads(content, module)


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except _UNFIT as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"checkpoint {path} does not fit this run ({type(error).__name__}: {reason}); give another one of the run, "
            "or the flags it was made with"
        ) from error


def check_loads(content: Mapping[str, Any], module: Any) -> None:
    """Load the weights of a checkpoint, and what an algorithm keeps beside them, as the Trainer will.

    Raises:
        KeyError, TypeError, ValueError, RuntimeError: for the first entry that does not fit.
    """
    Version(content["pytorch-lightning_version"])
    module.on_load_checkpoint(dict(content))
    module.load_state_dict(content["state_dict"])


def check_restores(content: Mapping[str, Any], module: Any, datamodule: Any) -> None:
    """Restore a checkpoint into a module made for it, as the Trainer will, so that what does not fit is seen before.

    Raises:
        KeyError, TypeError, ValueError, RuntimeError: for the first entry that does not fit.
    """
    check_loads(content, module)
    made = fresh_optimizers(module)
    for optimizer, state in zip(made, content["optimizer_states"] if made else [], strict=True):
        optimizer.load_state_dict(state)
        for parameter, moments in optimizer.state.items():
            for name, value in moments.items():
                if isinstance(value, torch.Tensor) and value.ndim and value.shape != parameter.shape:
                    raise ValueError(f"the optimizer's {name} is {list(value.shape)}, not {list(parameter.shape)}")
    best = content["callbacks"]["MetaCheckpoint"]["best_accuracy"]
    if not isinstance(best, float):
        raise TypeError(f"its best accuracy is {best!r}")
    done = content[type(datamodule).__qualname__]["done"]
    if done != content[KEY]["meta_step"]:
        raise ValueError(f"its weights are of meta-step {content[KEY]['meta_step']}, and its tasks of {done!r}")


# ---- flags that have changed ----------------------------------------------------------------------------------------


def changes(before: Mapping[str, Any], values: Values) -> dict[str, Any]:
    """Return the earlier value of every flag that a leg has otherwise than the leg before."""
    return {
        name: before[name]
        for name, value in values.items()
        if name in before and name not in PLACES and before[name] != plain(value)
    }


def check_changes(tables: Tables, values: Values, parts: Parts, before: Mapping[str, Any], step: int) -> None:
    """Refuse a changed flag that would be recorded without having an effect, or make an earlier record false.

    The first kind only decides where learned values start, as ``zero_head`` does, or the rates of Meta-SGD: the
    checkpoint overwrites them. It is recognised by what it does: a module made with the earlier value starts with other
    weights. The second kind counts what was spent: reward calls are computed from the flags.

    Raises:
        InputError: naming the flag and both values.
    """
    if values["init_from"] not in (None, before.get("init_from", values["init_from"])):
        raise InputError(
            f"--init_from={values['init_from']}: says where a run starts, and this one goes on from a checkpoint; leave"
            " it out, or start a new run"
        )
    model, algorithm = tables.models[values["model_class"]], tables.algorithms[values["algorithm"]]
    own = {flag.name for flag in flags_of(algorithm, "", skip=("net",)) + flags_of(model, "", skip=FROM_SOURCE)}
    found = {name: value for name, value in changes(before, values).items() if name in own}
    if not found:
        return
    here = build_module(tables, values, parts.source)[1]
    for name, value in found.items():
        try:
            there = build_module(tables, {**values, name: _typed(values[name], value)}, parts.source)[1]
        except InputError:
            continue  # such as the place of a genotype, which has moved; that it is the same one, the identity says
        shown = f"--{name}={plain(values[name])}: the run has had {value} so far"
        if not _same_start(here, there):
            raise InputError(
                f"{shown}, and it only says where learned values start; give --{name}={value}, or start a new run"
            )
        if _spent(here, values, step) != _spent(there, values, step):
            raise InputError(
                f"{shown}, and it decides the number of reward calls, which is recorded for the whole run; give "
                f"--{name}={value}, or start a new run"
            )


def _typed(like: Any, value: Any) -> Any:
    return tuple(value) if isinstance(like, tuple) and isinstance(value, list) else value


def _same_start(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(
        first[name].shape == second[name].shape and torch.equal(first[name], second[name]) for name in first
    )


def _spent(module: Any, values: Values, step: int) -> int:
    if not type(module).searches or not hasattr(module, "rewards_spent"):
        return 0
    before, module.meta_step = module.meta_step, step
    spent = int(module.rewards_spent(values["meta_batch_size"]))
    module.meta_step = before
    return spent


# ---- what is recorded -----------------------------------------------------------------------------------------------


def legs_callback(trainer: pl.Trainer) -> Any:
    """Return the Trainer's record of legs."""
    from few_shot_nas.runtime.legs import Legs

    return next(callback for callback in trainer.callbacks if isinstance(callback, Legs))  # type: ignore[attr-defined]


def recorded(legs: list[dict[str, Any]], values: Values) -> list[dict[str, Any]]:
    """Return the legs as results.json has them: the flags of each are those that differ from config.yaml."""
    return [{**leg, "flags": {k: v for k, v in changes(leg["flags"], values).items()}} for leg in legs]


def config_note(legs: list[dict[str, Any]], values: Values, step: int) -> str:
    """Return comment lines for config.yaml that say for which part of the run it does not hold; empty for none."""
    lines = []
    for leg in legs:
        was = changes(leg["flags"], values)
        if was:
            first, last = leg["meta_steps"]
            listed = ", ".join(f"{name}={value}" for name, value in was.items())
            lines.append(f"# Meta-steps {first} to {last} were trained with {listed}.\n")
    return "".join([f"# These flags hold from meta-step {step} on.\n", *lines]) if lines else ""
