"""Any learner becomes a search by saying what it ends with. Truth: a search that knows its architecture beforehand."""

import torch

from few_shot_nas.algorithms.maml import MAML
from few_shot_nas.models.conv4 import Conv4
from few_shot_nas.search.search_result import SearchResult
from few_shot_nas.spaces import SPACES

GENOTYPE = SPACES["chain"](channels=4, cells=2, nodes=1).decode((1, 2))


class Convinced(MAML):
    """MAML that ends with the same architecture always, for three forward passes."""

    def end_search(self, datamodule):
        return SearchResult(GENOTYPE, {"forward_passes": 3 * datamodule.meta_batch_size}, {"certainty": 1.0})


class Data:
    meta_batch_size = 2


def test_a_learner_that_ends_with_an_architecture_is_a_search_and_others_are_not():
    assert Convinced.searches and not MAML.searches
    torch.manual_seed(0)
    module = Convinced(Conv4(3, 1, 16, width=4))
    module.finish_search(Data())
    assert module.genotype == GENOTYPE
    assert module.search_summary == {"forward_passes": 6, "certainty": 1.0}
