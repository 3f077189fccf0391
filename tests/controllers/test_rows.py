"""Many rollouts at once are the rollouts of the controller one by one."""

import itertools

import pytest
import torch
from torch.func import functional_call, vmap

from few_shot_nas.controllers import CONTROLLERS
from few_shot_nas.controllers.base import Controller
from few_shot_nas.controllers.rows import ControllerRows
from few_shot_nas.errors import InputError

SIZES, KINDS = (3, 2, 4), ("op", "op", "op")


def make(name: str, dim: int | None = None) -> Controller:
    torch.manual_seed(0)
    made = CONTROLLERS[name](SIZES, KINDS, embedding_dim=dim).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.6)
    return made


def every() -> torch.Tensor:
    return torch.tensor(list(itertools.product(*(range(size) for size in SIZES))))


@pytest.mark.parametrize("name", ["LSTM", "Factorised"])
@pytest.mark.parametrize("dim", [None, 5])
def test_replays_equal_those_of_the_controller(name: str, dim: int | None) -> None:
    controller = make(name, dim)
    context = None if dim is None else torch.linspace(-1, 1, dim, dtype=torch.float64)
    rows = ControllerRows(controller)(every(), context=context)
    for row, decisions in enumerate(every()):
        plain = controller(decisions, context=context)
        torch.testing.assert_close(rows.log_probs[row], plain.log_probs)
        torch.testing.assert_close(rows.entropies[row], plain.entropies)
    greedy = ControllerRows(controller)(context=context)
    assert greedy.decisions[0].tolist() == controller.greedy(context).tolist()


@pytest.mark.parametrize("name", ["LSTM", "Factorised"])
def test_a_uniform_number_takes_the_choice_in_whose_share_it_lies(name: str) -> None:
    rows = ControllerRows(make(name))
    archs = every()
    with torch.no_grad():
        for step, size in enumerate(SIZES):
            # The shares of all choices after the same decisions before.
            others = archs.unsqueeze(1).repeat(1, size, 1)
            others[:, :, step] = torch.arange(size)
            share = rows(others.flatten(0, 1)).log_probs[:, step].exp().view(-1, size)
            upper = share.cumsum(1).gather(1, archs[:, step : step + 1])
            own = share.gather(1, archs[:, step : step + 1])
            for inside in (0.001, 0.999):
                uniforms = torch.zeros(len(archs), len(SIZES), dtype=torch.float64)
                uniforms[:, step : step + 1] = upper - (1 - inside) * own
                before = replayed_uniforms(rows, archs[:, :step])
                uniforms[:, :step] = before
                assert torch.equal(rows(uniforms=uniforms).decisions[:, : step + 1], archs[:, : step + 1])
        assert int(rows(uniforms=torch.full((1, 3), 1 - 1e-16)).decisions[0, 2]) == 3


def replayed_uniforms(rows: ControllerRows, prefix: torch.Tensor) -> torch.Tensor:
    """Return numbers in the middle of the shares of the choices of ``prefix [n, t]``."""
    found = torch.zeros(prefix.shape, dtype=torch.float64)
    for step in range(prefix.shape[1]):
        archs = torch.zeros(len(prefix), SIZES[step], len(SIZES), dtype=torch.int64)
        archs[:, :, :step] = prefix[:, None, :step]
        archs[:, :, step] = torch.arange(SIZES[step])
        share = rows(archs.flatten(0, 1)).log_probs[:, step].exp().view(len(prefix), -1)
        chosen = prefix[:, step : step + 1]
        found[:, step] = (share.cumsum(1).gather(1, chosen) - share.gather(1, chosen) / 2)[:, 0]
    return found


def test_rows_are_mapped_over_tasks_with_parameters_of_their_own() -> None:
    rows = ControllerRows(make("LSTM"))
    params = {name: torch.stack([value, 2 * value]) for name, value in rows.state_dict().items()}
    found = vmap(lambda p: functional_call(rows, p, (every(),)).log_probs)(params)
    for task in range(2):
        own = {name: value[task] for name, value in params.items()}
        torch.testing.assert_close(found[task], functional_call(rows, own, (every(),)).log_probs)


def test_a_controller_with_another_kind_of_state_is_refused() -> None:
    with pytest.raises(InputError, match="controller=ENAS: cannot take many decisions at once; choose one of LSTM"):
        ControllerRows(make("ENAS"))
