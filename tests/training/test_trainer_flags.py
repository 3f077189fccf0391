"""The written-down Trainer table against the installed Lightning."""

import inspect

import pytest
import pytorch_lightning as pl

from training.legacy import FIXED, RENAMED
from training.trainer_flags import TRAINER_FLAGS

SIGNATURE = inspect.signature(pl.Trainer.__init__).parameters
#: Where ours differ on purpose.
OWN_DEFAULTS = {
    "num_sanity_val_steps": 0,
    "enable_checkpointing": True,
    "enable_progress_bar": True,
    "enable_model_summary": False,
    "enable_autolog_hparams": False,
}


def test_every_parameter_of_the_trainer_is_a_flag_or_fixed_or_translated() -> None:
    flags = {flag.name for flag in TRAINER_FLAGS}
    translated = {"val_check_interval", *(set(RENAMED) & set(SIGNATURE))}
    assert flags | (set(FIXED) & set(SIGNATURE)) | translated == set(SIGNATURE) - {"self"}
    assert not flags & set(FIXED)


@pytest.mark.parametrize("flag", TRAINER_FLAGS, ids=lambda flag: flag.name)
def test_defaults_are_lightnings_or_our_own(flag: object) -> None:
    name: str = flag.name  # type: ignore[attr-defined]
    default = flag.default  # type: ignore[attr-defined]
    assert default == OWN_DEFAULTS.get(name, SIGNATURE[name].default)
