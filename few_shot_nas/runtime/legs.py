"""The legs of a run: what each start of it was told, and how long it trained. Kept in the checkpoints."""

import time
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

_KINDS: dict[str, Any] = {"meta_steps": list, "seconds": (int, float), "flags": dict, "command": str, "hardware": str}


def legs_of(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the legs in a checkpoint, the oldest first; none in one of a version that kept none.

    Raises:
        ValueError: if the entry is not a list of legs.
    """
    callbacks = content.get("callbacks")
    entry = callbacks.get(Legs.__name__, {"legs": []}) if isinstance(callbacks, dict) else {"legs": []}
    found: Any = entry.get("legs") if isinstance(entry, dict) else None
    for leg in found if isinstance(found, list) else [found]:
        if not isinstance(leg, dict) or not all(isinstance(leg.get(key), kind) for key, kind in _KINDS.items()):
            raise ValueError(f"its legs hold {str(leg):.80}")
    return list(found)


def fresh_optimizers(module: Any) -> list[Any]:
    """Return the optimizers of a module as they start: none, one or several."""
    made = module.configure_optimizers()
    if made is None:
        return []
    return list(made) if isinstance(made, list | tuple) else [made]


class Legs(Callback):
    """Counts the meta-steps and the seconds of training of this leg, and carries the earlier legs along.

    A leg that was killed counts up to its last checkpoint: what came after it is done again. So the seconds of all legs
    are those that the weights have cost, not those that were lost.

    When a leg begins, the optimizer's settings are set to those of the flags: a checkpoint restores the settings of the
    leg before, and a flag such as ``outer_lr`` would be recorded without having any effect.

    Args:
        flags: every flag of this leg by name, plain values.
        command: the command line.

    Attributes:
        earlier: the legs before this one.
    """

    def __init__(self, flags: Mapping[str, Any], command: str) -> None:
        self.flags, self.command = dict(flags), command
        self.earlier: list[dict[str, Any]] = []
        self.hardware = ""
        self._module: Any = None
        self._first = 0
        self._started = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Begin the leg."""
        self._module, self._first = pl_module, int(pl_module.meta_step)
        made = fresh_optimizers(pl_module)
        # A module that trains nothing has none, and the Trainer a stand-in.
        for optimizer, fresh in zip(trainer.optimizers if made else [], made, strict=True):
            for group, wanted in zip(optimizer.param_groups, fresh.param_groups, strict=True):
                group.update({name: value for name, value in wanted.items() if name != "params"})

    def current(self) -> dict[str, Any]:
        """Return this leg up to now."""
        return {
            "meta_steps": [self._first, self._first if self._module is None else int(self._module.meta_step)],
            "seconds": time.monotonic() - self._started,
            "flags": self.flags,
            "command": self.command,
            "hardware": self.hardware,
        }

    def all(self) -> list[dict[str, Any]]:
        """Return the earlier legs and this one, which is left out where it has trained nothing and others have."""
        current = self.current()
        idle = current["meta_steps"][0] == current["meta_steps"][1]
        return self.earlier if idle and self.earlier else [*self.earlier, current]

    def state_dict(self) -> dict[str, Any]:
        """Return all legs."""
        return {"legs": self.all()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the legs of the checkpoint as the earlier ones."""
        self.earlier = list(state_dict["legs"])
