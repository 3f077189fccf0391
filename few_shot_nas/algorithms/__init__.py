"""The algorithms, by name. A new one is one file and one line here."""

from few_shot_nas.algorithms.base import EpisodicModule
from few_shot_nas.algorithms.enas import ENAS
from few_shot_nas.algorithms.maml import MAML
from few_shot_nas.algorithms.maml_enas import MAMLENAS
from few_shot_nas.algorithms.random_search import RandomSearch

ALGORITHMS: dict[str, type[EpisodicModule]] = {
    "MAML": MAML,
    "ENAS": ENAS,
    "MAMLENAS": MAMLENAS,
    "RandomSearch": RandomSearch,
}
