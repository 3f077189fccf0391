"""The ladder: from the controller of the original experiment to one with all remedies, and back by one remedy each."""

from dataclasses import replace
from functools import partial
from typing import Any

from few_shot_nas.tabular.methods import LABEL_FREE, Outcome, Setting, meta_learned_controller
from few_shot_nas.tabular.simulator import SimulatedLoop


def _remedies(setting: Setting) -> tuple[SimulatedLoop, list[tuple[str, dict[str, Any]]]]:
    """Return the loop of the original experiment, and the switches that mend it, in order, each with its name.

    A switch that needs label-free rewards is left out without them, and so is one that needs a third replicate.
    """
    has_loo = setting.loop.inner_reward in LABEL_FREE
    loop = replace(
        setting.loop, estimator="naive", inner_archs=1, outer_archs=1, inner_baseline="none", outer_baseline="none",
        inner_reward="accuracy", outer_reward="accuracy", kl_target=None, common=setting.train.replicates < 3,
    )  # fmt: skip
    return loop, [
        ("baseline", {"inner_baseline": "moving_average", "outer_baseline": "moving_average"}),
        ("K4_loo", {"inner_archs": 4, "inner_baseline": "leave_one_out"}),
        ("per_task", {"outer_baseline": "per_task"}),
        *([] if loop.common else [("crn", dict[str, Any](common=True))]),
        ("ce_reward", {"inner_reward": "loss", "outer_reward": "loss"}),
        ("emaml", {"estimator": "emaml"}),
        ("kl_tuned", {"kl_target": 0.05}),
        *([("label_free", dict[str, Any](inner_reward=setting.loop.inner_reward))] if has_loo else []),
        ("conditioned", {"conditioned": True}),
    ]


def ladder(setting: Setting) -> dict[str, "partial[Outcome]"]:
    """Return the ladder that finds what failed: it starts at one sample without baseline and adds a switch per rung."""
    loop, switches = _remedies(setting)
    rungs: dict[str, partial[Outcome]] = {}
    for place, (name, change) in enumerate([("original", {}), *switches]):
        loop = replace(loop, **change)
        rungs[f"L{place}_{name}"] = partial(meta_learned_controller, setting, loop)
    return rungs


def ablations(setting: Setting) -> dict[str, "partial[Outcome]"]:
    """Return, for each switch, the last rung of :func:`ladder` without that switch.

    What is a rung of the ladder already is left out.
    """
    start, switches = _remedies(setting)
    rungs = [rung.args[1] for rung in ladder(setting).values()]

    def without(name: str) -> SimulatedLoop:
        kept = [change for own, change in switches if own != name]
        return replace(start, **{key: value for change in kept for key, value in change.items()})

    loops = {f"R_without_{name}": without(name) for name, _ in switches}
    return {name: partial(meta_learned_controller, setting, loop) for name, loop in loops.items() if loop not in rungs}
