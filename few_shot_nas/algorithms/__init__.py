"""The algorithms, by name. A new one is one file and one line here."""

from few_shot_nas.algorithms.base import EpisodicModule
from few_shot_nas.algorithms.baseline import Baseline, BaselinePlusPlus
from few_shot_nas.algorithms.enas import ENAS
from few_shot_nas.algorithms.maml import MAML
from few_shot_nas.algorithms.maml_enas import MAMLENAS
from few_shot_nas.algorithms.matching_net import MatchingNet
from few_shot_nas.algorithms.proto_net import ProtoNet
from few_shot_nas.algorithms.random_search import RandomSearch
from few_shot_nas.algorithms.rfs import RFS

ALGORITHMS: dict[str, type[EpisodicModule]] = {
    "Baseline": Baseline,
    "BaselinePlusPlus": BaselinePlusPlus,
    "MAML": MAML,
    "ENAS": ENAS,
    "MAMLENAS": MAMLENAS,
    "MatchingNet": MatchingNet,
    "ProtoNet": ProtoNet,
    "RFS": RFS,
    "RandomSearch": RandomSearch,
}
