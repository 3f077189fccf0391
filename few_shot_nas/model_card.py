"""What a run says of its model: the card beside the weights, and the file that holds both."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

import few_shot_nas
from few_shot_nas.algorithms import EpisodicModule
from few_shot_nas.constructor import FROM_SOURCE, flat_names
from few_shot_nas.data.source import Source
from few_shot_nas.errors import InputError
from few_shot_nas.runtime.checkpoint import KEY
from few_shot_nas.whole_file import read_text, reason, replacing

CARD, WEIGHTS = "model.json", "model.safetensors"
#: Key of the card in the metadata of model.safetensors.
METADATA = "few_shot_nas"
#: Prefix of what a learner learned beside the network, such as inner rates, in model.safetensors.
LEARNER = "learner."
#: What a checkpoint has and model.safetensors has not, of what matters after training.
_LEFT_OUT = {"ensemble": "the networks of ensemble_of", "reward_average": "the moving average of rewards"}


@dataclass(frozen=True)
class ModelCard:
    """What the weights of a run are: enough to build the learner again without its data.

    Attributes:
        algorithm: name in ALGORITHMS.
        model_class: name in MODELS, or the dotted path of a class of the user's.
        data_class: the source that the weights were trained on.
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
            place: where the text stood, for messages.

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
        settings: value of every flag; the flags of algorithm and network are kept.
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
    """Return what the learner has learned: the network's tensors by their names, others as ``learner.<name>``."""
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
