"""Search spaces: sets of architectures, and the supernet that holds them all."""

from few_shot_nas.spaces.chain import Chain
from few_shot_nas.spaces.conv4_chain import Conv4Chain
from few_shot_nas.spaces.darts import Darts
from few_shot_nas.spaces.darts_fewshot import DartsFewshot
from few_shot_nas.spaces.enas_macro import EnasMacro
from few_shot_nas.spaces.enas_micro import EnasMicro
from few_shot_nas.spaces.metanas import MetaNas
from few_shot_nas.spaces.metantk import MetaNtk
from few_shot_nas.spaces.nb201 import Nb201
from few_shot_nas.spaces.space import SearchSpace

SPACES: dict[str, type[SearchSpace]] = {
    "darts_fewshot": DartsFewshot,
    "darts": Darts,
    "metantk": MetaNtk,
    "metanas": MetaNas,
    "nb201": Nb201,
    "enas_macro": EnasMacro,
    "enas_micro": EnasMicro,
    "chain": Chain,
    "conv4_chain": Conv4Chain,
}
