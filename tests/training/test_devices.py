"""Devices and strategies that flags turn into."""

from typing import Any

import pytest
import torch

import training.devices
from few_shot_nas.errors import InputError
from training.trainer_flags import TRAINER_FLAGS


@pytest.fixture(autouse=True)
def no_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)


def hardware(gpus: int, monkeypatch: pytest.MonkeyPatch, **given: Any) -> tuple[str, Any, str]:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    found = training.devices.hardware({**{flag.name: flag.default for flag in TRAINER_FLAGS}, **given})
    return found["accelerator"], found["devices"], found["strategy"]


@pytest.mark.parametrize(
    ("gpus", "given", "expected"),
    [
        (0, {}, ("auto", 1, "auto")),
        (0, {"strategy": "ddp"}, ("auto", 1, "auto")),
        (0, {"devices": -1}, ("auto", 1, "auto")),
        (0, {"accelerator": "cpu", "devices": 2}, ("cpu", 2, "episodic_ddp")),
        (0, {"accelerator": "cpu", "devices": 2, "strategy": "ddp"}, ("cpu", 2, "episodic_ddp")),
        (1, {"strategy": "ddp"}, ("auto", "auto", "auto")),
        (4, {}, ("auto", "auto", "episodic_ddp")),
        (4, {"devices": -1}, ("auto", -1, "episodic_ddp")),
        (4, {"accelerator": "gpu", "devices": "0,"}, ("gpu", "0,", "auto")),
        (4, {"accelerator": "gpu", "devices": "[0, 3]"}, ("gpu", "0, 3", "episodic_ddp")),
        (4, {"accelerator": "cpu"}, ("cpu", 1, "auto")),
        (1, {"num_nodes": 2}, ("auto", "auto", "episodic_ddp")),
    ],
)
def test_several_devices_get_the_episodic_strategy_and_one_gets_none(
    monkeypatch: pytest.MonkeyPatch, gpus: int, given: dict[str, Any], expected: tuple[str, Any, str]
) -> None:
    assert hardware(gpus, monkeypatch, **given) == expected


def test_the_processes_that_torchrun_started_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert hardware(0, monkeypatch) == ("auto", 2, "episodic_ddp")


@pytest.mark.parametrize(
    ("gpus", "given", "message"),
    [
        (0, {"accelerator": "gpu"}, "--accelerator=gpu --devices=auto: this machine has 0 GPUs"),
        (1, {"accelerator": "cuda", "devices": 2}, "--accelerator=cuda --devices=2: this machine has 1 GPUs"),
        (2, {"devices": "0,1,2"}, "--accelerator=auto --devices=0,1,2: this machine has 2 GPUs"),
        (0, {"devices": 0}, "--devices=0: expected auto"),
        (0, {"devices": "some"}, "--devices=some: expected auto"),
        (0, {"strategy": "ddp_find_unused_parameters_true"}, "would not average functional gradients"),
    ],
)
def test_what_the_machine_cannot_do_is_refused(
    monkeypatch: pytest.MonkeyPatch, gpus: int, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        hardware(gpus, monkeypatch, **given)


@pytest.mark.parametrize("devices", [99999, "99999", "0", "-2", "1,x", "9" * 5000, "[", ""])
def test_odd_numbers_of_devices_start_nothing(monkeypatch: pytest.MonkeyPatch, devices: Any) -> None:
    with pytest.raises(InputError, match="--devices=") as caught:
        hardware(0, monkeypatch, accelerator="cpu", devices=devices)
    assert "\n" not in str(caught.value)
