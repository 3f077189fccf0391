"""few_shot_nas: neural architecture search for few-shot learning on PyTorch Lightning.

The names below are the front door. Each is imported when it is first used, so that ``import few_shot_nas`` takes
milliseconds and a learner that is not used costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from few_shot_nas.algorithms import (
        ALGORITHMS,
        ANIL,
        BOIL,
        ENAS,
        MAML,
        MAMLENAS,
        RFS,
        Baseline,
        BaselinePlusPlus,
        EpisodicModule,
        MAMLPlusPlus,
        MatchingNet,
        MetaSGD,
        ProtoNet,
        RandomSearch,
        Reptile,
        SimpleShot,
    )
    from few_shot_nas.algorithms.settings import InnerLoop, OuterLoop
    from few_shot_nas.data.episodic import EpisodicDataModule
    from few_shot_nas.data.flat import FlatDataModule
    from few_shot_nas.data.input_spec import InputSpec
    from few_shot_nas.data.sources import SOURCES, Glyphs, ImageFolder, MiniImagenet, Omniglot
    from few_shot_nas.episode import Episode, SupportSet, Task, UnlabelledTask, tasks
    from few_shot_nas.errors import InputError
    from few_shot_nas.loading import load
    from few_shot_nas.meta.functional import trainable
    from few_shot_nas.meta.inner_loop import adapt
    from few_shot_nas.meta.outer_loss import query_logits, support_loss
    from few_shot_nas.models import MODELS, Conv4, GenotypeNetwork, ResNet12, Supernet
    from few_shot_nas.runtime.trainer import episodic_trainer
    from few_shot_nas.spaces import SPACES
    from few_shot_nas.spaces.genotype import Genotype

__version__ = "0.1.0"

#: Where the names of the front door live.
_HOMES = {
    "algorithms": (
        "ALGORITHMS ANIL BOIL ENAS MAML MAMLENAS RFS Baseline BaselinePlusPlus EpisodicModule MAMLPlusPlus MatchingNet "
        "MetaSGD ProtoNet RandomSearch Reptile SimpleShot"
    ),
    "algorithms.settings": "InnerLoop OuterLoop",
    "data.episodic": "EpisodicDataModule",
    "data.flat": "FlatDataModule",
    "data.input_spec": "InputSpec",
    "data.sources": "SOURCES Glyphs ImageFolder MiniImagenet Omniglot",
    "episode": "Episode SupportSet Task UnlabelledTask tasks",
    "errors": "InputError",
    "loading": "load",
    "meta.functional": "trainable",
    "meta.inner_loop": "adapt",
    "meta.outer_loss": "query_logits support_loss",
    "models": "MODELS Conv4 GenotypeNetwork ResNet12 Supernet",
    "runtime.trainer": "episodic_trainer",
    "spaces": "SPACES",
    "spaces.genotype": "Genotype",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}
__all__ = sorted(_HOME_OF)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Import a name of the front door when it is first used."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"few_shot_nas.{_HOME_OF[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
