"""What a run says of the cost of its network."""

from few_shot_nas.nn.cost import count_macs, count_parameters
from few_shot_nas.spaces.mixed_supernet import MixedSupernet
from few_shot_nas.spaces.supernet import DerivedNetwork, Supernet
from training.results import cost


def test_a_supernet_costs_its_architecture_its_mixture_or_nothing_yet() -> None:
    plain = Supernet(3, 1, 16, space="chain", channels=4, cells=2)
    mixed = MixedSupernet(3, 1, 16, space="chain", channels=4, cells=2)
    genotype = plain.space.decode((1, 3))
    derived = DerivedNetwork(3, 1, 16, genotype)
    expected = count_parameters(derived), count_macs(derived, 1, 16)
    assert cost(plain, genotype, 3, 1, 16) == cost(mixed, genotype, 3, 1, 16) == expected
    assert cost(plain, None, 3, 1, 16) == (count_parameters(plain), None)
    # Every op of both layers once: taps of 3x3, 5x5 and separable convolutions on 8x8 and 4x4 pixels.
    ops = (9 * 16 + 25 * 16 + 9 * 4 + 16) * (8 * 8 + 4 * 4)
    stem, head = 9 * 4 * 16 * 16, 3 * mixed.feature_dim
    assert cost(mixed, None, 3, 1, 16) == (count_parameters(mixed), stem + ops + head)
