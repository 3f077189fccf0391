"""From a finished run to a learner that adapts to new classes; the run's folder is all that is needed."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import few_shot_nas
from few_shot_nas.algorithms import ALGORITHMS, EpisodicModule
from few_shot_nas.constructor import FROM_SOURCE, arguments, flat_names
from few_shot_nas.data.input_spec import InputSpec
from few_shot_nas.data.source import Source
from few_shot_nas.episode import UnlabelledTask
from few_shot_nas.errors import InputError
from few_shot_nas.report.results_file import read_results
from few_shot_nas.models import MODELS, GenotypeNetwork
from few_shot_nas.nn.memory import free_memory, weights_within
from few_shot_nas.registry import lookup
from few_shot_nas.runtime.checkpoint import KEY, load_checkpoint, named_checkpoint
from few_shot_nas.spaces.genotype import Genotype
from few_shot_nas.spaces.supernet import DerivedNetwork
from few_shot_nas.whole_file import read_text, reason, replacing

CARD, WEIGHTS = "model.json", "model.safetensors"
#: Key of the card in the metadata of model.safetensors.
METADATA = "few_shot_nas"
#: Prefix of what a learner learned beside the network, such as inner rates, in model.safetensors.
LEARNER = "learner."
#: What a checkpoint has and model.safetensors has not, of what matters after training.
_LEFT_OUT = {"ensemble": "the networks of ensemble_of", "reward_average": "the moving average of rewards"}
#: Query images per forward pass where each is judged by itself.
CHUNK = 128


# ---- what a run says of its model -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelCard:
    """What the weights of a run are: enough to build the learner again without its data.

    Attributes:
        algorithm: name in ALGORITHMS.
        model_class: name in MODELS, or the dotted path of a class of the user's.
        data_class: the source it was trained on.
        n_way: classes per task N of the training; a network's head has so many outputs.
        settings: value of every constructor flag of algorithm and network.
        inputs: fields of the :class:`~few_shot_nas.data.input_spec.InputSpec`.
        meta_step: outer updates of the weights; 0 while the run goes on.
        genotype: the architecture as JSON text: what a search found, or the fixed one of the network; None without.
        left_out: what the learner has and model.safetensors has not, in words.
    """

    algorithm: str
    model_class: str
    data_class: str
    n_way: int
    settings: dict[str, Any]
    inputs: dict[str, Any]
    meta_step: int = 0
    genotype: str | None = None
    left_out: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return the card as JSON text."""
        return json.dumps({"few_shot_nas": few_shot_nas.__version__, **asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, place: str) -> "ModelCard":
        """Return the card that :meth:`to_json` wrote.

        Args:
            text: JSON.
            place: where it stood, for the message.

        Raises:
            InputError: naming ``place`` if it is no such card.
        """
        try:
            content = {name: value for name, value in json.loads(text).items() if name != "few_shot_nas"}
            return cls(**{**content, "left_out": tuple(content["left_out"])})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise InputError(f"{place}: does not describe a model of few_shot_nas ({error}); train it again") from error

    @classmethod
    def read(cls, path: Path) -> "ModelCard":
        """Return the card in a file.

        Raises:
            InputError: naming the file, if it cannot be read or is no card.
        """
        try:
            text = read_text(path)
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read ({reason(error)}); train the model again") from error
        return cls.from_json(text, str(path))


def card_of(
    module: EpisodicModule, source: Source, settings: Mapping[str, Any], *, model_class: str, n_way: int
) -> ModelCard:
    """Describe a learner and what it is trained on.

    Args:
        module: the learner.
        source: where its images come from.
        settings: value of every flag; those of algorithm and network are kept.
        model_class: name of the network's class, or its dotted path.
        n_way: classes per task.
    """
    genotype = module.genotype or getattr(module.net, "genotype", None)
    progress: dict[str, Any] = {}
    module.on_save_checkpoint(progress)
    # The card holds the genotype itself instead of a path.
    of_net = flat_names(type(module.net), skip=(*FROM_SOURCE, "genotype"))
    taken = [*flat_names(type(module), skip=("net",)), *of_net]
    return ModelCard(
        algorithm=type(module).__name__,
        model_class=model_class,
        data_class=source.name,
        n_way=n_way,
        settings={name: list(v) if isinstance(v := settings[name], tuple) else v for name in taken},
        inputs=source.input_spec().to_dict(),
        meta_step=int(module.meta_step),
        genotype=None if genotype is None else genotype.to_json(),
        left_out=tuple(words for key, words in _LEFT_OUT.items() if progress[KEY].get(key)),
    )


def learned_tensors(module: EpisodicModule) -> dict[str, Tensor]:
    """Return what the learner has learned: the network's tensors under their own names, others after ``learner.``."""
    net = dict(module.net.state_dict(keep_vars=True))
    in_net = {id(tensor) for tensor in net.values()}
    beside = {
        f"{LEARNER}{name}": tensor
        for name, tensor in module.state_dict(keep_vars=True).items()
        if not name.startswith("net.") and id(tensor) not in in_net
    }
    return {name: tensor.detach().cpu().contiguous() for name, tensor in {**net, **beside}.items()}


def save_weights(path: Path, module: EpisodicModule, card: ModelCard) -> None:
    """Write the learned tensors and the card into one safetensors file, whole or not at all."""
    from safetensors.torch import save_file

    with replacing(path) as part:
        save_file(learned_tensors(module), part, metadata={METADATA: card.to_json()})


def read_weights(path: Path) -> tuple[dict[str, Tensor], ModelCard | None]:
    """Return the tensors of a model.safetensors by their names in the learner, and its card if it has one.

    Raises:
        InputError: naming the file, if it is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(METADATA)
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read as safetensors: {error}") from error
    state = {
        name.removeprefix(LEARNER) if name.startswith(LEARNER) else f"net.{name}": tensor
        for name, tensor in tensors.items()
    }
    return state, None if text is None else ModelCard.from_json(text, str(path))


# ---- the learner again ----------------------------------------------------------------------------------------------


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
        n_way: classes of the tasks to come; None takes those of the training. A learner without a head, such as
            ProtoNet, takes any number. One with a head takes at most as many as its head has outputs: the rows that are
            too many are dropped, and for one too few nothing has been learned.
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
        raise InputError(f"{path}: has no {CARD}; give the folder of a run that few_shot_nas wrote")
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

    Rows of a head for ``trained_way`` classes that are too many are dropped: the classes of an episode come in any
    order, so that any rows of the head are as good a start as any others. A head that the learner does not use may
    have any shape.

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
