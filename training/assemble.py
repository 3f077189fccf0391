"""Build the parts of a run from its flags."""

import hashlib
import importlib.util
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import nn

from few_shot_nas.constructor import FROM_SOURCE, arguments
from few_shot_nas.data.input_spec import InputSpec
from few_shot_nas.errors import InputError
from few_shot_nas.loading import checkpoint_file, load
from few_shot_nas.model_card import read_weights
from few_shot_nas.models import GenotypeNetwork
from few_shot_nas.models.digest import weights_digest
from few_shot_nas.nn.memory import free_memory, weights_within
from few_shot_nas.runtime.checkpoint import MetaCheckpoint, load_checkpoint
from few_shot_nas.runtime.choices_csv import CHOICES, ChoicesCSV
from few_shot_nas.runtime.legs import Legs
from few_shot_nas.runtime.metrics_csv import MetricsCSV
from few_shot_nas.runtime.stop_at_boundary import StopAtBoundary
from few_shot_nas.runtime.strategy import NAME as EPISODIC_DDP
from few_shot_nas.runtime.strategy import EpisodicDDPStrategy
from few_shot_nas.runtime.trainer import episodic_trainer
from training import wandb_logging
from training.class_tables import Tables
from training.cli import plain
from training.devices import hardware, hardware_text
from training.flags import flags_of
from training.run_directory import is_first_rank
from training.targets import check_channels
from training.trainer_flags import TRAINER_FLAGS

Values = Mapping[str, Any]
#: How often a network's weights are in memory at least while it is trained: itself, its gradient, Adam's two moments.
COPIES = 4


class Parts(NamedTuple):
    """What the Trainer works on."""

    source: Any
    net: nn.Module
    module: Any
    datamodule: Any


def build_parts(tables: Tables | None, values: Values) -> Parts:
    """Prepare the data and build network, algorithm and DataModule for a run, in that order.

    Raises:
        InputError: from any of them, before anything of the run is written.
    """
    parts = _build(tables, values, values["n_way"], None)
    if values.get("teacher"):
        learn_from(parts, values["teacher"])
    parts.datamodule.setup()
    return parts


def learn_from(parts: Parts, path: str) -> None:
    """Give a learner the teacher that a run left; the checkpoint of a run that continues must know the same one.

    Raises:
        InputError: if the folder holds no such run, or its network reads images in another way.
    """
    folder = Path(path)
    file = checkpoint_file(folder, None)
    if file is None:
        raise InputError(f"--teacher={path}: has no checkpoint, and no other file holds the head; give a run's folder")
    learner = load(folder, checkpoint=str(file))
    if learner.inputs != parts.source.input_spec():
        raise InputError(
            f"--teacher={path}: reads images as {learner.inputs}, this run as {parts.source.input_spec()}; give a run "
            "on the same data_class and image_size"
        )
    parts.module.learn_from(learner.module.net)
    parts.module.run_identity["teacher"] = weights_digest(learner.module.net)


def build_test(tables: Tables | None, values: Values, inputs: InputSpec | None, n_way: Any) -> Parts:
    """Build the parts for a test; the data needs no split but the tested one.

    Args:
        tables: the imported classes.
        values: the flags.
        inputs: how the images were normalised in training, which holds for any data; None leaves it to the source.
        n_way: classes per task in training, of which the network's head has its size; None takes the flags'.

    Raises:
        InputError: from any part, or if the network cannot take the source's images.
    """
    parts = _build(tables, values, values["n_way"] if n_way is None else n_way, inputs)
    parts.datamodule.setup("test")
    return parts


def _build(tables: Tables | None, values: Values, net_way: int, inputs: InputSpec | None) -> Parts:
    if tables is None:
        raise ValueError("build_parts() needs the imported classes")
    algorithm = tables.algorithms[values["algorithm"]]
    source_class = tables.sources[values["data_class"]]
    source = source_class(**arguments(source_class, values))
    if inputs is not None:
        normalise_as(source, inputs)
    source.prepare()
    net, module = build_module(tables, values, source, net_way)
    # No test at all is the shell's business; the DataModule knows only tests of at least one episode.
    episodes = {**values, "test_episodes": values["test_episodes"] or 1}
    data_class = tables.datamodules[algorithm.data_kind]
    datamodule = data_class(source, **arguments(data_class, episodes, skip=("source",)))
    return Parts(source, net, module, datamodule)


def normalise_as(source: Any, inputs: InputSpec) -> None:
    """Let a source normalise its images as another did in training, and say so where that is a difference.

    Raises:
        InputError: if its images have other channels.
    """
    check_channels(source, inputs.channels)
    own = (tuple(source.mean), tuple(source.std))
    if own != (inputs.mean, inputs.std):
        source.mean, source.std = inputs.mean, inputs.std
        say(
            f"note: images of {source.name} are normalised as in training, by mean {list(inputs.mean)} and deviation "
            f"{list(inputs.std)} of the image in [0, 1]"
        )


def check_normalisation(net: nn.Module) -> None:
    """Refuse layers that normalise a task by statistics of other tasks without being asked to.

    Raises:
        InputError: for a batch normalisation of torch.
    """
    wrong = [name for name, layer in net.named_modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    if wrong:
        raise InputError(
            f"{type(net).__name__}: {wrong[0]} is torch's {type(net.get_submodule(wrong[0])).__name__}, whose running "
            "statistics mix the tasks; use few_shot_nas.nn.norm.BatchNorm2d, which takes those of the task"
        )


def build_module(
    tables: Tables, values: Values, source: Any, net_way: int | None = None
) -> tuple[nn.Module, Any]:
    """Return network and algorithm of a run with the weights that it starts from, the same ones at every call.

    A run that continues takes its weights from the checkpoint: ``init_from`` is not read then. The network's head has
    ``net_way`` outputs, by default those of the flags.
    """
    model, algorithm = tables.models[values["model_class"]], tables.algorithms[values["algorithm"]]
    pl.seed_everything(values["seed"], workers=True, verbose=False)
    of_net = arguments(model, {**values, "n_way": net_way or values["n_way"]}, skip=FROM_SOURCE)
    with weights_within(free_memory(), copies=COPIES, needed_by=f"--model_class={values['model_class']}"):
        net = model(in_channels=source.in_channels, image_size=source.image_size, **of_net)
    check_normalisation(net)
    if values["init_from"] and not values["ckpt_path"]:
        load_weights(net, values["init_from"])
    module = algorithm(net, **arguments(algorithm, values, skip=("net",)))
    if values["init_from"] and not values["ckpt_path"]:
        load_learner(module, values["init_from"])
    module.run_identity = identity(tables, values, net)
    return net, module


def identity(tables: Tables, values: Values, net: nn.Module) -> dict[str, str | int]:
    """Return what a checkpoint must agree on with the run that continues it: classes, tasks, seed, network.

    An architecture counts by what it is, not by the file it was read from.
    """
    names = ["algorithm", "model_class", "data_class", "n_way", "k_shot", "n_query", "meta_batch_size", "seed"]
    names += [flag.name for flag in flags_of(tables.models[values["model_class"]], "Model", skip=FROM_SOURCE)]
    optional = ("controller", "estimator", "train_way", "train_query", "flat_batch_size", "augment")
    names += [name for name in optional if name in values]
    found = {name: values[name] if isinstance(values[name], (int, str)) else str(values[name]) for name in names}
    if isinstance(net, GenotypeNetwork):
        found["genotype"] = hashlib.sha256(net.genotype.to_json().encode()).hexdigest()[:12]
    return found


def saved_tensors(path: str) -> dict[str, torch.Tensor]:
    """Return what a checkpoint or a model.safetensors holds, by the names of the learner: ``net.`` and others.

    Raises:
        InputError: if the file is not there or unreadable.
    """
    if path.endswith(".safetensors"):
        try:
            return read_weights(Path(path))[0]
        except InputError as error:
            raise InputError(f"--init_from={error}") from error
    return dict(load_checkpoint(path)["state_dict"])


def load_weights(net: nn.Module, path: str) -> None:
    """Start ``net`` from a checkpoint of a run or a model.safetensors; tensors it does not have are left out.

    So a derived architecture can inherit the weights of its supernet. Where the head alone does not fit, as that of a
    flat learner for all training classes, it stays at its own start and a line says so. Of a scale that was kept per
    inner step, that of the first step is taken.

    Raises:
        InputError: if the file is not there or unreadable, or lacks a tensor outside the head, or has it in another
            shape.
    """
    saved = {n.removeprefix("net."): tensor for n, tensor in saved_tensors(path).items() if n.startswith("net.")}
    own = net.state_dict()
    for name in own.keys() & saved.keys():
        if saved[name].shape[1:] == own[name].shape and saved[name].ndim == own[name].ndim + 1:
            saved[name] = saved[name][0]
    wrong = [name for name in own if name not in saved or saved[name].shape != own[name].shape]
    found = list(saved[wrong[0]].shape) if wrong and wrong[0] in saved else "nothing"
    left = [name for name in own if wrong and name.startswith("head.")]
    if not set(wrong) <= set(left):
        raise InputError(
            f"--init_from={path}: {len(wrong)} of {len(own)} tensors of {type(net).__name__} do not fit, for example "
            f"{wrong[0]} needs {list(own[wrong[0]].shape)} and the file has {found}; give the flags it was made with"
        )
    if left:
        say(
            f"--init_from={path}: {', '.join(left)} left at their own start: {wrong[0]} needs "
            f"{list(own[wrong[0]].shape)} and the file has {found}"
        )
    net.load_state_dict({name: own[name] if name in left else saved[name] for name in own})


def load_learner(module: Any, path: str) -> None:
    """Start what a learner learns beside the plain network from the same file, and say what was left out.

    That is what the algorithm added to the network, such as scales and statistics per inner step, and its own tensors,
    such as inner rates. An inherited head takes the place of one that ``zero_head`` has set to 0, if all of it fits.
    """
    saved = saved_tensors(path)
    own = module.state_dict()
    head = {name for name in own if name.startswith("net.head.")}
    plain = set() if all(n in saved and saved[n].shape == own[n].shape for n in head) else head
    fits = {n: t for n, t in own.items() if n in saved and n not in plain and saved[n].shape == t.shape}
    module.load_state_dict({**own, **{name: saved[name] for name in fits}})
    # A learner may know its network under a second name.
    others = [n for n in saved if not n.startswith("net.") and f"net.{n.partition('.')[2]}" not in saved]
    left = sorted({n.partition(".")[0] for n in others if n not in fits})
    per_step = [n for n in saved if n.startswith("net.") and n not in fits and n not in plain and n in own]
    statistics = [n for n in saved if n.startswith("net.") and n not in own and "running_" in n]
    if per_step and any(saved[name].ndim == own[name].ndim + 1 for name in per_step):
        left.append("scales and statistics per inner step")
    elif statistics:
        left.append("running statistics")
    if left:
        say(f"--init_from={path}: left out, for {type(module).__name__} has no such: {', '.join(left)}")


# ---- loggers and Trainer --------------------------------------------------------------------------------------------


class _RunRecord(Callback):
    """Hands the flags to the loggers once the ranks are up, and ends a search while the devices are still held."""

    def __init__(self, values: Values) -> None:
        self.values = dict(values)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        for logger in trainer.loggers:
            logger.log_hyperparams(self.values)
            if isinstance(logger, WandbLogger):
                wandb_logging.define_metrics(logger)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        pl_module.finish_search(getattr(trainer, "datamodule", None))


class _Once(logging.Filter):
    """Lets a message through the first time: Lightning prepares the data again for every stage."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        is_new = message not in self._seen
        self._seen.add(message)
        return is_new


def show_log() -> None:
    """Write the package's own log, such as which images were packed, to standard error on the first rank."""
    logger = logging.getLogger("few_shot_nas")
    if not logger.handlers and is_first_rank():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        handler.addFilter(_Once())
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)


@rank_zero_only
def say(line: str) -> None:
    """Write one line for the user."""
    print(line, file=sys.stderr, flush=True)


def tensorboard_is_installed() -> bool:
    """Return whether TensorBoard files can be written."""
    return importlib.util.find_spec("tensorboard") is not None


def build_loggers(values: Values, run_dir: Path) -> list[Logger]:
    """Return the two CSV records, TensorBoard where it is installed, and Weights & Biases where it is asked for."""
    loggers: list[Logger] = [MetricsCSV(run_dir / "metrics.csv"), ChoicesCSV(run_dir / CHOICES)]
    if tensorboard_is_installed():
        loggers.append(TensorBoardLogger(str(run_dir), name="", version="tensorboard"))
    if values["wandb"]:
        wandb_logger = wandb_logging.build_logger(values, run_dir)
        loggers += [wandb_logger] if wandb_logger is not None else []
    return loggers


def build_trainer(
    values: Values, run_dir: Path, loggers: list[Logger] | None = None, command: str = ""
) -> pl.Trainer:
    """Build the Trainer with what the framework fixes and what the user chose.

    Args:
        values: the flags.
        run_dir: where it writes.
        loggers: of a run; None for a Trainer that only tests and writes nothing.
        command: the command line, for the record.

    Raises:
        InputError: in one line, where Lightning refuses a flag.
    """
    passed = {flag.name: values[flag.name] for flag in TRAINER_FLAGS} | hardware(values)
    if passed["strategy"] == EPISODIC_DDP:
        passed["strategy"] = EpisodicDDPStrategy(values["rank_timeout"])
    callbacks: list[Callback] = [_RunRecord(values)]
    checkpoint = None
    if passed["enable_checkpointing"] and loggers is not None:
        checkpoint = MetaCheckpoint(str(run_dir / "checkpoints"), values["save_every"], values["save_minutes"])
        callbacks.append(checkpoint)
    if loggers is not None:
        callbacks.append(Legs({name: plain(value) for name, value in values.items()}, command))
    callbacks.append(StopAtBoundary(checkpoint))
    if passed["precision"] in ("16-mixed", "16-true"):
        say(f"warning: --precision={passed['precision']}: inner gradients may underflow; bf16-mixed does not")
    try:
        trainer = episodic_trainer(
            # Beside our own Checkpoint callbacks Lightning adds none.
            **{**passed, "enable_progress_bar": False, "enable_checkpointing": True},
            progress=bool(passed["enable_progress_bar"]),
            logger=loggers or False,
            callbacks=callbacks,
            default_root_dir=str(run_dir),
            # Lightning would save in the middle of a meta-step; training.slurm requeues at the end of one.
            plugins=[SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else None,
        )
    except (MisconfigurationException, ValueError, TypeError, ImportError, RuntimeError) as error:
        raise InputError(f"Trainer: {' '.join(str(error).split())}") from error
    for callback in callbacks:
        if isinstance(callback, Legs):
            callback.hardware = hardware_text(trainer)
    return trainer
