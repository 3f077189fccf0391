"""A network that does not fit into the memory is refused before it takes any. Truth: the bytes of its tensors."""

import pytest
import torch
from torch import nn

from few_shot_nas.errors import InputError
from few_shot_nas.models import MODELS
from few_shot_nas.nn import memory
from few_shot_nas.nn.memory import OBJECTS, free_memory, weights_within


def test_a_network_is_refused_from_the_byte_on_that_does_not_fit() -> None:
    needed = 4 * 4 * (8 * 3 + 3) + 2 * OBJECTS  # four copies of float32 weights [3, 8] and biases [3], two tensors
    with weights_within(needed, 4, "it"):
        nn.Linear(8, 3)
    with pytest.raises(InputError, match=r"^it: has 27 parameters or more, which take at least .* GB, and .* are free"):
        with weights_within(needed - 1, 4, "it"):
            nn.Linear(8, 3)
    nn.Linear(8, 3)  # nothing is checked after the block


def test_a_network_that_no_machine_holds_is_refused_without_taking_its_memory() -> None:
    with pytest.raises(InputError, match="Conv4: has 144,0[0-9][0-9],[0-9]+ parameters or more, which take at least"):
        with weights_within(10**9, 4, "Conv4"):
            MODELS["Conv4"](n_way=5, in_channels=1, image_size=28, width=4000)


def test_a_network_of_countless_small_layers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MOST_TENSORS", 5)
    with pytest.raises(InputError, match="it: has more than 5 tensors; give a smaller network"):
        with weights_within(None, 4, "it"):
            nn.Sequential(*(nn.Linear(1, 1) for _ in range(3)))


def test_free_memory_is_what_can_be_taken() -> None:
    free = free_memory()
    assert free is None or 2**20 < free < 2**50
    if free is not None:
        assert torch.zeros(2**10).numel() * 4 < free
