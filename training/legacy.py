"""Words of the command line before they are typed: tokens, and the spellings that older experiments used.

The published experiments were driven by Lightning 1.2's flags. Each of them still works, with one line that names its
replacement, or stops with one line that says why there is none. The same table holds for the keys of a YAML file.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from few_shot_nas.errors import InputError


_LONGEST_SHOWN = 200


class Word(NamedTuple):
    """One flag as it was given.

    Attributes:
        name: without dashes in front, ``-`` inside turned to ``_``.
        value: text after ``=`` or in the next word; None for a bare flag.
        origin: file it was read from; empty for the command line.
    """

    name: str
    value: str | None
    origin: str = ""

    def __str__(self) -> str:
        value = self.value or ""
        value = value if value.isprintable() else repr(value)
        value = value if len(value) <= _LONGEST_SHOWN else f"{value[:_LONGEST_SHOWN]}..."
        shown = f"--{self.name}" if self.value is None else f"--{self.name}={value}"
        return f"{shown} (in {self.origin})" if self.origin else shown


def tokenise(argv: Sequence[str]) -> list[Word]:
    """Split ``--k=v``, ``--k v`` and bare ``--k`` into words, keeping their order.

    Raises:
        InputError: for a word that is neither a flag nor the value of one.
    """
    words: list[Word] = []
    rest = list(argv)
    while rest:
        token = rest.pop(0)
        if token == "-h":
            token = "--help"
        if not token.startswith("--") or len(token) == 2:
            raise InputError(f"unexpected argument {token!r}: flags are written --name=value")
        name, equals, text = token[2:].partition("=")
        value: str | None = text if equals else None
        # A value never starts with two dashes, so that "-1" is a number and "--seed" the next flag.
        if not equals and rest and not rest[0].startswith("--"):
            value = rest.pop(0)
        words.append(Word(name.replace("-", "_"), value))
    return words


RENAMED = {
    "batch_size": "meta_batch_size",
    "inner_loop_steps": "inner_steps",
    "support_samples": "k_shot",
    "query_samples": "n_query",
    "episode_classes": "n_way",
    "resume_from_checkpoint": "ckpt_path",
    "load_checkpoint": "init_from",
    "checkpoint_callback": "enable_checkpointing",
    "weights_save_path": "run_dir",
    "log_every_n_steps": "log_every",
    # The launcher of MetaNTK-NAS.
    "dartsbs": "meta_batch_size",
    "reg_coef": "reg",
    "ntk_channels": "channels",
    "ntk_layers": "cells",
    "max_nodes": "nodes",
    "repeat": "repeats",
}
#: Flags that only the launcher of MetaNTK-NAS has: beside one of these --algorithm=MAML names a kernel.
NTK_LAUNCHER = ("dartsbs", "reg_coef", "ntk_channels", "ntk_layers", "ntk_type")

# Why a flag of Lightning 1.2 has no successor here.
REMOVED = {
    "auto_lr_find": "a learning-rate sweep needs one optimizer and one loss; give --outer_lr and --inner_lr",
    "auto_scale_batch_size": "the memory of an episode is fixed by its shape; set --meta_batch_size",
    "auto_select_gpus": "name the GPUs, for example --accelerator=gpu --devices=0,1",
    "truncated_bptt_steps": "episodes are not sequences",
    "amp_backend": "only torch's own mixed precision is left; use --precision=bf16-mixed",
    "amp_level": "only torch's own mixed precision is left; use --precision=bf16-mixed",
    "tpu_cores": "inner loops on TPUs are not supported; use --accelerator=gpu or --accelerator=cpu",
    "process_position": "a run has one progress bar",
    "flush_logs_every_n_steps": "metrics.csv is flushed at every row",
    "move_metrics_to_cpu": "metrics are kept as one number per episode",
    "enable_pl_optimizer": "Lightning always wraps the optimizers now",
    "automatic_optimization": "every algorithm steps its own optimizers",
    "terminate_on_nan": "use --detect_anomaly, which also names the operation",
    "log_gpu_memory": "use nvidia-smi, or the system page of a --wandb run",
    "stochastic_weight_avg": "weight averaging counts optimizer steps, of which a search makes several per meta-step",
    "prepare_data_per_node": "the cache is packed once per machine under a file lock",
    "multiple_trainloader_mode": "there is one stream of episodes",
    "replace_sampler_ddp": "every rank draws its own slice of the same episodes",
    "reload_dataloaders_every_epoch": "the framework does this by itself",
}

# Flags that Lightning still has, and that would break meta-learning or do nothing in it.
FIXED = {
    "max_steps": "Lightning counts optimizer steps; use --max_meta_steps",
    "max_epochs": "a run is counted in meta-steps; use --max_meta_steps",
    "min_steps": "a run is counted in meta-steps; use --max_meta_steps",
    "min_epochs": "a run is counted in meta-steps; use --max_meta_steps",
    "check_val_every_n_epoch": "a run is counted in meta-steps; use --val_every",
    "gradient_clip_val": "algorithms step their own optimizers; use --meta_grad_clip",
    "gradient_clip_algorithm": "algorithms step their own optimizers; use --meta_grad_clip",
    "limit_train_batches": "an epoch never repeats and never skips a task; use --max_meta_steps and --val_every",
    "limit_val_batches": "use --val_episodes; a --val_every above --max_meta_steps validates at the end alone",
    "limit_test_batches": "use --test_episodes; 0 is no test",
    "limit_predict_batches": "a run predicts nothing",
    "overfit_batches": "an epoch never repeats a task; use --patience and --gap_episodes to see overfitting",
    "accumulate_grad_batches": "algorithms step their own optimizers; use --meta_batch_size",
    "inference_mode": "adapting at test time needs gradients, so it is always off",
    "use_distributed_sampler": "every rank draws its own slice of the same episodes, so it is always off",
    "reload_dataloaders_every_n_epochs": "an epoch ends at the next multiple of --val_every, so it is always 1",
    "sync_batchnorm": "batch statistics belong to one task, which never spans two ranks",
    "barebones": "a run without loggers and checkpoints leaves nothing behind; use --fast_dev_run",
    "default_root_dir": "everything a run writes goes to one folder; use --run_dir",
    "logger": "metrics.csv is always written; add --wandb for Weights & Biases",
    "callbacks": "callbacks cannot be named on the command line",
    "plugins": "plugins cannot be named on the command line",
    "model_registry": "models are saved in the run directory; use --run_dir",
}

#: Values that were renamed, by flag.
RESPELLED = {
    ("reward", "proxy"): "naswot",
    ("inner_reward", "proxy"): "naswot",
    ("test_reward", "proxy"): "naswot",
}

#: What config.yaml of earlier versions holds of flags that are none any more: the value that means nothing.
UNSET = {
    "limit_train_batches": "null",
    "limit_val_batches": "null",
    "limit_test_batches": "null",
    "limit_predict_batches": "null",
    "overfit_batches": "0.0",
}

Replacement = list[tuple[str, str | None]]


def means_nothing(word: "Word") -> bool:
    """Return whether a word of a configuration file is a flag of earlier versions at the value that changes nothing."""
    return bool(word.origin) and UNSET.get(word.name, "") == word.value


def gpu_count() -> int:
    """Return the number of CUDA devices that this process sees."""
    import torch

    return torch.cuda.device_count()


def _is_none(value: str | None) -> bool:
    return value is None or value.strip().lower() in ("none", "null", "")


def _gpus(word: Word) -> Replacement:
    """``-1`` all, ``0`` or None the CPU, ``2`` that many, ``"0,1"`` those."""
    text = "0" if _is_none(word.value) else str(word.value).strip("[] ")
    if text in ("-1", "auto"):
        return [("accelerator", "auto"), ("devices", "auto")]
    if text == "0":
        return [("accelerator", "cpu")]
    ids = [part.strip() for part in text.split(",")]
    if not re.fullmatch(r"[0-9]{1,6}(\s*,\s*[0-9]{1,6})*\s*,?", text):
        raise InputError(f"{word}: expected -1, a number of GPUs, or their indices such as 0,1")
    available = gpu_count()
    needed = int(ids[0]) if len(ids) == 1 else 1 + max(int(part) for part in ids if part)
    if needed > available:
        raise InputError(
            f"{word}: this machine has {available} GPUs; use --accelerator=auto for what there is, "
            "or --accelerator=cpu --devices=N for N processes"
        )
    return [("accelerator", "gpu"), ("devices", text)]


def _backend(word: Word) -> Replacement | None:
    """``ddp`` and its relatives, which used to be accelerators."""
    if word.value in ("ddp", "ddp_spawn"):
        return [("strategy", "ddp")]
    if word.value == "ddp_cpu":
        return [("accelerator", "cpu"), ("strategy", "ddp")]
    if word.value in ("dp", "ddp2", "horovod", "ddp_sharded"):
        raise InputError(f"{word}: removed from Lightning; use --strategy=ddp")
    return None


def _precision(word: Word) -> Replacement | None:
    new = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true"}.get(str(word.value))
    return [("precision", new)] if new else None


def _track_grad_norm(word: Word) -> Replacement:
    return [("log_grad_norm", "null" if _is_none(word.value) or word.value == "-1" else word.value)]


def _val_check_interval(word: Word) -> Replacement:
    if not str(word.value).isdigit():
        raise InputError(f"{word}: a fraction of an epoch means nothing here; use --val_every=N meta-steps")
    return [("val_every", word.value)]


def _progress(word: Word) -> Replacement:
    return [("enable_progress_bar", "false" if word.value == "0" else "true")]


DATASETS = {
    "MiniImageNet": "MiniImagenet",
    "MetaMiniImageNet": "MiniImagenet",
    "TieredImageNet": "TieredImagenet",
    "MetaTieredImageNet": "TieredImagenet",
}


def _dataset(word: Word) -> Replacement:
    if word.value not in DATASETS:
        raise InputError(f"{word}: expected one of {', '.join(DATASETS)}; today's flag is --data_class")
    return [("data_class", DATASETS[word.value])]


def _ntk_type(word: Word) -> Replacement:
    if word.value not in ("NTK", "MetaNTK_anl"):
        raise InputError(f"{word}: expected NTK or MetaNTK_anl; today's flags are --algorithm=MetaNTKNAS --kernel=...")
    return [("algorithm", "MetaNTKNAS"), *([("kernel", "NTK")] if word.value == "NTK" else [])]


def _train_after_search(word: Word, words: Sequence[Word]) -> Replacement | None:
    """``true`` and ``false`` of the launcher of MetaNTK-NAS, which has one schedule for each dataset."""
    said = str(word.value).lower()
    if said not in ("true", "false"):
        return None
    tiered = any(w.name in ("dataset", "data_class") and "tiered" in str(w.value).lower() for w in words)
    recipe = f"rfs_genotype_{'tiered' if tiered else 'mini'}_imagenet_5w1s.yaml"
    return [(word.name, str(Path(__file__).parent / "recipes" / recipe) if said == "true" else "null")]


def _summary(word: Word) -> Replacement:
    return [("enable_model_summary", "false" if _is_none(word.value) else "true")]


# A rule returns the new words, or None where the old name still means what it says.
RULES: dict[str, Callable[[Word], Replacement | None]] = {
    "gpus": _gpus,
    "accelerator": _backend,
    "distributed_backend": lambda word: [] if _is_none(word.value) else _backend(word),
    "num_processes": lambda word: [("devices", word.value)],
    "precision": _precision,
    "track_grad_norm": _track_grad_norm,
    "val_check_interval": _val_check_interval,
    "progress_bar_refresh_rate": _progress,
    "weights_summary": _summary,
    "dataset": _dataset,
    "ntk_type": _ntk_type,
}


def _spell(pairs: Replacement) -> str:
    return " ".join(f"--{name}" if value is None else f"--{name}={value}" for name, value in pairs)


def translate(words: Iterable[Word]) -> tuple[list[Word], list[str]]:
    """Replace old spellings.

    Returns:
        The words under today's names, and one line for each old spelling that says what it became.

    Raises:
        InputError: for a flag that has no successor, with the reason, and for a value that cannot be honoured.
    """
    words = list(words)
    launcher = any(word.name in NTK_LAUNCHER for word in words)
    takes_gpus = any(w.name == "gpus" and not _is_none(w.value) and w.value != "0" for w in words)
    result: list[Word] = []
    notes: list[str] = []
    for word in words:
        if means_nothing(word):
            continue
        if word.name in REMOVED:
            raise InputError(f"{word}: no longer a flag: {REMOVED[word.name]}")
        if word.name in FIXED:
            raise InputError(f"{word}: not a flag here: {FIXED[word.name]}")
        pairs: Replacement | None = None
        if word.name in RENAMED:
            pairs = [(RENAMED[word.name], word.value)]
        elif (word.name, word.value) in RESPELLED:
            pairs = [(word.name, RESPELLED[word.name, str(word.value)])]
        elif launcher and word.name == "algorithm" and word.value in ("MAML", "ANIL"):
            plain = any((w.name, w.value) == ("ntk_type", "NTK") for w in words)
            pairs = [("algorithm", "MetaNTKNAS"), ("kernel", "NTK" if plain else word.value)]
        elif word.name == "num_processes" and takes_gpus:
            pairs = []  # it only ever counted processes on the CPU
        elif word.name == "train_after_search":
            pairs = _train_after_search(word, words)
        elif word.name in RULES:
            pairs = RULES[word.name](word)
        if pairs is None:
            result.append(word)
            continue
        result.extend(Word(name, value, word.origin) for name, value in pairs)
        notes.append(f"deprecated: {word} is now {_spell(pairs) or 'not needed'}")
        if word.name == "gpus" and pairs[0][1] == "auto" and gpu_count() == 0:
            notes.append(f"warning: {word}: no GPU found, running on what there is (the CPU)")
    return result, notes
