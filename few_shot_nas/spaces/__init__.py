"""Search spaces: sets of architectures, and the supernet that holds them all."""

from few_shot_nas.spaces.chain import Chain
from few_shot_nas.spaces.darts_fewshot import DartsFewshot
from few_shot_nas.spaces.space import SearchSpace

SPACES: dict[str, type[SearchSpace]] = {
    "darts_fewshot": DartsFewshot,
    "chain": Chain,
}
