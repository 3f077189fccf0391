"""The algorithms, by name. A new one is one file and one line here."""

from few_shot_nas.algorithms.anil import ANIL
from few_shot_nas.algorithms.auto_maml import AutoMAML
from few_shot_nas.algorithms.base import EpisodicModule
from few_shot_nas.algorithms.baseline import Baseline, BaselinePlusPlus
from few_shot_nas.algorithms.boil import BOIL
from few_shot_nas.algorithms.darts import DARTS
from few_shot_nas.algorithms.enas import ENAS
from few_shot_nas.algorithms.maml import MAML
from few_shot_nas.algorithms.maml_enas import MAMLENAS
from few_shot_nas.algorithms.maml_plus_plus import MAMLPlusPlus
from few_shot_nas.algorithms.matching_net import MatchingNet
from few_shot_nas.algorithms.meta_nas import MetaNAS
from few_shot_nas.algorithms.meta_ntk_nas import MetaNTKNAS
from few_shot_nas.algorithms.meta_sgd import MetaSGD
from few_shot_nas.algorithms.proto_net import ProtoNet
from few_shot_nas.algorithms.random_search import RandomSearch
from few_shot_nas.algorithms.reptile import Reptile
from few_shot_nas.algorithms.rfs import RFS
from few_shot_nas.algorithms.simple_shot import SimpleShot
from few_shot_nas.algorithms.te_nas import TENAS
from few_shot_nas.algorithms.tnas import TNAS
from few_shot_nas.algorithms.tnas_plus_plus import TNASPlusPlus

ALGORITHMS: dict[str, type[EpisodicModule]] = {
    "ANIL": ANIL,
    "AutoMAML": AutoMAML,
    "BOIL": BOIL,
    "Baseline": Baseline,
    "BaselinePlusPlus": BaselinePlusPlus,
    "DARTS": DARTS,
    "ENAS": ENAS,
    "MAML": MAML,
    "MAMLENAS": MAMLENAS,
    "MAMLPlusPlus": MAMLPlusPlus,
    "MatchingNet": MatchingNet,
    "MetaNAS": MetaNAS,
    "MetaNTKNAS": MetaNTKNAS,
    "MetaSGD": MetaSGD,
    "ProtoNet": ProtoNet,
    "RFS": RFS,
    "RandomSearch": RandomSearch,
    "Reptile": Reptile,
    "SimpleShot": SimpleShot,
    "TENAS": TENAS,
    "TNAS": TNAS,
    "TNASPlusPlus": TNASPlusPlus,
}
