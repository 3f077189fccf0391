"""Seeds are functions of their words."""

import torch

from few_shot_nas.seeding import derived_seed, generator, seed_global


def test_the_same_words_give_the_same_stream_and_any_other_word_another():
    words = [(0, "a", 1), (0, "a", 2), (0, "b", 1), (1, "a", 1), ("a", 0, 1)]
    assert len({derived_seed(*w) for w in words}) == len(words)
    first, second = generator(0, "a", 1), generator(0, "a", 1)
    assert torch.equal(torch.rand(5, generator=first), torch.rand(5, generator=second))


def test_a_seed_is_the_same_on_every_machine():
    assert 0 <= derived_seed(0, "controller", 3) < 2**63
    assert derived_seed(7) == 8460147692890830636


def test_the_global_generator_is_set_as_torch_sets_it():
    torch.manual_seed(12345)
    expected = torch.rand(3)
    seed_global(12345, torch.device("cpu"))
    assert torch.equal(torch.rand(3), expected)
