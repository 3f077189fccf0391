"""From a finished run to a learner that adapts to new classes; the run's folder is all that is needed."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from few_shot_nas.algorithms import ALGORITHMS, EpisodicModule
from few_shot_nas.constructor import FROM_SOURCE, arguments
from few_shot_nas.data.input_spec import InputSpec
from few_shot_nas.episode import UnlabelledTask
from few_shot_nas.errors import InputError
from few_shot_nas.model_card import CARD, WEIGHTS, ModelCard, read_weights
from few_shot_nas.models import MODELS, GenotypeNetwork
from few_shot_nas.nn.memory import free_memory, weights_within
from few_shot_nas.registry import lookup
from few_shot_nas.report.results_file import read_results
from few_shot_nas.runtime.checkpoint import load_checkpoint, named_checkpoint
from few_shot_nas.spaces.genotype import Genotype
from few_shot_nas.spaces.supernet import DerivedNetwork

#: Query images per forward pass where each is judged by itself.
CHUNK = 128


def load(
    path: Path | str,
    *,
    checkpoint: str | None = None,
    n_way: int | None = None,
    model_class: type[nn.Module] | None = None,
) -> "Learner":
    """Return the learner of a run, ready to adapt.

    Args:
        path: the run's folder, or a model.safetensors alone.
        checkpoint: ``best``, ``last`` or the path of a checkpoint; None takes the weights that the run was tested on.
        n_way: classes of the tasks to come; None takes as many as in training. A learner without a head, such as
            ProtoNet, takes any number. A learner with a head takes at most as many as its head has outputs, and drops
            the rows that are too many. For a class more it has learned nothing.
        model_class: the class of a network of your own; a file never makes this function import a module.

    Raises:
        InputError: if the folder is not that of a run, a file is missing or damaged, or the ways do not fit.
    """
    path = Path(path)
    state, card, extra = _stored(path, checkpoint)
    ways = card.n_way if n_way is None else n_way
    module = build(card, ways, model_class)
    if extra is not None:
        module.on_load_checkpoint(extra)
    module.meta_step = card.meta_step if extra is None else module.meta_step
    if type(module).searches and card.genotype is not None:
        module.genotype = Genotype.from_json(card.genotype)
    put(module, state, ways, card.n_way, str(path))
    return Learner(module.eval(), card)


def _stored(path: Path, checkpoint: str | None) -> tuple[dict[str, Tensor], ModelCard, dict[str, Any] | None]:
    """Return the tensors by name, the card, and the whole checkpoint where the tensors come from one."""
    if path.is_file():
        state, card = read_weights(path)
        if card is None:
            raise InputError(f"{path}: holds tensors without a description; give the folder of the run instead")
        return state, card, None
    if not (path / CARD).is_file():
        wanted = "give the folder of a run that few_shot_nas wrote"
        if (path / "config.yaml").is_file():  # runs of the first versions had none
            flags = f"--config={path}/config.yaml --ckpt_path={path}/checkpoints/last.ckpt"
            wanted = f"if an earlier version wrote the run, training/run_experiment.py {flags} --run_dir=NEW makes one"
        raise InputError(f"{path}: has no {CARD}; {wanted}")
    card = ModelCard.read(path / CARD)
    file = checkpoint_file(path, checkpoint)
    if file is None:
        state, _ = read_weights(path / WEIGHTS)
        return state, card, None
    content = load_checkpoint(file)
    return content["state_dict"], card, content


def checkpoint_file(folder: Path, wanted: str | None) -> Path | None:
    """Return the checkpoint of a run that best, last or a path names; None stands for model.safetensors.

    Without a wish it is the one that the run was tested on, or last.ckpt of a run that has not ended.

    Raises:
        InputError: if it does not exist.
    """
    if wanted is None:
        results = folder / "results.json"
        tested = read_results(results).get("checkpoint") if results.is_file() else "last"
        path = folder / "checkpoints" / f"{tested}.ckpt"
        return path if path.is_file() or not (folder / WEIGHTS).is_file() else None
    return named_checkpoint(folder, wanted)


def build(card: ModelCard, n_way: int, model_class: type[nn.Module] | None = None) -> EpisodicModule:
    """Build the learner that a card describes, with fresh weights.

    Raises:
        InputError: if a class is unknown, or a setting does not fit this version.
    """
    algorithm = lookup(ALGORITHMS, card.algorithm, "algorithm")
    if model_class is None and "." in card.model_class:
        raise InputError(
            f"the network is {card.model_class}, a class of your own, and no file makes this import it: "
            f"give model_class={card.model_class}"
        )
    network = model_class or lookup(MODELS, card.model_class, "model_class")
    inputs = InputSpec.from_dict(card.inputs)
    values = {n: tuple(v) if isinstance(v, list) else v for n, v in card.settings.items()} | {"n_way": n_way}
    shape = {"in_channels": inputs.channels, "image_size": inputs.image_size}
    try:
        with weights_within(free_memory(), copies=2, needed_by=card.model_class):  # the learned and the adapted ones
            if network is GenotypeNetwork:
                genotype = Genotype.from_json(str(card.genotype))
                net: nn.Module = DerivedNetwork(
                    n_way, inputs.channels, inputs.image_size, genotype, card.settings.get("pad", "right")
                )
            else:
                net = network(**shape, **arguments(network, values, skip=FROM_SOURCE, defaults=True))
        return algorithm(net, **arguments(algorithm, values, skip=("net",), defaults=True))
    except KeyError as error:
        raise InputError(f"{card.algorithm} with {card.model_class}: the model's card has no {error}") from error


def put(module: EpisodicModule, state: Mapping[str, Tensor], n_way: int, trained_way: int, place: str) -> None:
    """Load tensors into a learner whose network was built for ``n_way`` classes.

    A head for ``trained_way`` classes loses the rows that are too many. The classes of an episode come in any order, so
    any rows of the head are as good a start as others. A head that the learner does not use may have any shape.

    Raises:
        InputError: if the head has too few rows, or a tensor is missing or of another shape.
    """
    own = module.state_dict(keep_vars=True)
    names_of: dict[int, set[str]] = {}
    for name, tensor in own.items():
        names_of.setdefault(id(tensor), set()).add(name)
    if module.uses_head and n_way > trained_way:
        raise InputError(
            f"{place}: {n_way} classes given, but the head of {type(module).__name__} has {trained_way} outputs and no "
            f"start was learned for more; give at most {trained_way} classes, train with --n_way={n_way}, or use a "
            "learner without a head such as ProtoNet"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            given = next((state[alias] for alias in names_of[id(tensor)] if alias in state), None)
            if "head" in name.replace("/", ".").split("."):
                if not module.uses_head and (given is None or given.shape != tensor.shape):
                    continue
                if given is not None and len(given) == trained_way and tensor.shape == (n_way, *given.shape[1:]):
                    given = given[:n_way]
            if given is None or given.shape != tensor.shape:
                found = "nothing" if given is None else list(given.shape)
                raise InputError(f"{place}: {name} needs {list(tensor.shape)} and the file has {found}")
            tensor.copy_(given)


class Learner:
    """A trained learner: :meth:`adapt` it to labelled images of new classes.

    Attributes:
        module: the algorithm with its network.
        card: what the run said of it.
        inputs: how pictures are read for it.
        bn_mode: how queries are normalised unless another way is asked for: ``running`` where the learner was made for
            it, else ``support``. Both judge every query by itself.
    """

    def __init__(self, module: EpisodicModule, card: ModelCard) -> None:
        self.module = module
        self.card = card
        self.inputs = InputSpec.from_dict(card.inputs)
        self.bn_mode = "running" if module.outer.bn_mode == "running" else "support"

    def adapt(self, support_x: Tensor, support_y: Tensor) -> "AdaptedLearner":
        """Return the classifier of one task.

        Args:
            support_x: labelled images ``[S, C, H, W]``, normalised as ``inputs`` says (``inputs.read(files)``).
            support_y: their classes ``[S]`` int64, every one of 0..N-1 at least once; the shots may differ.

        Raises:
            InputError: if a label has no image, the images are of another size, or there are more classes than the
                head has outputs.
        """
        n_way = int(support_y.max()) + 1 if support_y.numel() else 0
        if n_way == 0 or int(support_y.min()) < 0 or len(set(support_y.tolist())) != n_way:
            found = sorted(set(support_y.tolist()))
            raise InputError(f"adapt: the labels are {found}; needed are 0..N-1, each at least once")
        self._check(support_x)
        head = getattr(self.module.net, "head", None)
        if self.module.uses_head and isinstance(head, nn.Linear) and head.out_features != n_way:
            raise InputError(
                f"adapt: {n_way} classes given, the head has {head.out_features} outputs; load with n_way={n_way}"
            )
        return AdaptedLearner(self, support_x, support_y)

    def _check(self, images: Tensor) -> None:
        wanted = (self.inputs.channels, self.inputs.image_size, self.inputs.image_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != wanted:
            raise InputError(f"images are {list(images.shape)}, needed is [B, {', '.join(map(str, wanted))}]")


class AdaptedLearner:
    """A learner with the support set of one task: scores and classes of any number of queries."""

    def __init__(self, learner: Learner, support_x: Tensor, support_y: Tensor) -> None:
        self.learner = learner
        self.support_x = support_x
        self.support_y = support_y

    def logits(self, query_x: Tensor, bn_mode: str | None = None) -> Tensor:
        """Return the scores of every class, ``[Q, N]``.

        Args:
            query_x: images ``[Q, C, H, W]``, normalised like the support set.
            bn_mode: what normalises the queries inside the network; None takes the learner's. In ``transductive`` an
                answer depends on the other queries, and all are held in memory at once.

        Raises:
            InputError: if the images are of another size, or the network has no such ``bn_mode``.
        """
        module, mode = self.learner.module, bn_mode or self.learner.bn_mode
        if mode not in module.network_bn_modes:
            raise InputError(f"bn_mode={mode}: this learner has {', '.join(module.network_bn_modes)}")
        self.learner._check(query_x)
        device = next(module.parameters()).device
        with torch.no_grad():
            parts = [module.logits_in(task, mode).cpu() for task in self._tasks(query_x, mode, device)]
        n_way = int(self.support_y.max()) + 1
        return torch.cat(parts) if parts else torch.empty(0, n_way)

    def probabilities(self, query_x: Tensor, bn_mode: str | None = None) -> Tensor:
        """Return the softmax of :meth:`logits`, ``[Q, N]``."""
        return self.logits(query_x, bn_mode).softmax(dim=1)

    def predict(self, query_x: Tensor, bn_mode: str | None = None) -> Tensor:
        """Return the class of every query, ``[Q]`` int64."""
        return self.logits(query_x, bn_mode).argmax(dim=1)

    def _tasks(self, query_x: Tensor, mode: str, device: torch.device) -> Iterator[UnlabelledTask]:
        """The queries as tasks: one in the transductive mode, else parts of a size that fits into memory."""
        size = len(query_x) if mode == "transductive" else CHUNK
        for part in query_x.split(max(size, 1)) if len(query_x) else ():
            yield UnlabelledTask(*(tensor.to(device) for tensor in (self.support_x, self.support_y, part)))
