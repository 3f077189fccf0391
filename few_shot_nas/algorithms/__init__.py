"""The algorithms, by name. A new one is one file and one line here."""

from few_shot_nas.algorithms.anil import ANIL
from few_shot_nas.algorithms.base import EpisodicModule
from few_shot_nas.algorithms.boil import BOIL
from few_shot_nas.algorithms.maml import MAML
from few_shot_nas.algorithms.maml_enas import MAMLENAS
from few_shot_nas.algorithms.maml_plus_plus import MAMLPlusPlus
from few_shot_nas.algorithms.meta_sgd import MetaSGD
from few_shot_nas.algorithms.random_search import RandomSearch
from few_shot_nas.algorithms.reptile import Reptile

ALGORITHMS: dict[str, type[EpisodicModule]] = {
    "ANIL": ANIL,
    "BOIL": BOIL,
    "MAML": MAML,
    "MAMLENAS": MAMLENAS,
    "MAMLPlusPlus": MAMLPlusPlus,
    "MetaSGD": MetaSGD,
    "RandomSearch": RandomSearch,
    "Reptile": Reptile,
}
