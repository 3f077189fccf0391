"""The network read from a genotype file."""

import pytest
import torch

from few_shot_nas.errors import InputError
from few_shot_nas.models.genotype_network import GenotypeNetwork
from few_shot_nas.spaces import SPACES
from few_shot_nas.spaces.supernet import Supernet


@pytest.mark.parametrize("name", SPACES)
def test_twenty_architectures_take_over_supernet_weights_and_logits(tmp_path, name):
    torch.manual_seed(0)
    supernet, x = Supernet(5, 3, 28, space=name, channels=4), torch.randn(3, 3, 28, 28)
    generator, weights = torch.Generator().manual_seed(0), supernet.state_dict()
    for _ in range(20):
        genotype = supernet.space.decode(supernet.space.sample(generator))
        genotype.save(tmp_path / "g.json")
        net = GenotypeNetwork(5, 3, 28, str(tmp_path / "g.json"))
        assert net.genotype == genotype
        net.load_state_dict({key: weights[key] for key in net.state_dict()}, strict=True)
        assert torch.allclose(net(x), supernet(x, genotype), atol=1e-6)


def test_a_missing_file_is_named():
    with pytest.raises(InputError, match="nowhere.json"):
        GenotypeNetwork(5, 3, 28, "nowhere.json")


def test_a_genotype_with_an_unknown_op_is_refused(tmp_path):
    space = SPACES["chain"](4, 2)
    text = space.decode((0, 1)).to_json().replace("conv_k5", "conv_k7")
    (tmp_path / "g.json").write_text(text)
    with pytest.raises(InputError, match="op conv_k7 on edge 1->2"):
        GenotypeNetwork(5, 3, 28, str(tmp_path / "g.json"))
